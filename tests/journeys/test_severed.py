"""The network between the server and its workers makes everything vanish, for longer than the lease, under commands."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from accounting import Account, account
from clusters import DEPLOY, Deployed
from elsewhere import host, is_ready, work
from herd import Herd, Program
from namespaces import NEAR, Namespace, Strait, inside, lacking
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from traffic import Traffic

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ACK_WAIT = 2.0
SEED = 20261129
COMMANDS = 400
BY_THE_SERVER, ELSEWHERE = ("b0", "b1"), ("a0", "a1", "a2", "a3")


class Side:
    """A sync worker and a host of agents at one end of the strait; whoever ends stays ended."""

    def __init__(self, namespace: Namespace, log: Path, agents: tuple[str, ...]) -> None:
        self.agents, self._namespace, self._log = agents, namespace, log
        programs: Mapping[str, Program] = {
            "sync": partial(work, namespace.pid),
            "agents": partial(host, namespace.pid, *agents),
        }
        environment = {"NATS_URL": f"nats://{NEAR}:4222", "USE_REDIS": "false", "RATE_LIMIT_PER_MINUTE": "0"}
        self.herd = Herd(environment | {"ACK_WAIT_SECONDS": str(ACK_WAIT)}, log, 0, programs)

    async def start(self) -> None:
        """Start both."""
        for name in ("sync", "agents"):
            await self.herd.start(name)

    def ready(self) -> dict[str, bool]:
        """By worker, what it says of itself to those who are where it is."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if '"listening"' in line]
        return {line["worker"]: self._namespace.ask(partial(is_ready, line["port"])) for line in lines}


class Severed:
    """A server and those who send to it, workers elsewhere, and the strait between them."""

    def __init__(self, strait: Strait, bus: Bus, folder: Path) -> None:
        self.strait, self.bus = strait, bus
        self.there = Side(strait.far, folder / "there.log", ELSEWHERE)
        self.here = Side(strait.near, folder / "here.log", BY_THE_SERVER)
        self.traffic = Traffic(bus, SEED, COMMANDS)

    async def start(self, *sides: Side) -> None:
        """Start workers and wait for their agents; then commands begin to flow to these."""
        for side in sides:
            await side.start()
        names = [name for side in sides for name in side.agents]
        await until(partial(self._run, names))
        self._flowing = asyncio.create_task(self.traffic.flow(names))

    async def _run(self, names: list[str]) -> bool:
        found = [await self.bus.last("EVENTS", f"tars.event.agent.started.v1.{name}") for name in names]
        return None not in found

    async def answered(self, count: int) -> None:
        """Wait until so many more commands are answered."""
        enough = len(self.traffic.told) + count
        await until(partial(self._told, enough))

    async def _told(self, enough: int) -> bool:
        return len(self.traffic.told) >= enough

    async def account(self) -> Account:
        """Wait until all is sent and has come to its end, at most for so long; and give the account."""
        await self._flowing
        await until(self._is_quiet)
        return self.found

    async def _is_quiet(self) -> bool:
        self.found = await account(self.bus, self.traffic.sent, self.traffic.told)
        return not (self.found.waiting or self.found.unfinished or self.found.behind)

    async def stop(self) -> None:
        """End all."""
        self._flowing.cancel()
        await self.here.herd.stop()
        await self.there.herd.stop()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await true():
            await asyncio.sleep(0.1)


@pytest.fixture
def strait() -> Iterator[Strait]:
    if reason := lacking():
        pytest.skip(reason)
    forkserver.ensure_running()  # or it, and every herd after, would be inside
    with Strait() as found, inside(found.near):
        yield found


@pytest.fixture
async def severed(strait: Strait, tmp_path: Path) -> AsyncIterator[Severed]:
    server = Deployed(
        DEPLOY / "hub.conf", tmp_path / "hub.log", NATS_LISTEN='"0.0.0.0:4222"', NATS_HTTP='"127.0.0.1:-1"',
        NATS_STORE=f'"{tmp_path / "js"}"', NATS_LEAFNODES='"127.0.0.1:7422"',
    )  # fmt: skip
    bus = await connect_bus("nats://127.0.0.1:4222", "test", patience=20)
    await provision(bus.jetstream, ack_wait=ACK_WAIT)
    found = Severed(strait, bus, tmp_path)
    yield found
    await found.stop()
    await bus.close()
    server.kill()


def once_each(found: Account, traffic: Traffic) -> None:
    """Every command has one outcome, every effect happened once, and agents run the newest values."""
    assert (found.unanswered, found.contradicted, found.waiting, found.unfinished) == ([], [], 0, [])
    assert (found.doubled, found.doubled_events, found.illegal, found.behind) == ([], [], [], [])
    assert max(found.configurations.values()) == max(found.reloads.values()) == 1
    assert found.letters == Counter((name, "malformed") for name in traffic.unreadable)
    assert len(traffic.told) >= COMMANDS


async def test_workers_that_are_cut_off_until_both_ends_know_go_on_by_themselves(severed: Severed) -> None:
    """Half a minute of silence and a connection counts as lost, though nobody closed it: then nobody says ready."""
    await severed.start(severed.there)
    await severed.answered(COMMANDS // 4)
    severed.strait.cut()
    await asyncio.sleep(ACK_WAIT)
    told = len(severed.traffic.told)
    await until(partial(says, severed.there, {"sync": False, "agents": False}))
    assert len(severed.traffic.told) == told
    assert (await severed.bus.stream("COMMANDS")).state.messages > 0
    severed.strait.heal()
    once_each(await severed.account(), severed.traffic)
    await until(partial(says, severed.there, {"sync": True, "agents": True}))


async def test_a_worker_that_is_cut_off_past_its_lease_and_comes_back_doubles_nothing(severed: Severed) -> None:
    """Meanwhile one beside the server does its work; its connection lives, and what it had sent arrives late."""
    await severed.start(severed.there, severed.here)
    await severed.answered(COMMANDS // 4)
    severed.strait.cut()
    await asyncio.sleep(3 * ACK_WAIT)
    await severed.answered(1)
    severed.strait.heal()
    once_each(await severed.account(), severed.traffic)
    for side in (severed.there, severed.here):
        await until(partial(says, side, {"sync": True, "agents": True}))


async def says(side: Side, wanted: dict[str, bool]) -> bool:
    """Whether workers say this of themselves."""
    return await asyncio.to_thread(side.ready) == wanted


async def test_who_has_much_to_say_leaves_a_server_that_vanished_for_another(strait: Strait, tmp_path: Path) -> None:
    """Closing does not wait until all is sent that nobody takes any more: TCP would try for a quarter of an hour."""
    server = bare_server(tmp_path / "near.log")
    try:
        assert "127.0.0.1" in await asyncio.to_thread(strait.far.ask, lambda: asyncio.run(moves(strait, tmp_path)))
    finally:
        server.kill()


async def moves(strait: Strait, folder: Path) -> str:
    """Talk to the server across the strait until it is gone, and then to the one that is here; return its address."""
    bus = await connect_bus(f"nats://{NEAR}:4222,nats://127.0.0.1:4222", "test", patience=20)
    strait.cut()
    other = bare_server(folder / "far.log")
    try:
        async with asyncio.timeout(120):
            while bus.client.connected_url is None or NEAR in bus.client.connected_url.netloc:
                with suppress(NatsError):
                    await bus.client.publish("tars.report.agent.beat.v1.a", bytes(100_000))
                await asyncio.sleep(0.05)
        return bus.client.connected_url.netloc
    finally:
        await bus.close()
        other.kill()


def bare_server(log: Path) -> Deployed:
    """A nats-server without streams in the network of this thread."""
    config = log.with_suffix(".conf")
    config.write_text('listen: "0.0.0.0:4222"')
    return Deployed(config, log)
