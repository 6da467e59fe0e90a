"""An old and a new release side by side: no command is lost, and nobody who is too old dies of it or lies about it."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from examples import AGENT, EXAMPLES
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.runtime.servers import Server
from tars.runtime.view_store import RedisViews
from tars.schemas.message import By
from tars.schemas.queries import Ask
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TESTS = Path(__file__).parents[1]
NEXT = "next_release"
"""The module that is the next release."""
AT_ONCE = 6
"""Updates on their way at a time: enough for every worker to get some of the commands."""
SIDE_BY_SIDE = 6
"""Updates that new workers approve before the next step of the upgrade: the old one gets some of the next commands."""
ADA = By(principal="ada")


class Workers:
    """Processes of `tars run ROLE`, of this release or the next one."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = os.environ | environment
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str, release: str = "tars") -> None:
        """Start one; `name` is its role, with a number behind a dash. release: the module that is run."""
        words = ("-m", release, "run", name.partition("-")[0], "--port", "0")
        self._processes[name] = await asyncio.create_subprocess_exec(sys.executable, *words, env=self._environment)

    async def end(self, name: str) -> None:
        """Ask one to end, as an upgrade does, and wait for it."""
        process = self._processes.pop(name)
        process.terminate()
        await process.wait()

    async def stop(self) -> None:
        """Ask all to end."""
        for name in [*self._processes]:
            await self.end(name)


@pytest.fixture
async def workers(nats_server: Server, valkey: Server, bus: Bus, tmp_path: Path) -> AsyncIterator[Workers]:
    """Workers of either release, on servers of their own; one agent that runs."""
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
    found = Workers(
        {
            "NATS_URL": nats_server.url, "REDIS_URL": valkey.url, "LOG_LEVEL": "ERROR", "RATE_LIMIT_PER_MINUTE": "0",
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]), "TARS_DATA": str(tmp_path),
        }
    )  # fmt: skip
    yield found
    await found.stop()


async def none_left(bus: Bus) -> bool:
    return (await bus.stream("COMMANDS")).state.messages == 0


async def until(true: Callable[[], Awaitable[object]]) -> None:
    """Wait until it is so; nobody may answer yet."""
    async with asyncio.timeout(90):
        while True:
            try:
                if await true():
                    return
            except NobodyAnswers:
                pass
            await asyncio.sleep(0.1)


async def written(bus: Bus, update_id: str) -> list[tuple[str, dict[str, Any]]]:
    """Kinds and bodies of an update's events, whether this release can read them or not."""
    page = await Journal(bus).page("EVENTS", 1, 1000, f"tars.event.update.*.*.{update_id}")
    subjects = [(message.headers or {})["Nats-Subject"] for message in page]
    return [(".".join(s.split(".")[3:5]), json.loads(m.data)) for s, m in zip(subjects, page, strict=True)]


def proposal(update_id: str) -> ProposeUpdate:
    return ProposeUpdate(update_id=update_id, agents=(AGENT,), values={"gamma": 0.95})


async def one_life(client: AsyncClient, update_id: str) -> None:
    """Propose, approve on hold, reject: each answered before the next is sent."""
    await client.send(proposal(update_id))
    await client.send(ApproveUpdate(update_id=update_id, reason="fine", hold=True))
    await client.send(RejectUpdate(update_id=update_id))


async def test_a_rolling_upgrade_loses_no_command_and_says_each_thing_once(bus: Bus, workers: Workers) -> None:
    """Two old workers, replaced one after the other while commands flow; old ones meet what new ones have written."""
    client, ends = AsyncClient(bus, ADA), asyncio.Event()
    lives: list[str] = []

    async def flow() -> None:
        while not ends.is_set():
            name = f"u{len(lives)}"
            lives.append(name)
            await one_life(client, name)

    async def upgrade() -> None:
        await until(lambda: approvals(bus, "v1", 3))
        await workers.start("sync-3", NEXT)
        await until(lambda: approvals(bus, "v2", SIDE_BY_SIDE))
        await workers.end("sync-1")
        await until(lambda: approvals(bus, "v2", 2 * SIDE_BY_SIDE))
        await workers.start("sync-4", NEXT)
        await workers.end("sync-2")
        ends.set()

    for name in ("sync-1", "sync-2"):
        await workers.start(name)
    async with asyncio.TaskGroup() as group:
        group.create_task(upgrade())
        for _ in range(AT_ONCE):
            group.create_task(flow())
    said = [[kind.split(".")[0] for kind, _ in await written(bus, name)] for name in lives]
    assert [life for life in said if life != ["proposed", "approved", "rejected"]] == []
    await until(partial(none_left, bus))  # what a worker was ended with before it acknowledged comes once more
    assert (await bus.stream("DEAD")).state.messages == 0


async def approvals(bus: Bus, version: str, count: int) -> bool:
    """Whether so many were written in this version of the event."""
    return len(await Journal(bus).page("EVENTS", 1, count, f"tars.event.update.approved.{version}.*")) == count


async def test_a_newer_command_is_put_aside_by_an_old_worker_and_carried_out_after_the_upgrade(
    bus: Bus, workers: Workers
) -> None:
    client = AsyncClient(bus, ADA)
    for name in ("sync-1", "consumers"):
        await workers.start(name)
    await client.send(proposal("u1"))
    body = json.dumps({"kind": "update.approve.v2", "update_id": "u1", "because": "fine", "hold": True}).encode()
    await bus.jetstream.publish("tars.command.update.approve.v2.u1", body, headers={"Nats-Msg-Id": "c-new"})

    async def is_put_aside() -> bool:
        return [(row.id, row.reason, row.not_again) for row in await client.query("dead")] == [
            ("c-new", "newer-version", None)
        ]

    await until(is_put_aside)
    with pytest.raises(CommandRefused, match="newer-version"):
        await client.replay(1)
    await workers.start("sync-2", NEXT)
    await workers.end("sync-1")
    assert (await client.replay(1)).events == ("update.approved.v2",)
    (_, proposed), (kind, approved) = await written(bus, "u1")
    assert (kind, approved["because"]) == ("approved.v2", "fine")
    assert "ticket" not in proposed


async def test_a_new_worker_goes_on_with_what_an_old_one_wrote(bus: Bus, workers: Workers) -> None:
    """It reads the first version by its upcast, decides on it, and shows it."""
    client = AsyncClient(bus, ADA)
    await workers.start("sync-1")
    await client.send(proposal("u1"))
    await client.send(ApproveUpdate(update_id="u1", reason="fine", hold=True))
    await workers.end("sync-1")
    for name in ("sync-2", "consumers"):
        await workers.start(name, NEXT)
    with pytest.raises(CommandRefused, match="approved"):
        await client.send(ApproveUpdate(update_id="u1"))
    await client.send(RejectUpdate(update_id="u1"))
    await until(lambda: shows(client, "u1", "rejected"))
    [row] = await client.query("update", Ask(id="u1"))
    assert (row.history[1].kind, row.history[1].text[-6:]) == ("update.approved.v2", ": fine")


async def test_old_consumers_say_what_they_cannot_read_and_leave_redis_to_new_ones(
    bus: Bus, workers: Workers, valkey: Server
) -> None:
    client, views = AsyncClient(bus, ADA), RedisViews(valkey.url)
    await workers.start("consumers-1")
    await workers.start("sync-1", NEXT)
    await client.send(proposal("u1"))
    await client.send(ApproveUpdate(update_id="u1", hold=True))
    await until(lambda: shows(client, "u1", "pending"))

    async def is_said() -> bool:
        [row] = await client.query("update", Ask(id="u1"))
        return any("update.approved.v2: this version cannot read it" in reason for reason in row.reasons)

    async def stage_in_redis() -> str | None:
        row = await asyncio.to_thread(views.update, "u1")
        return row.stage if row else None

    async def is_approved() -> bool:
        return await stage_in_redis() == "approved"

    await until(is_said)
    await workers.start("consumers-2", NEXT)
    await until(is_approved)
    await client.send(proposal("u2"))
    stages = set()
    for _ in range(30):
        stages.add(await stage_in_redis())
        await asyncio.sleep(0.1)
    assert stages == {"approved"}, "the old one wrote into it"
    await workers.end("consumers-1")
    await until(lambda: shows(client, "u1", "approved"))
    views.close()


async def shows(client: AsyncClient, update_id: str, stage: str) -> bool:
    """Ask the consumers for the update's stage."""
    return [row.stage for row in await client.query("update", Ask(id=update_id))] == [stage]
