"""Rollouts of agents that report: a canary first, watched against the others; kept, taken back or begun anew."""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from interruptions import dies_at, interrupted
from reporting_fleet import Learner, Score, configurations, ended, release, reporting
from story import ADA
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.leases import hold
from tars.schemas.agent import AgentReported
from tars.schemas.effect import Plan
from tars.schemas.update import (
    UpdateConfirmed,
    UpdateEvent,
    UpdateJudged,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)
from tars.sync_worker.lifecycle import Stage
from tars.sync_worker.reports import Reports
from tars.sync_worker.rollout import Rollout

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
EIGHT = tuple("abcdefgh")
OVER = (Stage.CONFIRMED, Stage.ROLLED_BACK, Stage.FAILED)


def rollout(bus: Bus) -> Rollout:
    return Rollout(bus, accept_seconds=2.0, apply_seconds=5.0, plan=Plan(pre=15, length=20))


@asynccontextmanager
async def at_work(bus: Bus) -> AsyncIterator[None]:
    """A worker that runs rollouts, for the length of the block."""
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", rollout(bus), ack_wait=2))
    try:
        yield
    finally:
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def want_back(bus: Bus) -> None:
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    wanted = UpdateRollBackRequested(update_id="u", by=ADA, reason="changed my mind", what="all")
    await Journal(bus).append([wanted], history, cause="back")


async def said(bus: Bus, kind: type[UpdateEvent]) -> None:
    """Wait until there is an event of a kind."""
    async with asyncio.timeout(20):
        while True:
            history: History[UpdateEvent] = await Journal(bus).read("update", "u")
            if any(isinstance(event, kind) for event in history.events):
                return
            await asyncio.sleep(0.05)


def judgements(events: tuple[UpdateEvent, ...]) -> list[tuple[str, str, str]]:
    return [(e.stage, e.verdict, e.then) for e in events if isinstance(e, UpdateJudged)]


async def test_a_change_that_hurts_its_canary_reaches_nobody_else(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.2 if new else 0.7, *EIGHT), at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, *OVER)
    started = next(event for event in events if isinstance(event, UpdateStarted))
    (canary,) = started.canary
    assert judgements(events) == [("canary", "ROLL_BACK", "undo")]
    assert isinstance(events[-1], UpdateRolledBack)
    assert [c.purpose for c in await configurations(bus, canary)] == ["update", "rollback"]
    assert {name for name in EIGHT if await configurations(bus, name)} == {canary}


async def test_a_change_that_helps_goes_to_all_and_its_effect_is_on_record(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT), at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, *OVER)
    assert isinstance(events[-1], UpdateConfirmed)
    assert [(stage, then) for stage, _, then in judgements(events)] == [("canary", "go on"), ("rest", "go on")]
    canary, rest = (event for event in events if isinstance(event, UpdateJudged))
    assert canary.effect == pytest.approx(0.3, abs=0.15)
    assert (canary.effect_low or 0) <= (canary.effect or 0) <= (canary.effect_high or 0)
    assert rest.compared == canary.reloaded
    assert {back.agent_id for e in events if isinstance(e, UpdateReloaded) for back in e.read_backs} == set(EIGHT)


async def test_the_smallest_harm_that_can_be_found_is_said_before_anything_is_changed(bus: Bus) -> None:
    async with reporting(bus, lambda *_: 0.5, *EIGHT), at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, *OVER)
    started = next(number for number, event in enumerate(events) if isinstance(event, UpdateStarted))
    plan = events[started]
    assert isinstance(plan, UpdateStarted)
    assert 0.01 < (plan.smallest_harm or 0) < 0.3
    assert not any(isinstance(event, UpdateReloaded) for event in events[:started])


def shifting() -> Score:
    """The environment turns bad for everybody just after the canary switched; a second watch is undisturbed."""
    shifted: list[float] = []

    def score(name: str, new: bool, seconds: float) -> float:
        if new and not shifted:
            shifted.append(seconds)
        return 0.2 if shifted and seconds > shifted[0] + 0.2 else 0.7

    return score


async def test_a_shift_that_hits_all_agents_starts_the_watch_anew_and_blames_nobody(bus: Bus) -> None:
    async with reporting(bus, shifting(), *EIGHT), at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, *OVER)
    found = judgements(events)
    assert found[0] == ("canary", "ENVIRONMENT", "start anew")
    assert [attempt for event in events if isinstance(event, UpdateReloaded) for attempt in [event.attempt]][:2] == [
        1,
        2,
    ]
    (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
    assert [c.purpose for c in await configurations(bus, canary)][:3] == ["update", "rollback", "update"]


async def test_what_is_wanted_back_before_its_watch_starts_anew_is_not_sent_again(bus: Bus) -> None:
    """Nobody else takes the request's own lease, so nothing but the request itself ends the wait between attempts."""
    async with reporting(bus, shifting(), *EIGHT):
        await release(bus, *EIGHT)
        running = asyncio.create_task(interrupted(bus, rollout(bus), dies_at(-1)))
        await said(bus, UpdateJudged)
        await want_back(bus)
        async with asyncio.timeout(20):
            await running
        events = await ended(bus, *OVER)
    assert isinstance(events[-1], UpdateRolledBack)
    (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
    assert [c.purpose for c in await configurations(bus, canary)] == ["update", "rollback", "rollback"]


async def test_a_canary_that_diverges_is_taken_back_at_once(bus: Bus) -> None:
    async with reporting(bus, lambda *_: 0.5, *EIGHT) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        fleet.learners[canary].finite = False
        events = await ended(bus, *OVER)
    assert judgements(events) == [("canary", "ROLL_BACK", "undo")]
    assert "diverged" in next(event.reason for event in events if isinstance(event, UpdateJudged))


async def test_a_canary_whose_episodes_fail_is_taken_back(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: math.nan if new else 0.0, *EIGHT), at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, *OVER)
    assert judgements(events) == [("canary", "ROLL_BACK", "undo")]
    assert isinstance(events[-1], UpdateRolledBack)
    assert "collapse" in events[-1].reason


async def test_an_agent_without_others_is_compared_with_its_own_past(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.1 if new else 0.7, "a", world=None), at_work(bus):
        await release(bus, "a")
        events = await ended(bus, *OVER)
    assert isinstance(events[-1], UpdateRolledBack)
    judged = next(event for event in events if isinstance(event, UpdateJudged))
    assert (judged.stage, judged.compared) == ("rest", ())


async def test_a_canary_that_breaks_while_it_is_watched_is_taken_back(bus: Bus) -> None:
    async with reporting(bus, lambda *_: 0.5, *EIGHT) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        await fleet.agents[canary].stop("error", "out of memory")
        events = await ended(bus, *OVER)
    last = events[-1]
    assert isinstance(last, UpdateRolledBack)
    assert last.reason == f"{canary}: it stopped with an error: out of memory"


async def test_an_agent_that_finishes_while_it_is_compared_with_leaves_the_rollout(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        gone = next(name for name in EIGHT if name != canary)
        fleet.silent.add(gone)
        await fleet.agents[gone].stop("finished")
        events = await ended(bus, *OVER)
    assert isinstance(events[-1], UpdateConfirmed)
    assert await configurations(bus, gone) == []


@pytest.mark.parametrize("append", range(7))
async def test_a_watched_rollout_killed_between_any_two_events_ends_the_same(bus: Bus, append: int) -> None:
    """Resumed, started, canary read back, judged, rest read back, judged, confirmed: each may be the last it writes."""
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT):
        await release(bus, *EIGHT)
        message = await interrupted(bus, rollout(bus), dies_at(append))
        await message.nak()
        async with at_work(bus):
            events = await ended(bus, *OVER)
    assert isinstance(events[-1], UpdateConfirmed)
    kinds = Counter(type(event) for event in events)
    assert (kinds[UpdateStarted], kinds[UpdateReloaded], kinds[UpdateJudged], kinds[UpdateConfirmed]) == (1, 2, 2, 1)
    for name in EIGHT:
        assert [c.purpose for c in await configurations(bus, name)] == ["update"]


async def test_a_canary_that_restarts_at_once_is_watched_on(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        await fleet.agents[canary].stop("signal")
        await fleet.join(fleet.learners[canary])
        events = await ended(bus, *OVER)
    assert isinstance(events[-1], UpdateConfirmed)


async def test_a_canary_that_begins_anew_with_its_old_values_takes_the_update_back(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT, world=None) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        await fleet.begin_anew(canary)
        last = (await ended(bus, *OVER))[-1]
    assert isinstance(last, UpdateRolledBack)
    why = "it no longer runs the values: it began anew, or was told to, with the values of its code"
    assert last.reason == f"{canary}: {why}"


async def test_an_update_is_not_confirmed_while_a_canary_runs_its_old_values_again(bus: Bus) -> None:
    """It is the rest that is watched by then."""
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT, world=None) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        await said(bus, UpdateJudged)
        await fleet.begin_anew(canary)
        last = (await ended(bus, *OVER))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert last.reason.startswith(f"{canary}: it no longer runs the values")


async def test_only_what_an_agent_ran_with_the_new_values_counts_after_its_switch(bus: Bus) -> None:
    began = datetime.now(UTC)
    for episode, version in enumerate((0, 7, 0)):
        report = AgentReported(agent_id="a", run_id="r", episode=episode, step=1, score=version / 10, version=version)
        await bus.report(report)
    await bus.client.flush()
    reports = Reports(bus, ("a",), began, versions={"a": 7})
    await reports.read()
    assert [slot for slot in reports.slots("a", began.timestamp(), 60.0, 1) if slot is not None] == [0.7]


async def test_an_agent_that_joins_during_a_rollout_is_no_part_of_it(bus: Bus) -> None:
    async with reporting(bus, lambda _, new, __: 0.8 if new else 0.5, *EIGHT) as fleet, at_work(bus):
        await release(bus, *EIGHT)
        await ended(bus, Stage.RELOADED)
        await fleet.join(Learner("late"))
        await ended(bus, *OVER)
        assert fleet.learners["late"].version == 0
    assert await configurations(bus, "late") == []


async def test_a_rollout_that_is_wanted_back_while_it_is_watched_goes_back(bus: Bus) -> None:
    async with reporting(bus, lambda *_: 0.5, *EIGHT), at_work(bus):
        await release(bus, *EIGHT)
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        await want_back(bus)
        events = await ended(bus, *OVER)
    last = events[-1]
    assert isinstance(last, UpdateRolledBack)
    assert (last.by, last.reason) == (ADA, "changed my mind")
    assert [c.purpose for c in await configurations(bus, canary)] == ["update", "rollback"]


async def test_an_agent_that_falls_silent_is_lost_and_the_update_taken_back(bus: Bus) -> None:
    async with reporting(bus, lambda *_: 0.5, "a", "b", world=None) as fleet:
        patient = Rollout(bus, accept_seconds=2.0, apply_seconds=5.0, plan=Plan(pre=15, length=2000))
        holding = asyncio.create_task(hold(bus, "run-rollout", "h", patient, ack_wait=2))
        await release(bus, "a", "b")
        events = await ended(bus, Stage.RELOADED)
        (canary,) = next(event for event in events if isinstance(event, UpdateStarted)).canary
        await fleet.leave()
        events = await ended(bus, *OVER, Stage.ROLLING_BACK)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
    history = await Journal(bus).newest("agent", canary)  # type: ignore[var-annotated] # events of an agent
    assert history.events[-1].kind == "agent.lost.v1"
