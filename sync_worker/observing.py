"""The watch of one stage of a rollout: reads what its agents report, slot by slot, until a verdict."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.schemas.agent import AgentEvent, AgentLost, AgentStopped
from tars.schemas.effect import Plan
from tars.schemas.errors import Conflict
from tars.schemas.judgement import Judgement, Verdict, keep_or_undo
from tars.schemas.noise import is_filled, noise
from tars.schemas.outlook import SHORTEST_SLOT, Outlook, look_ahead, plan_for
from tars.schemas.running import RunningAgent, replay
from tars.schemas.slots import Slot, longest_pause
from tars.schemas.snapshot import twin_of
from tars.schemas.update import UpdateJudged
from tars.schemas.watch import Watch, begin, diverge, judgement, step
from tars.sync_worker.reports import Reports
from tars.sync_worker.stages import Observe

LATE: Final = 1.0
"""Seconds that a report may take until its slot is counted."""
LOST_AFTER: Final = 15.0
"""Seconds without a word, three beats, after which an agent is lost."""


def outlook_of(reports: Reports, agents: Mapping[str, RunningAgent], now: datetime, plan: Plan) -> Outlook:
    """Find the slot of these agents, and the smallest harm that a watch of the canaries can find."""
    at = now.timestamp()
    settled = {name: reports.settled(name, at) for name in agents}
    return look_ahead(settled, at, plan, hosted=all_hosted(agents))


def all_hosted(agents: Mapping[str, RunningAgent]) -> bool:
    """Whether all of them live in worlds of ours."""
    return all(agent.world is not None for agent in agents.values())


class Observation:
    """The watch of a stage."""

    def __init__(
        self, bus: Bus, stage: Observe, began: datetime, agents: Mapping[str, RunningAgent], plan: Plan
    ) -> None:
        started, before = stage.started, stage.reloaded.before
        self.stage = stage
        self._width = started.slot_seconds or SHORTEST_SLOT
        self._start = began.timestamp()
        self._others = tuple(map(twin_of, stage.agents)) if started.twins else stage.compared
        switched = {back.agent_id: back.version for back in stage.reloaded.read_backs}
        self._reports = Reports(bus, (*stage.agents, *self._others), began, versions=switched)
        self._pauses = {name: longest_pause(row) for name, row in before.items()}
        canary = [before.get(name, ()) for name in stage.agents]
        control = [before.get(name, ()) for name in stage.compared]
        self.watch = _begin(canary, control, agents, plan, twins=started.twins, again=stage.reloaded.attempt > 1)

    async def look(self, now: datetime) -> Judgement | None:
        """Take in what was reported up to now; the verdict, once there is one."""
        await self._reports.read()
        count = int((now.timestamp() - LATE - self._start) / self._width)
        treated, names = len(self.stage.agents), (*self.stage.agents, *self._others)
        rows = [
            self._reports.slots(name, self._start, self._width, max(count, 0), self._pauses.get(name, 0))
            for name in names
        ]
        while self.watch.at < count and not self.is_over:
            slot = [row[self.watch.at] for row in rows]
            self.watch = step(self.watch, slot[:treated], slot[treated:])
        if self._reports.diverged(self.stage.agents):
            self.watch = diverge(self.watch)
        return judgement(self.watch) if self.is_over else None

    @property
    def is_over(self) -> bool:
        """There is a verdict."""
        return self.watch.over or self.watch.decided is not None

    def judged(self, found: Judgement) -> UpdateJudged:
        """The verdict as an event."""
        started, reloaded = self.stage.started, self.stage.reloaded
        if found.verdict is Verdict.ENVIRONMENT:
            then, reason = "start anew", found.reason
        else:
            concluded = keep_or_undo(found, widened=reloaded.stage != "canary" or started.twins)
            then, reason = {"keep": "go on"}.get(concluded.then, concluded.then), concluded.text
        return UpdateJudged.model_validate(
            {
                "update_id": started.update_id,
                "stage": reloaded.stage,
                "attempt": reloaded.attempt,
                "verdict": found.verdict.value,
                "then": then,
                "reason": reason[:1000],
                "effect": found.effect,
                "effect_low": found.low,
                "effect_high": found.high,
                "slot": found.slot,
                "reloaded": self.stage.agents,
                "compared": self._others if found.compared else (),
                "smallest_harm": found.smallest,
                "stopped_early": found.stopped_early,
            }
        )


def _begin(
    canary: Sequence[Sequence[Slot]],
    control: Sequence[Sequence[Slot]],
    agents: Mapping[str, RunningAgent],
    plan: Plan,
    *,
    twins: bool,
    again: bool,
) -> Watch:
    known = [row for row in (*canary, *control) if is_filled(row)]
    suited = plan_for(noise(known), plan, hosted=all_hosted(agents)) if known else plan
    return begin(canary, () if twins else control, suited, twin=twins, restarted=again)


class Pulse:
    """Whether agents still say anything at all: an episode, or a beat every five seconds."""

    def __init__(self, bus: Bus, agents: Sequence[str]) -> None:
        self._bus, self._journal = bus, Journal(bus)
        self._heard: dict[str, tuple[int, float]] = dict.fromkeys(agents, (0, 0.0))

    async def lost(self) -> dict[str, float]:
        """Those silent for too long, and for how many seconds; one that has never said anything is not counted."""
        clock = asyncio.get_running_loop().time()
        for name, (known, at) in self._heard.items():
            last = await self._bus.last("REPORTS", f"tars.report.agent.*.*.{name}")
            sequence = last[0] if last else 0
            self._heard[name] = (sequence, clock) if sequence != known or known == 0 else (known, at)
        silent = {name: clock - at for name, (known, at) in self._heard.items() if known}
        return {name: seconds for name, seconds in silent.items() if seconds > LOST_AFTER}

    async def write_off(self, agent_id: str, update_id: str, seconds: float) -> None:
        """Say in the agent's own history that it is lost, unless it has spoken there meanwhile."""
        history: History[AgentEvent] = await self._journal.newest("agent", agent_id)
        run_id = replay(history.events).run_id
        if history.events and isinstance(history.events[-1], AgentLost | AgentStopped):
            return
        lost = AgentLost(agent_id=agent_id, run_id=run_id, update_id=update_id, seconds=round(seconds, 1))
        try:
            await self._journal.append([lost], history, cause=f"{update_id}.{agent_id}.{run_id}.lost")
        except Conflict:
            return  # it lives
