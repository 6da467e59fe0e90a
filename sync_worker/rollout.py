"""The process of one rollout: configure every agent, read back, confirm; or take the values back and say why.

Leased by `update.released`, and by `update.roll-back-requested`, which takes the lease from a running holder. What went
wrong on the way out is written as a request to roll back, so there is one way back, whoever wants it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.leases import Lease, is_exhausted
from tars.schemas.agent import AgentAccepted, AgentEvent, AgentRefused, AgentReloaded, ConfigureAgent
from tars.schemas.errors import Conflict
from tars.schemas.message import By
from tars.schemas.streams import configure_subject, history_subject
from tars.schemas.update import (
    ReadBack,
    UpdateConfirmed,
    UpdateEvent,
    UpdateFailed,
    UpdateProposed,
    UpdateReloaded,
    UpdateResumed,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)
from tars.sync_worker.lifecycle import OVER, Stage, Update, configuration, replay

ROLLOUT: Final = By(principal="rollout")
"""Who takes an update back that went wrong."""
POLL_SECONDS: Final = 1.0
"""The bell can ring before an event is readable, and a core message can be lost: look again this often."""


@dataclass
class Expected:
    """An agent that was configured, and what is known of it so far."""

    version: int
    history: History[AgentEvent]
    accepted: bool = False
    read_back: ReadBack | None = None
    failure: str | None = None

    @property
    def settled(self) -> bool:
        """There is nothing more to wait for."""
        return self.read_back is not None or self.failure is not None

    def hear(self, events: tuple[AgentEvent, ...]) -> None:
        """Note what the agent says of this version."""
        for event in events:
            if isinstance(event, AgentAccepted) and event.version >= self.version:
                self.accepted = True
            elif isinstance(event, AgentReloaded) and event.version == self.version:
                self.read_back = read_back_of(event)
            elif isinstance(event, AgentRefused) and event.version == self.version:
                self.failure = f"it refused: {'; '.join(event.reasons)}"


@dataclass(frozen=True)
class Rollout:
    """Runs rollouts; the limits are how long an agent may take, in seconds."""

    bus: Bus
    accept_seconds: float = 10.0
    apply_seconds: float = 1800.0
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        """Read agents' events over the same connection."""
        object.__setattr__(self, "journal", Journal(self.bus))

    async def __call__(self, lease: Lease[UpdateEvent]) -> None:
        """Go on where the history of the update stands."""
        state = replay((await lease.follow()).events)
        going_back = lease.envelope.subject.split(".")[3] == "roll-back-requested"
        over = state.stage in OVER or (state.stage is Stage.CONFIRMED and not going_back)
        if over or state.proposal is None or (state.rollback is not None and not going_back):
            return
        exhausted = is_exhausted(lease.history)
        resumed = UpdateResumed(update_id=lease.key, holder=lease.holder, delivery=lease.delivery)
        await lease.append(lambda _: [resumed])
        if exhausted:
            await self._give_up(lease, going_back=going_back)
        elif going_back:
            await self._take_back(lease, state.proposal)
        else:
            await self._go(lease, state.proposal)

    async def _go(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> None:
        agents = tuple(proposal.base)
        started = UpdateStarted(update_id=lease.key, agents=agents)
        await lease.append(lambda history: [started] if replay(history.events).stage is Stage.RELEASED else [])
        expected: dict[str, Expected] = {}
        for agent_id in agents:
            sent = await self._send(self._command(proposal, agent_id, "update"))
            if isinstance(sent, str):
                await self._request_back(lease, f"{agent_id}: {sent}")
                return
            expected[agent_id] = Expected(sent, History("agent", agent_id))
        await self._listen(lease, expected)
        if wrong := what_went_wrong(expected):
            await self._request_back(lease, wrong)
            return
        read_backs = tuple(found.read_back for found in expected.values() if found.read_back)
        reloaded = UpdateReloaded(update_id=lease.key, read_backs=read_backs)
        confirmed = UpdateConfirmed(update_id=lease.key)
        await lease.append(lambda history: [reloaded, confirmed] if not _goes_back(history) else [])

    async def _take_back(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> None:
        expected: dict[str, Expected] = {}
        unreached: dict[str, str] = {}
        for agent_id, base in proposal.base.items():
            sent = await self._send_back(proposal, agent_id, base)
            if isinstance(sent, str):
                unreached[agent_id] = sent
            elif sent:
                expected[agent_id] = Expected(sent, History("agent", agent_id))
        await self._listen(lease, expected)
        for agent_id, found in expected.items():
            if failure := failure_of(found):
                unreached[agent_id] = failure
        read_backs = tuple(found.read_back for found in expected.values() if found.read_back)
        await lease.append(lambda history: _rolled_back(history, read_backs, unreached))

    def _command(
        self, proposal: UpdateProposed, agent_id: str, purpose: str, base: int | None = None
    ) -> ConfigureAgent:
        back = purpose == "rollback"
        return ConfigureAgent(
            agent_id=agent_id,
            update_id=proposal.update_id,
            purpose="rollback" if back else "update",
            base=proposal.base[agent_id] if base is None else base,
            values=proposal.before[agent_id] if back else configuration(proposal, agent_id),
            by=proposal.by,
        )

    async def _send(self, command: ConfigureAgent) -> int | str:
        """Store a configuration once, however often this is tried; return its version, or why it cannot be."""
        try:
            return await self.bus.publish(
                command, id=configure_id(command), after=(configure_subject(command.agent_id), command.base)
            )
        except Conflict:
            newest = await self.bus.last("AGENTS", configure_subject(command.agent_id))
            if newest is not None and newest[1] == configure_id(command):
                return newest[0]
            return f"its base moved: it was configured by {newest[1] if newest else 'nobody'} meanwhile"

    async def _send_back(self, proposal: UpdateProposed, agent_id: str, base: int) -> int | str:
        """Configure the old values over our own; 0: the agent was never reached, so there is nothing to take back."""
        newest = await self.bus.last("AGENTS", configure_subject(agent_id))
        sent, back = (configure_id(self._command(proposal, agent_id, purpose)) for purpose in ("update", "rollback"))
        if newest is None or newest[0] == base:
            return 0
        if newest[1] == back:
            return newest[0]
        if newest[1] != sent:
            return f"it was configured by {newest[1]} since: roll that back first"
        return await self._send(self._command(proposal, agent_id, "rollback", base=newest[0]))

    async def _listen(self, lease: Lease[UpdateEvent], expected: Mapping[str, Expected]) -> None:
        """Hear the agents until each has settled or let its limit pass."""
        clock = asyncio.get_running_loop().time
        began = clock()
        async with Bell.on(self.bus, *(history_subject("agent", name) for name in expected)) as bell:
            while not all(found.settled for found in expected.values()):
                bell.clear()
                await self._read(expected)
                expire(expected, clock() - began, self.accept_seconds, self.apply_seconds)
                await lease.follow()
                if not all(found.settled for found in expected.values()):
                    await bell.wait(min(POLL_SECONDS, self.accept_seconds / 4))

    async def _read(self, expected: Mapping[str, Expected]) -> None:
        async def one(name: str, found: Expected) -> None:
            known = found.history.version
            new: History[AgentEvent] = await (
                self.journal.read("agent", name, after=known) if known else self.journal.newest("agent", name)
            )
            found.history = found.history.extended(new)
            found.hear(new.events)

        await asyncio.gather(*(one(name, found) for name, found in expected.items() if not found.settled))

    async def _request_back(self, lease: Lease[UpdateEvent], reason: str) -> None:
        request = UpdateRollBackRequested(update_id=lease.key, by=ROLLOUT, reason=reason[:1000])
        await lease.append(lambda history: [] if _goes_back(history) else [request])

    async def _give_up(self, lease: Lease[UpdateEvent], *, going_back: bool) -> None:
        why = "given up: its holders kept dying without a step"
        if going_back:
            await lease.append(
                lambda _: [UpdateFailed(update_id=lease.key, error=f"{why}; look at its agents by hand")]
            )
        else:
            await self._request_back(lease, why)


def configure_id(command: ConfigureAgent) -> str:
    """The id of a configuration: the same however often, and by whomever, the rollout is resumed."""
    return f"{command.update_id}.{command.agent_id}.{command.purpose}"


def read_back_of(event: AgentReloaded) -> ReadBack:
    """What an agent's reload proves."""
    return ReadBack(
        agent_id=event.agent_id,
        version=event.version,
        requested=event.requested,
        effective=event.effective,
        step=event.step,
        milliseconds=event.milliseconds,
        weights_kept=event.weights_before == event.weights_after,
        buffer_kept=event.buffer_before == event.buffer_after,
    )


def expire(expected: Mapping[str, Expected], waited: float, accept: float, apply: float) -> None:
    """Note who did not answer in time, after `waited` seconds."""
    for found in expected.values():
        if not found.settled and not found.accepted and waited > accept:
            found.failure = f"it did not accept within {accept:g} s"
        elif not found.settled and waited > apply:
            found.failure = f"it accepted, but did not apply within {apply:g} s"


def failure_of(found: Expected) -> str | None:
    """Why an agent does not run what it was told to; None: it does."""
    if found.failure is not None or found.read_back is None:
        return found.failure or "it did not answer"
    if not found.read_back.equal:
        pairs = found.read_back.requested.items()
        differing = {key: (value, found.read_back.effective.get(key)) for key, value in pairs}
        told = "; ".join(
            f"{key} {asked} asked, {runs} read back" for key, (asked, runs) in differing.items() if asked != runs
        )
        return f"its read-back differs: {told}"
    return None if found.read_back.weights_kept else "its weights changed during the reload"


def what_went_wrong(expected: Mapping[str, Expected]) -> str:
    """All agents' failures in one sentence; empty: there is none."""
    return "; ".join(f"{name}: {failure}" for name, found in expected.items() if (failure := failure_of(found)))


def _goes_back(history: History[UpdateEvent]) -> bool:
    return replay(history.events).rollback is not None


def _rolled_back(
    history: History[UpdateEvent], read_backs: tuple[ReadBack, ...], unreached: dict[str, str]
) -> list[UpdateEvent]:
    state: Update = replay(history.events)
    if state.stage is not Stage.ROLLING_BACK or state.rollback is None:
        return []
    wanted = state.rollback
    return [
        UpdateRolledBack(
            update_id=wanted.update_id, by=wanted.by, reason=wanted.reason, read_backs=read_backs, unreached=unreached
        )
    ]
