"""The history of one id: read whole, appended to by one writer at a time, all or nothing."""

import asyncio

import pytest

from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal, sequence_of
from tars.schemas.errors import Conflict
from tars.schemas.message import By
from tars.schemas.update import UpdateConfirmed, UpdateEvent, UpdateReleased, UpdateStarted

pytestmark = pytest.mark.anyio
ADA = By(principal="ada")
RELEASED: UpdateEvent = UpdateReleased(update_id="u1", by=ADA)
STARTED: UpdateEvent = UpdateStarted(update_id="u1", agents=("a",))
CONFIRMED: UpdateEvent = UpdateConfirmed(update_id="u1")


async def test_what_is_appended_is_read_back_in_order_with_its_cause_and_time(bus: Bus) -> None:
    journal = Journal(bus)
    nothing: History[UpdateEvent] = await journal.read("update", "u1")
    await journal.append([RELEASED, STARTED], nothing, cause="c1")
    history: History[UpdateEvent] = await journal.read("update", "u1")
    assert history.events == (RELEASED, STARTED)
    assert [entry.id for entry in history.entries] == ["c1:0", "c1:1"]
    assert history.entries[0].time <= history.entries[1].time
    assert history.caused_by("c1") == (RELEASED, STARTED)


async def test_an_id_without_events_has_version_0_and_others_are_not_read(bus: Bus) -> None:
    journal = Journal(bus)
    await journal.append([RELEASED], await journal.read("update", "u1"), cause="c1")
    other: History[UpdateEvent] = await journal.read("update", "u2")
    assert (other.version, other.events) == (0, ())


async def test_a_stale_version_stores_nothing_of_a_batch(bus: Bus) -> None:
    journal = Journal(bus)
    nothing: History[UpdateEvent] = await journal.read("update", "u1")
    await journal.append([RELEASED], nothing, cause="c1")
    with pytest.raises(Conflict):
        await journal.append([STARTED, CONFIRMED], nothing, cause="c2")
    now: History[UpdateEvent] = await journal.read("update", "u1")
    assert now.events == (RELEASED,)


async def test_a_message_delivered_twice_is_decided_once(bus: Bus) -> None:
    journal = Journal(bus)
    await journal.append([RELEASED, STARTED], await journal.read("update", "u1"), cause="c1")
    again = await journal.append([CONFIRMED], await journal.read("update", "u1"), cause="c1")
    history: History[UpdateEvent] = await journal.read("update", "u1")
    assert again == (RELEASED, STARTED)
    assert history.events == (RELEASED, STARTED)


async def test_of_rivals_at_one_version_one_wins_and_the_others_know(bus: Bus) -> None:
    journal = Journal(bus)
    nothing: History[UpdateEvent] = await journal.read("update", "u1")
    rivals = [journal.append([RELEASED, STARTED], nothing, cause=f"c{n}") for n in range(8)]
    results = await asyncio.gather(*rivals, return_exceptions=True)
    history: History[UpdateEvent] = await journal.read("update", "u1")
    assert sum(isinstance(result, Conflict) for result in results) == 7
    assert len(history.entries) == 2


async def test_a_long_history_is_read_page_by_page(bus: Bus) -> None:
    journal = Journal(bus)
    history: History[UpdateEvent] = await journal.read("update", "u1")
    for n in range(6):
        await journal.append([STARTED] * 50, history, cause=f"c{n}")
        history = history.extended(await journal.read("update", "u1", after=history.version))
    whole: History[UpdateEvent] = await journal.read("update", "u1")
    assert whole == history
    assert len(whole.entries) == 300


async def test_a_page_that_the_server_cut_short_is_not_the_end(bus: Bus) -> None:
    """It sends some 64 MB at once, however many messages were asked for."""
    for n in range(25):
        await bus.jetstream.publish(f"tars.dead.REPORTS.x{n % 2}", bytes(3_000_000), stream="DEAD")
    journal = Journal(bus)
    assert len(await journal.page("DEAD", 1, 25)) < 25
    assert [sequence_of(message) async for message in journal.stored("DEAD")] == list(range(1, 26))
