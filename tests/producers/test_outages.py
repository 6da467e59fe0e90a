"""A script while NATS is away, frozen or not provisioned: nothing is sent late, nothing unknown is claimed."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest

from examples import EXAMPLES
from tars.producers import async_client
from tars.producers.agent_reports import KEPT, Reporter
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.producers.client import connect
from tars.producers.commands import CommandRefused, NotSent, OutcomeUnknown
from tars.runtime import bus as bus_module
from tars.runtime.bus import Bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats
from tars.schemas.message import Answer
from tars.schemas.update import ApproveUpdate, UpdateConfirmed

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
APPROVE = ApproveUpdate(update_id="u1")


@pytest.fixture
async def client(nats_server: Server, bus: Bus, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """A client that finds a publish unacknowledged after a short time."""
    monkeypatch.setattr(bus_module, "PUBLISH_TIMEOUT", 0.3)
    async with AsyncClient.connect(nats_server.url, user="ada") as connected:
        yield connected


async def until(true: Callable[[], Awaitable[object] | object]) -> None:
    async with asyncio.timeout(20):
        while not (await found if isinstance(found := true(), Awaitable) else found):
            await asyncio.sleep(0.02)


async def stored(bus: Bus) -> int:
    return (await bus.stream("COMMANDS")).state.messages


def freeze(server: Server) -> None:
    """Stop it, and wait until it has: on a busy machine it answers for a moment longer."""
    os.kill(server.pid, signal.SIGSTOP)
    while psutil.Process(server.pid).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)


def again(server: Server, folder: Path) -> Server:
    """Start a killed server again, on its port and its data."""
    return start_nats(folder / "nats", port=int(server.url.rpartition(":")[2]))


async def test_without_a_stream_a_command_is_not_sent_and_it_says_what_to_run(
    nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_client, "ELECTION_SECONDS", 0.5)
    async with AsyncClient.connect(nats_server.url) as client:
        with pytest.raises(NotSent, match="tars provision"):
            await client.send(APPROVE)


async def test_a_command_waits_for_a_stream_that_has_no_leader_for_a_while(client: AsyncClient, bus: Bus) -> None:
    """As long as one is chosen, a stream of several servers answers as one that there is not."""
    await bus.jetstream.delete_stream("COMMANDS")
    sending = asyncio.create_task(client.send(APPROVE))
    await asyncio.sleep(1)
    await provision(bus.jetstream, ack_wait=2.0)
    await until(partial(stored, bus))
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_while_nats_is_away_a_command_is_not_sent_and_not_sent_later_either(
    client: AsyncClient, bus: Bus, nats_server: Server, tmp_path: Path
) -> None:
    nats_server.kill()
    await until(lambda: not client.bus.client.is_connected)
    with pytest.raises(NotSent, match="NATS is away"):
        await client.send(APPROVE)
    back = again(nats_server, tmp_path)
    await until(lambda: client.bus.client.is_connected and bus.client.is_connected)
    await client.bus.client.flush()
    assert await stored(bus) == 0
    await bus.client.close()
    await client.bus.client.close()
    back.stop()


async def test_a_command_that_nobody_acknowledged_is_sent_again_under_its_id_and_stored_once(
    client: AsyncClient, bus: Bus, nats_server: Server
) -> None:
    freeze(nats_server)
    sending = asyncio.create_task(client.send(APPROVE, command_id="c1"))
    await asyncio.sleep(1.0)  # several attempts: each waits in the frozen server
    os.kill(nats_server.pid, signal.SIGCONT)
    await until(lambda: stored(bus))
    await bus.answer(f"tars.reply.{client.name}.c1", Answer(command_id="c1", done=True, events=("x",)))
    assert (await sending).events == ("x",)
    assert await stored(bus) == 1


async def test_a_command_that_may_have_been_stored_is_not_said_to_be_unsent_when_the_server_then_dies(
    client: AsyncClient, bus: Bus, nats_server: Server, tmp_path: Path
) -> None:
    freeze(nats_server)
    sending = asyncio.create_task(client.send(APPROVE, command_id="c1"))
    await asyncio.sleep(0.5)  # the first attempt is over: nobody knows what the frozen server will do with it
    nats_server.kill()
    await until(lambda: not client.bus.client.is_connected)
    await asyncio.sleep(0.5)  # the next attempts find no server
    assert not sending.done()
    back = again(nats_server, tmp_path)
    await until(lambda: bus.client.is_connected)
    await until(lambda: stored(bus))
    await bus.answer(f"tars.reply.{client.name}.c1", Answer(command_id="c1", done=True, events=("x",)))
    assert (await sending).events == ("x",)
    assert await stored(bus) == 1
    await bus.client.close()
    await client.bus.client.close()
    back.stop()


async def test_a_command_never_acknowledged_has_an_unknown_outcome_and_its_id_is_told(
    client: AsyncClient, nats_server: Server
) -> None:
    soon = APPROVE.model_copy(update={"deadline": datetime.now(UTC) + timedelta(seconds=0.5)})
    freeze(nats_server)
    try:
        with pytest.raises(OutcomeUnknown, match="may have been stored") as caught:
            await client.send(soon, command_id="c1")
    finally:
        os.kill(nats_server.pid, signal.SIGCONT)
    assert caught.value.command_id == "c1"


async def test_following_goes_on_through_an_outage(
    client: AsyncClient, bus: Bus, nats_server: Server, tmp_path: Path
) -> None:
    async def heard() -> list[str]:
        return [e.kind async for e in client.follow("update", "u1", lambda event: isinstance(event, UpdateConfirmed))]

    await bus.publish(EXAMPLES["update.released.v1"].model_copy(update={"update_id": "u1"}), id="e1")
    following = asyncio.create_task(heard())
    nats_server.kill()
    await until(lambda: not bus.client.is_connected)
    await asyncio.sleep(1.5)  # it looks into the ledger while there is none
    assert not following.done()
    back = again(nats_server, tmp_path)
    await until(lambda: bus.client.is_connected)
    await bus.publish(UpdateConfirmed(update_id="u1"), id="e2")
    assert await asyncio.wait_for(following, 20) == ["update.released.v1", "update.confirmed.v1"]
    await bus.client.close()
    await client.bus.client.close()
    back.stop()


async def test_an_error_in_a_script_is_not_hidden_by_a_server_that_went_away(nats_server: Server, bus: Bus) -> None:
    def script() -> None:
        with connect(nats_server.url) as client:
            nats_server.kill()
            client.agents()

    with pytest.raises(NobodyAnswers):
        await asyncio.to_thread(script)


async def test_what_no_message_can_hold_is_refused_before_anything_is_sent(nats_server: Server, bus: Bus) -> None:
    def script() -> None:
        with connect(nats_server.url) as client:
            for attempt in (
                lambda: client.approve("u 1"),
                lambda: client.reject("u1", "x" * 1001),
                lambda: client.propose({"gamma": True}, agents=("a",)),
                lambda: client.propose({"gamma": 0.9}),
                lambda: client.propose({"gamma": 0.9}, role="policy", agents=("a",)),
                client.start_study,
                lambda: client.start_study(role="policy", trials=0),
                lambda: client.history("x" * 65),
            ):
                with pytest.raises(CommandRefused):
                    attempt()

    await asyncio.to_thread(script)
    assert await stored(bus) == 0


async def test_reports_dropped_for_newer_ones_are_counted(bus: Bus) -> None:
    reporter = Reporter(bus)
    for _ in range(KEPT + 5):
        reporter.report(EXAMPLES["agent.beat.v1"])  # type: ignore[arg-type] # it is a report
    assert reporter.lost == 5
