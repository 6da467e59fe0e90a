"""The process of one rollout: switch a stage, read back, watch, go on; or take everything back and say why.

Leased by `update.released`, and by `update.roll-back-requested`, which takes the lease from a running holder. What went
wrong on the way out is written as a request to roll back, so there is one way back, whoever wants it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final, assert_never

from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.journal import History
from tars.runtime.leases import RESUMPTIONS, Lease, is_exhausted
from tars.runtime.running_agents import running_agents
from tars.schemas.agent import AgentReloaded, AgentStarted, AgentStopped
from tars.schemas.effect import Plan
from tars.schemas.errors import Conflict
from tars.schemas.outlook import Outlook, seen_from
from tars.schemas.running import RunningAgent
from tars.schemas.slots import Slot
from tars.schemas.streams import history_subject
from tars.schemas.update import (
    ROLLOUT,
    UpdateEvent,
    UpdateFailed,
    UpdateProposed,
    UpdateReloaded,
    UpdateResumed,
    UpdateStarted,
)
from tars.sync_worker.fleet import Fleet, answers_since, stage_of
from tars.sync_worker.lifecycle import GOING_OUT, OVER, Stage, replay
from tars.sync_worker.observing import Observation, Pulse, outlook_of
from tars.sync_worker.reload import (
    Expected,
    anew_command,
    anew_id,
    failures_of_those_left,
    read_backs_of,
    update_command,
    update_message_id,
)
from tars.sync_worker.reports import Reports, recent
from tars.sync_worker.stages import Conclude, Observe, Step, Switch, canaries, next_step, strayed, taken_back, too_long
from tars.sync_worker.way_back import WayBack, rolled_back

GIVEN_UP: Final = "given up: its holders kept dying without a step"
LOOK_SECONDS: Final = 1.0
"""How often a watch looks for new episodes, at most."""
PULSE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Rollout:
    """Runs rollouts; the limits are how long an agent may take, in seconds."""

    bus: Bus
    accept_seconds: float = 10.0
    apply_seconds: float = 1800.0
    plan: Plan = field(default_factory=Plan)
    """Of each stage's watch."""
    fleet: Fleet = field(init=False)

    def __post_init__(self) -> None:
        """Talk to agents over the same connection."""
        object.__setattr__(self, "fleet", self._fleet())

    def _fleet(self) -> Fleet:
        return Fleet(self.bus, self.accept_seconds, self.apply_seconds)

    async def __call__(self, lease: Lease[UpdateEvent]) -> None:
        """Go on where the history of the update stands."""
        state = replay((await lease.follow()).events)
        going_back = lease.envelope.subject.split(".")[3] == "roll-back-requested"
        over = state.stage in OVER or (state.stage is Stage.CONFIRMED and not going_back)
        if over or state.proposal is None or (state.rollback is not None and not going_back):
            return
        exhausted, hopeless = is_exhausted(lease.history), is_exhausted(_before_last_row(lease.history))
        resumed = UpdateResumed(update_id=lease.key, holder=lease.holder, delivery=lease.delivery)
        if not await lease.append(lambda history: [] if stage_of(history) in OVER else [resumed]):
            return  # another lease has ended it meanwhile
        if exhausted:
            await self._give_up(lease, state.proposal, hopeless=hopeless)
        elif going_back:
            await self._roll_back(lease, state.proposal)
        else:
            await self._go(lease, state.proposal, Clock(lease.history.entries[-1].time))

    async def _go(self, lease: Lease[UpdateEvent], proposal: UpdateProposed, clock: "Clock") -> None:
        """Step by step, until it is confirmed; or wanted back: done at once, for its own lease may wait in line."""
        if stage_of(lease.history) is Stage.RELEASED:
            await self._start(lease, proposal, clock)
        while stage_of(lease.history) in GOING_OUT - {Stage.RELEASED}:
            started = next(event for event in lease.history.events if isinstance(event, UpdateStarted))
            agents = await running_agents(self.fleet.journal, started.agents)
            step = next_step(lease.history.events, {name for name, agent in agents.items() if agent.finished})
            stage = stage_of(lease.history)  # before the step is taken: meanwhile somebody may want the update back
            wrong = strayed(step, replay(lease.history.events).read_backs, agents)
            events = [taken_back(lease.key, wrong)] if wrong else await self._take(step, lease, proposal, agents, clock)
            await lease.append(partial(_unless_moved, events, stage))
        if stage_of(lease.history) is Stage.ROLLING_BACK:
            await self._roll_back(lease, proposal)

    async def _take(
        self,
        step: Step,
        lease: Lease[UpdateEvent],
        proposal: UpdateProposed,
        agents: Mapping[str, RunningAgent],
        clock: "Clock",
    ) -> Sequence[UpdateEvent]:
        """What a step leads to; nothing, where somebody wants the update back meanwhile."""
        match step:
            case Switch():
                return await self._switch(lease, proposal, step, clock)
            case Observe():
                return await self._observe(lease, step, agents, clock)
            case Conclude(event):
                return [event]
            case _:
                assert_never(step)

    async def _start(self, lease: Lease[UpdateEvent], proposal: UpdateProposed, clock: "Clock") -> None:
        """Say who switches first, and what the watch will be able to see."""
        names = tuple(sorted(proposal.base))  # in one order for all: of updates that want the same agents, one wins
        canary = canaries(proposal.base)
        outlook = seen_from(await self._outlook(lease, names, clock), canary)
        stages = 1 if canary == names else 2
        seconds = (outlook.slot_seconds or 0.0) * (self.plan.pre + stages * self.plan.length)
        event: UpdateEvent = UpdateStarted(
            update_id=lease.key,
            agents=names,
            canary=canary,
            twins=outlook.twins,
            slot_seconds=outlook.slot_seconds,
            slots=self.plan.length if outlook.slot_seconds else 0,
            smallest_harm=outlook.smallest_harm,
            normalised=outlook.normalised,
            unwatched=outlook.unwatched,
        )
        approval = replay(lease.history.events).approval
        if error := too_long(timedelta(seconds=seconds), clock.now, approval.apply_until if approval else None):
            event = UpdateFailed(update_id=lease.key, error=f"{error}: nothing was changed")
        await lease.append(lambda history: [event] if stage_of(history) is Stage.RELEASED else [])

    async def _outlook(self, lease: Lease[UpdateEvent], names: tuple[str, ...], clock: "Clock") -> Outlook:
        """What can be watched; agents that were only just reloaded are given the time that a window needs."""
        agents = await running_agents(self.fleet.journal, names)
        began = clock.now
        reports = await recent(
            self.bus, names, began, lambda found: outlook_of(found, agents, began, self.plan).lacking
        )
        while True:
            found = outlook_of(reports, agents, clock.now, self.plan)
            waited = (clock.now - began).total_seconds()
            if found.complete or found.slot_seconds is None or waited > 2 * self.plan.pre * found.slot_seconds:
                return found
            if stage_of(await lease.follow()) is not Stage.RELEASED:
                return found
            await asyncio.sleep(min(LOOK_SECONDS, found.slot_seconds))
            await reports.read()

    async def _switch(
        self, lease: Lease[UpdateEvent], proposal: UpdateProposed, step: Switch, clock: "Clock"
    ) -> list[UpdateEvent]:
        """Give a stage the new values, and have them read back."""
        if step.attempt > 1 and not await self._put_back(lease, proposal, step, clock):
            return []
        started = next(event for event in lease.history.events if isinstance(event, UpdateStarted))
        expected, failures = await self._configure(lease, proposal, step, started)
        if not failures:
            await self.fleet.listen(lease, expected, enough=lambda: bool(failures_of_those_left(expected)))
            failures = failures_of_those_left(expected)
        if failures:
            wrong = "; ".join(f"{name}: {why}" for name, why in failures.items())
            return [taken_back(lease.key, wrong)]
        backs = read_backs_of(expected)
        if not backs or not all(found.settled for found in expected.values()):
            return []  # all of the stage have finished, or somebody wants it back meanwhile
        before = await self._before(step, started, expected)
        return [
            UpdateReloaded(update_id=lease.key, read_backs=backs, stage=step.stage, attempt=step.attempt, before=before)
        ]

    async def _configure(
        self, lease: Lease[UpdateEvent], proposal: UpdateProposed, step: Switch, started: UpdateStarted
    ) -> tuple[dict[str, Expected], dict[str, str]]:
        """Send the new values; stop at the first agent that has another configuration, and name it."""
        approval, expected = replay(lease.history.events).approval, dict[str, Expected]()
        twin = 2 * started.slots if started.twins else 0
        for agent_id in step.agents:
            message_id, base = update_message_id(lease.key, agent_id, step.attempt), proposal.base[agent_id]
            if step.attempt > 1:
                version, newest = await self.fleet.newest(agent_id)
                base = version if newest == anew_id(lease.key, agent_id) else base
            command = update_command(proposal, agent_id, base, approval, twin)
            try:
                version = await self.fleet.send(command, message_id)
            except Conflict as conflict:
                return expected, {agent_id: str(conflict)}
            expected[agent_id] = Expected(command, version, answers_since(lease.history))
        return expected, {}

    async def _before(
        self, step: Switch, started: UpdateStarted, sent: Mapping[str, Expected]
    ) -> dict[str, tuple[Slot, ...]]:
        """What every agent of the watch scored in the slots before the switch."""
        if started.slot_seconds is None:
            return {}
        times = [
            (await self.fleet.configurations(name, after=found.version - 1, reach=found.version))[0].time
            for name, found in sent.items()
        ]
        names = [*step.agents, *step.compared]
        reports = Reports(self.bus, names, min(times) - timedelta(seconds=self.plan.pre * started.slot_seconds))
        await reports.read()
        end = min(times).timestamp()
        return {name: reports.window(name, end, started.slot_seconds, self.plan.pre) for name in names}

    async def _put_back(
        self, lease: Lease[UpdateEvent], proposal: UpdateProposed, step: Switch, clock: "Clock"
    ) -> bool:
        """Return a stage to the old values, and wait until it has a window of what is normal now.

        False: somebody wants the update back meanwhile.
        """
        stage = stage_of(lease.history)
        expected: dict[str, Expected] = {}
        for agent_id in step.agents:
            version, newest = await self.fleet.newest(agent_id)
            if newest != update_message_id(lease.key, agent_id, step.attempt - 1):
                continue  # returned already, or somebody else's: sending the new values will tell
            command = anew_command(proposal, agent_id, version, ROLLOUT)
            version = await self.fleet.send(command, anew_id(lease.key, agent_id))
            expected[agent_id] = Expected(command, version, answers_since(lease.history))
        await self.fleet.listen(lease, expected, enough=lambda: False)
        started = next(event for event in lease.history.events if isinstance(event, UpdateStarted))
        until = clock.now + timedelta(seconds=(started.slot_seconds or 0.0) * (self.plan.pre + 1))
        async with Bell.on(self.bus, history_subject("update", lease.key)) as bell:
            while (left := (until - clock.now).total_seconds()) > 0 and stage_of(await lease.follow()) is stage:
                bell.clear()
                await bell.wait(min(LOOK_SECONDS, left))
        return stage_of(lease.history) is stage

    async def _observe(
        self, lease: Lease[UpdateEvent], step: Observe, agents: Mapping[str, RunningAgent], clock: "Clock"
    ) -> list[UpdateEvent]:
        """Watch a stage until its verdict; an agent of it that breaks or is lost ends it at once."""
        began = next(entry.time for entry in lease.history.entries if entry.event == step.reloaded)
        observation = Observation(self.bus, step, began, agents, self.plan)
        stage, pulse, beat = stage_of(lease.history), Pulse(self.bus, step.agents), clock.now
        async with Bell.on(self.bus, history_subject("update", lease.key)) as bell:
            while stage_of(await lease.follow()) is stage:
                bell.clear()
                if broken := await self._broken(step, began):
                    return [taken_back(lease.key, broken)]
                if clock.now >= beat:
                    beat = clock.now + timedelta(seconds=PULSE_SECONDS)
                    for name, seconds in (await pulse.lost()).items():
                        await pulse.write_off(name, lease.key, seconds)
                        return [taken_back(lease.key, f"{name}: it is lost: not a word for {seconds:.0f} s")]
                if (found := await observation.look(clock.now)) is not None:
                    return [observation.judged(found)]
                await bell.wait(min(LOOK_SECONDS, step.started.slot_seconds or LOOK_SECONDS))
        return []

    async def _broken(self, step: Observe, began: datetime) -> str | None:
        """Why a stage can no longer be judged: since it switched an agent ended with an error, or runs other values."""
        moved: list[str] = []
        for name in step.agents:
            for entry in await self.fleet.journal.since("EVENTS", history_subject("agent", name), began):
                if isinstance(entry.event, AgentStopped) and entry.event.cause == "error":
                    return f"{name}: it stopped with an error: {entry.event.detail}"
                if isinstance(entry.event, AgentStarted | AgentReloaded):
                    moved.append(name)
        return strayed(step, step.reloaded.read_backs, await running_agents(self.fleet.journal, moved))

    async def _roll_back(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> None:
        found = await WayBack(self.fleet).take_back(lease, proposal)
        await lease.append(lambda history: rolled_back(replay(history.events), found))

    async def _give_up(self, lease: Lease[UpdateEvent], proposal: UpdateProposed, *, hopeless: bool) -> None:
        """Take back what can be taken back and end; once that has failed as often, only end."""
        told = "look at its agents by hand"
        if not hopeless:
            found = await WayBack(self.fleet).take_back(lease, proposal)
            left = "".join(f"; {name}: {why}" for name, why in (found.unreached or {}).items())
            told = f"taken back on {len(found.read_backs)} agents{left}"
        failed = UpdateFailed(update_id=lease.key, error=f"{GIVEN_UP}; {told}"[:1000])
        await lease.append(lambda history: [] if stage_of(history) in OVER else [failed])


def _unless_moved(events: Sequence[UpdateEvent], stage: Stage, history: History[UpdateEvent]) -> Sequence[UpdateEvent]:
    """These events, where the update's stage is still what it was."""
    return events if stage_of(history) is stage else []


class Clock:
    """The server's time: that of a message just stored, and what passed here since."""

    def __init__(self, stored: datetime) -> None:
        self._stored, self._at = stored, asyncio.get_running_loop().time()

    @property
    def now(self) -> datetime:
        """The server's time by now."""
        return self._stored + timedelta(seconds=asyncio.get_running_loop().time() - self._at)


def _before_last_row(history: History[UpdateEvent]) -> History[UpdateEvent]:
    """The history when its last resumptions were still to come."""
    return replace(history, entries=history.entries[:-RESUMPTIONS])
