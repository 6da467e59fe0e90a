"""The consumers as one worker: it answers when it knows everything, and always answers."""

import asyncio

import pytest
from ledgers import ledger, stored

from tars.consumers.app import worker
from tars.consumers.boards import BOARDS
from tars.consumers.queries import serve_queries
from tars.runtime.bus import Bus
from tars.runtime.settings import Settings
from tars.runtime.view_store import MemoryViews
from tars.schemas.queries import Reply, query_subject, rows_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def views() -> MemoryViews:
    """Views with something of everything."""
    found = MemoryViews(100)
    for stream in ("EVENTS", "TRIALS", "REPORTS"):
        board = BOARDS[stream](86_400)
        for message in stored(ledger(stream, 1, 120)):
            board.fold(message)
        found.apply(board.changes())
    return found


async def ask(bus: Bus, name: str, body: bytes = b"") -> Reply:
    """Ask as a script does."""
    reply = await bus.client.request(query_subject(name), body, timeout=5)
    return Reply.model_validate_json(reply.data)


async def test_a_worker_answers_with_all_that_was_published_before_it_started(bus: Bus, settings: Settings) -> None:
    messages = ledger("EVENTS", 1, 300)
    for message in messages:
        await bus.client.publish(message.subject, message.model_dump_json().encode())
    running = asyncio.create_task(worker(settings).serve(0))
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    (stats,) = rows_of("stats", await ask(bus, "stats"))
                except Exception as error:  # noqa: BLE001 - nobody answers yet
                    assert "no responders" in str(error)  # noqa: PT017 - any other error is a failure
                    await asyncio.sleep(0.02)
                    continue
                break
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert stats.events == len(messages)


async def test_an_answer_too_long_for_a_message_says_so(
    bus: Bus, views: MemoryViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serve_queries(bus, views)
    monkeypatch.setattr(bus.client, "_max_payload", 500)
    assert "fewer rows" in ((await ask(bus, "updates")).error or "")
