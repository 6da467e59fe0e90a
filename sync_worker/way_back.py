"""The way back of a rollout: the old values everywhere, and where that is wanted what the agents had learnt by then."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tars.runtime.leases import Lease
from tars.runtime.running_agents import running_agents
from tars.schemas.agent import ConfigureAgent
from tars.schemas.errors import Conflict
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.update import (
    ROLLOUT,
    ReadBack,
    UpdateEvent,
    UpdateProposed,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)
from tars.sync_worker.fleet import Fleet, asked_back_at
from tars.sync_worker.lifecycle import Stage, Update, replay
from tars.sync_worker.reload import (
    Expected,
    back_id,
    failures_of,
    is_ours,
    may_still_be_sent,
    read_backs_of,
    restored_by,
    rollback_command,
)


@dataclass(frozen=True)
class TakenBack:
    """What came of going back."""

    read_backs: tuple[ReadBack, ...] = ()
    restored: tuple[str, ...] = ()
    """Agents whose parameters are proven to be those of before."""
    unreached: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Way:
    """What a way back is for each of its agents."""

    proposal: UpdateProposed
    asked: UpdateRollBackRequested
    attempt: int
    """2: not every agent was reached before."""
    fence: bool
    """Configure an agent that was not reached, too, so that a holder that is still sending conflicts there."""


@dataclass(frozen=True)
class WayBack:
    """Takes a rollout back."""

    fleet: Fleet

    async def take_back(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> TakenBack:
        """Configure the old values wherever the new ones are or may still come; say who read back, and who not.

        Asked for once more: of the agents that were not reached before. The others have been their own since.
        """
        events, expected, unreached = lease.history.events, dict[str, Expected](), dict[str, str]()
        if not any(isinstance(event, UpdateStarted) for event in events):
            return TakenBack()
        way, before = _way(lease.key, proposal, events), replay(events).back
        gone_out = {back.agent_id: back for e in events if isinstance(e, UpdateReloaded) for back in e.read_backs}
        for agent_id in sorted(before.unreached if before else proposal.base):
            snapshot = gone_out[agent_id].snapshot if agent_id in gone_out and way.asked.what == "all" else None
            try:
                found = await self._send_back(way, agent_id, snapshot)
            except Conflict as conflict:
                unreached[agent_id] = str(conflict)
                continue
            if found is not None:
                expected[agent_id] = Expected(*found, asked_back_at(lease.history))
        await self.fleet.listen(lease, expected, enough=lambda: False)
        found_back = TakenBack(
            read_backs_of(expected), restored_by(expected, gone_out), unreached | failures_of(expected)
        )
        return _together(before, found_back)

    async def _send_back(
        self, way: Way, agent_id: str, restore: SnapshotRef | None
    ) -> tuple[ConfigureAgent, int] | None:
        """Configure the old values over our own; None: the agent was never reached.

        Raises Conflict when another update has configured the agent since, unless that is to be undone as well.
        """
        proposal, asked = way.proposal, way.asked
        while True:
            version, message_id = await self.fleet.newest(agent_id)
            if await self._is_sent(way, agent_id, message_id, version):
                return rollback_command(proposal, agent_id, version, asked.by, restore), version
            untouched = version == proposal.base[agent_id]
            if untouched and not way.fence:
                return None
            if not untouched and not is_ours(message_id, proposal.update_id, agent_id):
                if not await self._was_overtaken(proposal, agent_id, version):
                    return None
                if not asked.over_later:
                    raise Conflict(f"it was configured by {message_id} since: roll that back first")
            command = rollback_command(proposal, agent_id, version, asked.by, restore)
            back = back_id(proposal.update_id, agent_id, way.attempt)
            try:
                return command, await self.fleet.send(command, back)
            except Conflict:
                continue  # a holder that lost its lease was faster: look again

    async def _is_sent(self, way: Way, agent_id: str, message_id: str, version: int) -> bool:
        """Whether the old values were sent already; by an earlier way back, where the agent runs them by now."""
        *earlier, now = (back_id(way.proposal.update_id, agent_id, attempt + 1) for attempt in range(way.attempt))
        if message_id not in earlier:
            return message_id == now
        agents = await running_agents(self.fleet.journal, [agent_id])
        return agent_id in agents and agents[agent_id].applied == version

    async def _was_overtaken(self, proposal: UpdateProposed, agent_id: str, version: int) -> bool:
        """Whether another update's values lie over ours; if ours never came, there is nothing to take back."""
        since = await self.fleet.configurations(agent_id, after=proposal.base[agent_id], reach=version)
        return any(is_ours(entry.id, proposal.update_id, agent_id) for entry in since)


def _way(update_id: str, proposal: UpdateProposed, events: Sequence[UpdateEvent]) -> Way:
    asked = replay(events).rollback or UpdateRollBackRequested(update_id=update_id, by=ROLLOUT, reason="", what="all")
    attempt = 1 + sum(isinstance(event, UpdateRolledBack) for event in events)
    return Way(proposal, asked, attempt, may_still_be_sent(events, ROLLOUT))


def _together(before: UpdateRolledBack | None, found: TakenBack) -> TakenBack:
    """What came of it by now, with the agents that an earlier way back reached."""
    if before is None:
        return found
    reached = tuple(back for back in before.read_backs if back.agent_id not in before.unreached)
    restored = tuple(name for name in before.restored if name not in before.unreached)
    return TakenBack((*reached, *found.read_backs), (*restored, *found.restored), found.unreached)


def rolled_back(state: Update, found: TakenBack) -> list[UpdateEvent]:
    """The event that ends a rollout that was taken back."""
    wanted = state.rollback
    if state.stage is not Stage.ROLLING_BACK or wanted is None:
        return []
    return [
        UpdateRolledBack(
            update_id=wanted.update_id,
            by=wanted.by,
            reason=wanted.reason,
            read_backs=found.read_backs,
            restored=found.restored,
            unreached=dict(found.unreached or {}),
        )
    ]
