"""The way back of a rollout: the old values everywhere, and where that is wanted what the agents had learnt by then."""

from collections.abc import Mapping
from dataclasses import dataclass

from tars.runtime.leases import Lease
from tars.schemas.agent import ConfigureAgent
from tars.schemas.errors import Conflict
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.update import (
    ROLLOUT,
    ReadBack,
    UpdateEvent,
    UpdateProposed,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)
from tars.sync_worker.fleet import Fleet, answers_since
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
class WayBack:
    """Takes a rollout back."""

    fleet: Fleet

    async def take_back(self, lease: Lease[UpdateEvent], proposal: UpdateProposed) -> TakenBack:
        """Configure the old values wherever the new ones are or may still come; say who read back, and who not."""
        if not any(isinstance(event, UpdateStarted) for event in lease.history.events):
            return TakenBack()
        state = replay(lease.history.events)
        asked = state.rollback or UpdateRollBackRequested(update_id=lease.key, by=ROLLOUT, reason="", what="all")
        fence = may_still_be_sent(lease.history.events, ROLLOUT)
        gone_out = {back.agent_id: back for back in state.read_backs}
        expected: dict[str, Expected] = {}
        unreached: dict[str, str] = {}
        for agent_id in sorted(proposal.base):
            before = gone_out[agent_id].snapshot if agent_id in gone_out and asked.what == "all" else None
            try:
                found = await self._send_back(proposal, agent_id, asked, before, fence=fence)
            except Conflict as conflict:
                unreached[agent_id] = str(conflict)
                continue
            if found is not None:
                expected[agent_id] = Expected(*found, answers_since(lease.history))
        await self.fleet.listen(lease, expected, enough=lambda: False)
        restored = restored_by(expected, gone_out)
        return TakenBack(read_backs_of(expected), restored, unreached | failures_of(expected))

    async def _send_back(
        self,
        proposal: UpdateProposed,
        agent_id: str,
        asked: UpdateRollBackRequested,
        restore: SnapshotRef | None,
        *,
        fence: bool,
    ) -> tuple[ConfigureAgent, int] | None:
        """Configure the old values over our own; None: the agent was never reached.

        fence: configure an agent that was not reached, too, so that a holder that is still sending conflicts there.
        Raises Conflict when another update has configured the agent since, unless that is to be undone as well.
        """
        back = back_id(proposal.update_id, agent_id)
        while True:
            version, message_id = await self.fleet.newest(agent_id)
            if message_id == back:
                return rollback_command(proposal, agent_id, version, asked.by, restore), version
            untouched = version == proposal.base[agent_id]
            if untouched and not fence:
                return None
            if not untouched and not is_ours(message_id, proposal.update_id, agent_id):
                if not await self._was_overtaken(proposal, agent_id, version):
                    return None
                if not asked.over_later:
                    raise Conflict(f"it was configured by {message_id} since: roll that back first")
            command = rollback_command(proposal, agent_id, version, asked.by, restore)
            try:
                return command, await self.fleet.send(command, back)
            except Conflict:
                continue  # a holder that lost its lease was faster: look again

    async def _was_overtaken(self, proposal: UpdateProposed, agent_id: str, version: int) -> bool:
        """Whether another update's values lie over ours; if ours never came, there is nothing to take back."""
        since = await self.fleet.configurations(agent_id, after=proposal.base[agent_id], reach=version)
        return any(is_ours(entry.id, proposal.update_id, agent_id) for entry in since)


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
