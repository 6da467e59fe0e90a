"""A long process goes on at whoever holds its lease, and every step of it is done once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tars.runtime import leases
from tars.runtime.bus import Bus
from tars.runtime.journal import Entry, History, Journal
from tars.runtime.leases import Lease, hold, is_exhausted
from tars.schemas import streams
from tars.schemas.message import By
from tars.schemas.update import (
    UpdateCommandRefused,
    UpdateConfirmed,
    UpdateEvent,
    UpdateReleased,
    UpdateResumed,
    UpdateStarted,
)

ADA = By(principal="ada")
STEPS = 5


async def five_steps(lease: Lease[UpdateEvent]) -> None:
    """Resume, then append STEPS events and an end, slowly."""
    await lease.follow()
    await lease.append(lambda _: [UpdateResumed(update_id=lease.key, holder=lease.holder, delivery=lease.delivery)])
    while not any(isinstance(event, UpdateConfirmed) for event in lease.history.events):
        await lease.append(next_step)
        await asyncio.sleep(0.05)


def next_step(history: History[UpdateEvent]) -> list[UpdateEvent]:
    """The step that the history asks for: a pure decision."""
    done = sum(isinstance(event, UpdateStarted) for event in history.events)
    if done < STEPS:
        return [UpdateStarted(update_id=history.key, agents=(str(done),))]
    return [UpdateConfirmed(update_id=history.key)]


async def release(bus: Bus, update_id: str) -> None:
    history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
    await Journal(bus).append([UpdateReleased(update_id=update_id, by=ADA)], history, cause=f"c-{update_id}")


async def ended(bus: Bus, update_id: str) -> History[UpdateEvent]:
    async with asyncio.timeout(20):
        while True:
            history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
            if any(isinstance(event, UpdateConfirmed) for event in history.events):
                return history
            await asyncio.sleep(0.05)


def steps_of(history: History[UpdateEvent]) -> Counter[str]:
    return Counter(event.agents[0] for event in history.events if isinstance(event, UpdateStarted))


@pytest.mark.anyio
async def test_a_process_runs_to_its_end_and_its_lease_is_acknowledged(bus: Bus) -> None:
    await release(bus, "u1")
    holder = asyncio.create_task(hold(bus, "run-rollout", "h1", five_steps, ack_wait=2))
    history = await ended(bus, "u1")
    await asyncio.sleep(0.2)
    info = await bus.jetstream.consumer_info("EVENTS", "run-rollout")
    holder.cancel()
    assert steps_of(history) == Counter(map(str, range(STEPS)))
    assert info.num_ack_pending == 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_stopping_holder_gives_back_and_the_next_one_goes_on(bus: Bus) -> None:
    await release(bus, "u1")
    first = asyncio.create_task(hold(bus, "run-rollout", "h1", five_steps, ack_wait=2))
    while not steps_of(await Journal(bus).read("update", "u1")):
        await asyncio.sleep(0.02)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(hold(bus, "run-rollout", "h2", five_steps, ack_wait=2))
    history = await ended(bus, "u1")
    second.cancel()
    assert steps_of(history) == Counter(map(str, range(STEPS)))
    assert {event.holder for event in history.events if isinstance(event, UpdateResumed)} == {"h1", "h2"}


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_holder_that_slept_past_its_lease_stops_at_its_next_append(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "AT_ONCE", 1)  # the sleeper must not take its own lease again
    await release(bus, "u1")
    awake = asyncio.Event()
    outcome: list[str] = []

    async def sleepy(lease: Lease[Any]) -> None:
        await lease.follow()
        await lease.append(lambda _: [UpdateResumed(update_id=lease.key, holder=lease.holder, delivery=lease.delivery)])
        await awake.wait()
        await lease.append(next_step)
        outcome.append("appended without the lease")

    first = asyncio.create_task(hold(bus, "run-rollout", "h1", sleepy, ack_wait=3600))  # no heartbeat in time
    second = asyncio.create_task(hold(bus, "run-rollout", "h2", five_steps, ack_wait=2))
    history = await ended(bus, "u1")
    awake.set()
    await asyncio.sleep(0.3)
    after: History[UpdateEvent] = await Journal(bus).read("update", "u1")
    for task in (first, second):
        task.cancel()
    assert after == history
    assert outcome == []


def resumed(*seconds: float) -> list[Entry[UpdateEvent]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        Entry(
            UpdateResumed(update_id="u", holder="h", delivery=n + 1),
            f"x:{n}",
            n + 1,
            start + timedelta(seconds=s),
            None,
        )
        for n, s in enumerate(seconds)
    ]


def history_of(entries: list[Entry[UpdateEvent]]) -> History[UpdateEvent]:
    return History("update", "u", tuple(entries))


def test_five_short_lives_in_a_row_are_enough() -> None:
    assert is_exhausted(history_of(resumed(0, 10, 20, 30, 40)))
    assert not is_exhausted(history_of(resumed(0, 10, 20, 30)))


def test_a_life_that_lasted_breaks_the_row() -> None:
    assert not is_exhausted(history_of(resumed(0, 10, 20, 30, 95)))


def test_a_step_breaks_the_row_and_a_refused_command_does_not() -> None:
    entries = resumed(0, 10, 20, 30, 40)
    step = Entry[UpdateEvent](UpdateStarted(update_id="u", agents=("a",)), "s:0", 9, entries[2].time, None)
    refused = UpdateCommandRefused(update_id="u", by=ADA, command="update.reject.v1", reasons=("no",))
    noise = Entry[UpdateEvent](refused, "r:0", 9, entries[2].time, None)
    assert not is_exhausted(history_of([*entries[:3], step, *entries[3:]]))
    assert is_exhausted(history_of([*entries[:3], noise, *entries[3:]]))


@given(st.lists(st.floats(60, 1000), min_size=1, max_size=20))
def test_lives_of_a_minute_never_end_a_process(gaps: list[float]) -> None:
    at, times = 0.0, [0.0]
    for gap in gaps:
        at += gap + 0.001
        times.append(at)
    assert not is_exhausted(history_of(resumed(*times)))


class UpdateApproved2(UpdateStarted):
    """What a newer release writes."""

    kind: Literal["update.approved.v2"] = "update.approved.v2"  # type: ignore[assignment] # a version of its own


@pytest.mark.anyio
async def test_a_process_that_is_too_old_for_its_history_is_left_to_a_newer_worker(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dead letter it would be nobody's for ever: an event is not sent again."""
    monkeypatch.setattr(leases, "TOO_OLD_SECONDS", 0.1)
    await release(bus, "u1")
    later = UpdateApproved2(update_id="u1", agents=("new",))
    await bus.jetstream.publish(later.subject, later.model_dump_json().encode())
    holder = asyncio.create_task(hold(bus, "run-rollout", "h1", five_steps, ack_wait=2))
    async with asyncio.timeout(20):
        while not (await bus.jetstream.consumer_info("EVENTS", "run-rollout")).num_redelivered:
            await asyncio.sleep(0.05)
    assert (await bus.stream("DEAD")).state.messages == 0
    monkeypatch.setattr(streams, "KINDS", {**streams.KINDS, later.kind: UpdateApproved2})  # upgraded
    history = await ended(bus, "u1")
    holder.cancel()
    assert steps_of(history)["new"] == 1


@pytest.mark.anyio
async def test_a_process_whose_history_no_release_can_read_waits_for_no_newer_worker(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "TOO_OLD_SECONDS", 0.1)
    later = UpdateApproved2(update_id="u1", agents=("new",))
    await bus.jetstream.publish(later.subject, later.model_dump_json().encode())
    await bus.jetstream.publish("tars.event.update.released.v1.u1", b"x")
    holder = asyncio.create_task(hold(bus, "run-rollout", "h1", five_steps, ack_wait=2))
    async with asyncio.timeout(5):
        while not (await bus.stream("DEAD")).state.messages:
            await asyncio.sleep(0.05)
    holder.cancel()
    [letter] = await Journal(bus).page("DEAD", 1, 2)
    assert (letter.headers or {})["Tars-Dead-Reason"] == "malformed"
