"""Reports: sent without waiting, from any thread; what cannot be sent is lost and counted, and nobody is held up."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples import EXAMPLES
from tars.producers.agent_reports import KEPT, Reporter
from tars.runtime.bus import Bus
from tars.runtime.servers import Server, start_nats
from tars.schemas.agent import AgentReported

pytestmark = pytest.mark.anyio


def reported(episode: int) -> AgentReported:
    return AgentReported.model_validate(EXAMPLES["agent.reported.v1"].model_dump() | {"episode": episode})


@pytest.fixture
async def reporter(bus: Bus) -> AsyncIterator[Reporter]:
    reporter = Reporter(bus)
    running = asyncio.create_task(reporter.run())
    yield reporter
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def stored(bus: Bus, count: int) -> None:
    async with asyncio.timeout(10):
        while (await bus.stream("REPORTS")).state.messages < count:
            await asyncio.sleep(0.02)


async def test_reports_of_several_threads_all_arrive_each_in_its_order(bus: Bus, reporter: Reporter) -> None:
    def play(start: int) -> None:
        for episode in range(start, start + 50):
            reporter.report(reported(episode))

    threads = [threading.Thread(target=play, args=(start,)) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    await stored(bus, 100)
    messages = [await bus.jetstream.get_msg("REPORTS", seq=number) for number in range(1, 101)]
    episodes = [AgentReported.model_validate_json(message.data or b"").episode for message in messages]
    assert [e for e in episodes if e < 1000] == list(range(50))
    assert [e for e in episodes if e >= 1000] == list(range(1000, 1050))
    assert reporter.lost == 0


async def test_while_nats_is_away_reports_are_lost_and_counted_and_later_ones_arrive(
    bus: Bus, reporter: Reporter, nats_server: Server, tmp_path: Path
) -> None:
    nats_server.kill()
    async with asyncio.timeout(10):
        while bus.client.is_connected:
            await asyncio.sleep(0.02)
    for episode in range(7):
        reporter.report(reported(episode))
    async with asyncio.timeout(10):
        while reporter.lost < 7:
            await asyncio.sleep(0.02)
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    async with asyncio.timeout(10):
        while not bus.client.is_connected:
            await asyncio.sleep(0.02)
    reporter.report(reported(99))
    await stored(bus, 1)
    last = await bus.jetstream.get_msg("REPORTS", seq=1)
    assert AgentReported.model_validate_json(last.data or b"").episode == 99
    assert reporter.lost == 7
    await bus.client.close()
    again.stop()


async def test_what_waits_is_bounded_and_the_newest_stays(bus: Bus) -> None:
    reporter = Reporter(bus)
    for episode in range(KEPT + 5):
        reporter.report(reported(episode))
    running = asyncio.create_task(reporter.run())
    await stored(bus, KEPT)
    running.cancel()
    first = await bus.jetstream.get_msg("REPORTS", seq=1)
    assert AgentReported.model_validate_json(first.data or b"").episode == 5
