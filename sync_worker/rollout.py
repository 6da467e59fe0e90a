"""The process of one rollout: configure every agent, read back, confirm; or take the values back and say why.

Leased by `update.released`, and by `update.roll-back-requested`, which takes the lease from a running holder. What went
wrong on the way out is written as a request to roll back, so there is one way back, whoever wants it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.leases import RESUMPTIONS, Lease, is_exhausted
from tars.schemas.agent import AgentEvent, ConfigureAgent
from tars.schemas.errors import Conflict, Poison
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
from tars.sync_worker.lifecycle import OVER, Stage, Update, replay
from tars.sync_worker.reload import (
    Expected,
    configure_id,
    expire,
    failures_of,
    may_still_be_sent,
    read_backs_of,
    rollback_command,
    update_command,
)

ROLLOUT: Final = By(principal="rollout")
"""Who takes an update back that went wrong."""
POLL_SECONDS: Final = 1.0
"""The bell can ring before an event is readable, and a core message can be lost: look again this often."""
GIVEN_UP: Final = "given up: its holders kept dying without a step"


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
        exhausted, hopeless = is_exhausted(lease.history), is_exhausted(_before_last_row(lease.history))
        resumed = UpdateResumed(update_id=lease.key, holder=lease.holder, delivery=lease.delivery)
        await lease.append(lambda _: [resumed])
        if exhausted:
            await self._give_up(lease, state.proposal, hopeless=hopeless)
        elif going_back:
            await self._roll_back(lease, state.proposal)
        else:
            await self._go(lease, state.proposal)

    async def _go(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> None:
        # In one order for all: of updates that want the same agents at once, one wins.
        agents = tuple(sorted(proposal.base))
        started = UpdateStarted(update_id=lease.key, agents=agents)
        await lease.append(lambda history: [started] if _stage(history) is Stage.RELEASED else [])
        if _stage(lease.history) is not Stage.RELOADING:
            return  # somebody wants it back already: that lease does the rest
        expected, failures = await self._configure(lease, proposal, agents)
        if not failures:
            await self._listen(lease, expected, enough=lambda: bool(failures_of(expected)))
            failures = failures_of(expected)
        if not failures and not all(found.settled for found in expected.values()):
            return
        outcome = _outcome(lease.key, expected, failures)
        done = await lease.append(lambda history: outcome if _stage(history) is Stage.RELOADING else [])
        if any(isinstance(event, UpdateRollBackRequested) for event in done):
            await self._roll_back(lease, proposal)  # at once: its own lease may wait for a free place

    async def _configure(
        self, lease: Lease[UpdateEvent], proposal: UpdateProposed, agents: tuple[str, ...]
    ) -> tuple[dict[str, Expected], dict[str, str]]:
        """Send the new values; stop at the first agent that has another configuration, and name it."""
        by = replay(lease.history.events).approved_by or proposal.by
        expected: dict[str, Expected] = {}
        for agent_id in agents:
            command = update_command(proposal, agent_id, by)
            try:
                version = await self._send(command)
            except Conflict as conflict:
                return expected, {agent_id: str(conflict)}
            expected[agent_id] = Expected(command, version, _since(lease.history))
        return expected, {}

    async def _roll_back(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> None:
        back, unreached = await self._take_back(lease, proposal)
        await lease.append(lambda history: _rolled_back(replay(history.events), back, unreached))

    async def _take_back(
        self, lease: Lease[UpdateEvent], proposal: UpdateProposed
    ) -> tuple[tuple[ReadBack, ...], dict[str, str]]:
        """Configure the old values wherever the new ones are or may still come; say who read back, and who not."""
        if not any(isinstance(event, UpdateStarted) for event in lease.history.events):
            return (), {}
        request = replay(lease.history.events).rollback
        by = request.by if request else ROLLOUT
        fence = may_still_be_sent(lease.history.events, ROLLOUT)
        expected: dict[str, Expected] = {}
        unreached: dict[str, str] = {}
        for agent_id in sorted(proposal.base):
            try:
                found = await self._send_back(proposal, agent_id, by, fence=fence)
            except Conflict as conflict:
                unreached[agent_id] = str(conflict)
                continue
            if found is not None:
                expected[agent_id] = Expected(*found, _since(lease.history))
        await self._listen(lease, expected, enough=lambda: False)
        return read_backs_of(expected), unreached | failures_of(expected)

    async def _send(self, command: ConfigureAgent) -> int:
        """Store a configuration once, however often this is tried; return its version, or raise Conflict: it moved."""
        message_id = configure_id(command.update_id, command.agent_id, command.purpose)
        subject = configure_subject(command.agent_id)
        try:
            return await self.bus.publish(command, id=message_id, after=(subject, command.base))
        except Conflict as conflict:
            newest = await self.bus.last("AGENTS", subject)
            if newest is not None and newest[1] == message_id:
                return newest[0]
            rival = newest[1] if newest else "nobody"
            raise Conflict(f"its base moved: it was configured by {rival} meanwhile") from conflict

    async def _send_back(
        self, proposal: UpdateProposed, agent_id: str, by: By, *, fence: bool
    ) -> tuple[ConfigureAgent, int] | None:
        """Configure the old values over our own; None: the agent was never reached.

        fence: configure an agent that was not reached, too, so that a holder that is still sending conflicts there.
        Raises Conflict when another update has configured the agent since.
        """
        sent = configure_id(proposal.update_id, agent_id, "update")
        back = configure_id(proposal.update_id, agent_id, "rollback")
        while True:
            newest = await self.bus.last("AGENTS", configure_subject(agent_id))
            version, message_id = newest[:2] if newest else (0, "")
            if message_id == back:
                return rollback_command(proposal, agent_id, version, by), version
            untouched = version == proposal.base[agent_id]
            if untouched and not fence:
                return None
            if not untouched and message_id != sent:
                await self._note_overtaken(proposal, agent_id, message_id)
                return None
            command = rollback_command(proposal, agent_id, version, by)
            try:
                return command, await self._send(command)
            except Conflict:
                continue  # a holder that lost its lease was faster: look again

    async def _note_overtaken(self, proposal: UpdateProposed, agent_id: str, rival: str) -> None:
        """Another update's values run there: they stay, and only if they lie over ours is that worth a word."""
        since = await self.journal.messages("AGENTS", configure_subject(agent_id), after=proposal.base[agent_id])
        if configure_id(proposal.update_id, agent_id, "update") in {entry.id for entry in since}:
            raise Conflict(f"it was configured by {rival} since: roll that back first")

    async def _listen(
        self, lease: Lease[UpdateEvent], expected: Mapping[str, Expected], *, enough: Callable[[], bool]
    ) -> None:
        """Hear the agents until each has settled or let its limit pass, or the update's stage is another."""
        clock, stage = asyncio.get_running_loop().time, _stage(lease.history)
        began = clock()
        heard = [history_subject("update", lease.key), *(history_subject("agent", name) for name in expected)]
        async with Bell.on(self.bus, *heard) as bell:
            while True:
                bell.clear()
                await self._read(expected)
                expire(expected.values(), clock() - began, self.accept_seconds, self.apply_seconds)
                if all(found.settled for found in expected.values()) or enough():
                    return
                if _stage(await lease.follow()) is not stage:
                    return
                await bell.wait(min(POLL_SECONDS, self.accept_seconds / 4))

    async def _read(self, expected: Mapping[str, Expected]) -> None:
        async def one(name: str, found: Expected) -> None:
            try:
                new: History[AgentEvent] = await self.journal.read("agent", name, after=found.read_up_to)
            except Poison as error:  # its history, not ours: the others go on
                found.failure = f"its events cannot be read: {error}"
                return
            found.read_up_to = new.version or found.read_up_to
            found.hear(new.events)

        await asyncio.gather(*(one(name, found) for name, found in expected.items() if not found.settled))

    async def _give_up(self, lease: Lease[UpdateEvent], proposal: UpdateProposed, *, hopeless: bool) -> None:
        """Take back what can be taken back and end; once that has failed as often, only end."""
        told = "look at its agents by hand"
        if not hopeless:
            back, unreached = await self._take_back(lease, proposal)
            left = "".join(f"; {name}: {why}" for name, why in unreached.items())
            told = f"taken back on {len(back)} agents{left}"
        failed = UpdateFailed(update_id=lease.key, error=f"{GIVEN_UP}; {told}"[:1000])
        await lease.append(lambda history: [] if _stage(history) in OVER else [failed])


def _stage(history: History[UpdateEvent]) -> Stage:
    return replay(history.events).stage


def _since(history: History[UpdateEvent]) -> int:
    """Where the agents' answers begin: they come after the step that the configurations follow."""
    steps = (UpdateStarted, UpdateRollBackRequested)
    return max((entry.sequence for entry in history.entries if isinstance(entry.event, steps)), default=0)


def _before_last_row(history: History[UpdateEvent]) -> History[UpdateEvent]:
    """The history when its last resumptions were still to come."""
    return replace(history, entries=history.entries[:-RESUMPTIONS])


def _outcome(update_id: str, expected: Mapping[str, Expected], failures: Mapping[str, str]) -> list[UpdateEvent]:
    """What the agents' answers lead to: it stays, or it is to be taken back."""
    if failures:
        wrong = "; ".join(f"{name}: {why}" for name, why in failures.items())
        return [UpdateRollBackRequested(update_id=update_id, by=ROLLOUT, reason=wrong[:1000])]
    reloaded = UpdateReloaded(update_id=update_id, read_backs=read_backs_of(expected))
    return [reloaded, UpdateConfirmed(update_id=update_id)]


def _rolled_back(state: Update, read_backs: tuple[ReadBack, ...], unreached: dict[str, str]) -> list[UpdateEvent]:
    wanted = state.rollback
    if state.stage is not Stage.ROLLING_BACK or wanted is None:
        return []
    return [
        UpdateRolledBack(
            update_id=wanted.update_id, by=wanted.by, reason=wanted.reason, read_backs=read_backs, unreached=unreached
        )
    ]
