"""Which step a rollout takes next, from its events alone: the same events, the same step, whoever holds it. Pure.

canary -> (half) -> rest -> confirmed. Each stage switches some agents and is watched; the others, whichever values they
run by then, are what they are compared with (WATCH.md section 2).
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tars.schemas.outlook import canary_count
from tars.schemas.running import RunningAgent
from tars.schemas.update import (
    ROLLOUT,
    ReadBack,
    RolloutStage,
    UpdateConfirmed,
    UpdateEvent,
    UpdateJudged,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateStarted,
)

LONGEST: Final = timedelta(days=3)
"""Of a rollout's plan: its window before the change, and the watches of its stages."""


@dataclass(frozen=True)
class Switch:
    """Give these agents the new values."""

    stage: RolloutStage
    attempt: int
    agents: tuple[str, ...]
    compared: tuple[str, ...]
    """The other agents of the rollout."""


@dataclass(frozen=True)
class Observe:
    """Watch what the agents of a stage do."""

    started: UpdateStarted
    reloaded: UpdateReloaded
    agents: tuple[str, ...]
    compared: tuple[str, ...]


@dataclass(frozen=True)
class Conclude:
    """Write this: the rollout is over, or is to be taken back."""

    event: UpdateConfirmed | UpdateRollBackRequested


Step = Switch | Observe | Conclude


def canaries(base: Mapping[str, int]) -> tuple[str, ...]:
    """Those that switch first, picked at random among agents -> version that they run.

    The same for every holder of a rollout; and for rival updates of the same agents, so that one of them wins.
    """
    lot = "/".join(f"{name}:{version}" for name, version in sorted(base.items()))
    return _drawn(lot, base, canary_count(len(base)))


def _drawn(lot: str, agents: Iterable[str], count: int) -> tuple[str, ...]:
    """Draw some by lot: by a hash, as good as at random for who does not choose ids by it."""
    return tuple(sorted(sorted(agents, key=lambda name: hashlib.sha256(f"{lot}/{name}".encode()).digest())[:count]))


def next_step(events: Iterable[UpdateEvent], gone: Collection[str]) -> Step:  # noqa: PLR0911 - one for each place
    """What to do after these events. gone: agents that finished meanwhile; they are left out."""
    story = [event for event in events if isinstance(event, UpdateStarted | UpdateReloaded | UpdateJudged)]
    started = next(event for event in story if isinstance(event, UpdateStarted))
    agents = tuple(name for name in started.agents if name not in gone)
    if not agents:
        return Conclude(UpdateConfirmed(update_id=started.update_id, reason="all of its agents have finished"))
    switched = {back.agent_id for event in story if isinstance(event, UpdateReloaded) for back in event.read_backs}
    left = tuple(name for name in agents if name not in switched)
    last = story[-1]
    match last:
        case UpdateStarted():
            first = tuple(name for name in started.canary if name in agents) or left
            return _switch(agents, "canary" if len(first) < len(agents) else "rest", 1, first)
        case UpdateReloaded() if started.slot_seconds is None:
            if left:
                return _switch(agents, "rest", 1, left)
            return Conclude(UpdateConfirmed(update_id=started.update_id, reason=f"not watched: {started.unwatched}"))
        case UpdateReloaded():
            now = {back.agent_id for back in last.read_backs}
            treated = tuple(name for name in agents if name in now)
            if not treated:  # all of the stage have finished: nobody is left to judge
                return _go_on(started, agents, left, "its agents finished while they were watched")
            return Observe(started, last, treated, tuple(name for name in agents if name not in now))
        case UpdateJudged():
            return _after(started, last, agents, left)


def strayed(step: Step, read_backs: Iterable[ReadBack], agents: Mapping[str, RunningAgent]) -> str | None:
    """Why this step must not be taken: an agent that has switched no longer runs what it read back.

    Those that the step itself switches may run anything, and one that has finished has left. What is known of an agent
    may lag behind its read-back, and then tells nothing.
    """
    if isinstance(step, Conclude) and isinstance(step.event, UpdateRollBackRequested):
        return None  # it goes back already, and says why
    switching = step.agents if isinstance(step, Switch) else ()
    for back in read_backs:
        agent = agents.get(back.agent_id)
        if back.agent_id in switching or agent is None or agent.finished:
            continue
        if agent.reload is not None and agent.reload.version >= back.version and agent.applied != back.version:
            now = f"version {agent.applied}" if agent.applied else "the values of its code"
            return f"{back.agent_id}: it no longer runs the values: it began anew, or was told to, with {now}"
    return None


def taken_back(update_id: str, reason: str) -> UpdateRollBackRequested:
    """The rollout's own wish to go back: whole."""
    return UpdateRollBackRequested(update_id=update_id, by=ROLLOUT, reason=reason[:1000], what="all")


def _after(started: UpdateStarted, judged: UpdateJudged, agents: tuple[str, ...], left: tuple[str, ...]) -> Step:
    """What follows from a verdict; a stage whose agents have all finished is left out."""
    still_there = any(name in agents for name in judged.reloaded)
    match judged.then:
        case "go on":
            return _go_on(started, agents, left, judged.reason)
        case "widen" if left:
            more = max(1, len(agents) // 2 - (len(agents) - len(left)))
            return _switch(agents, "half", 1, _drawn(started.update_id, left, more))
        case "start anew" if still_there:
            return _switch(agents, judged.stage, judged.attempt + 1, judged.reloaded)
        case "widen" | "start anew":
            return _go_on(started, agents, left, "not proven: the agents that were to tell more have finished")
        case "undo":
            return Conclude(taken_back(started.update_id, judged.reason))


def _go_on(started: UpdateStarted, agents: tuple[str, ...], left: tuple[str, ...], reason: str) -> Step:
    if left:
        return _switch(agents, "rest", 1, left)
    return Conclude(UpdateConfirmed(update_id=started.update_id, reason=reason))


def _switch(agents: tuple[str, ...], stage: RolloutStage, attempt: int, now: tuple[str, ...]) -> Switch:
    treated = tuple(name for name in now if name in agents)
    return Switch(stage, attempt, treated, tuple(name for name in agents if name not in treated))


def too_long(plan: timedelta, now: datetime, apply_until: datetime | None) -> str | None:
    """Why a rollout of this plan must not start: it would never end, or not before its approval is over."""
    if plan > LONGEST:
        return f"its watch would take {plan / timedelta(days=1):.1f} days, more than {LONGEST.days}"
    if apply_until is not None and now + plan > apply_until:
        return f"it would end at {now + plan:%Y-%m-%d %H:%M} UTC, and was approved until {apply_until:%Y-%m-%d %H:%M}"
    return None
