"""What a rollout asks of its agents, and what their answers amount to. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tars.schemas.agent import (
    AgentAccepted,
    AgentEvent,
    AgentRefused,
    AgentReloaded,
    AgentRestored,
    AgentStarted,
    AgentStopped,
    ConfigureAgent,
)
from tars.schemas.hyperparameters import same
from tars.schemas.message import By
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.update import (
    ReadBack,
    UpdateApproved,
    UpdateEvent,
    UpdateProposed,
    UpdateResumed,
    UpdateRollBackRequested,
    content_of,
)
from tars.sync_worker.lifecycle import configuration


@dataclass
class Expected:
    """An agent that was configured, and what is known of it so far."""

    command: ConfigureAgent
    version: int
    read_up_to: int
    """The sequence of its newest event that was read."""
    accepted: bool = False
    read_back: ReadBack | None = None
    restored: AgentRestored | None = None
    """It went back to the snapshot that it was told to."""
    failure: str | None = None
    stopped: AgentStopped | None = None
    """It ended before it read back."""

    @property
    def finished(self) -> bool:
        """It ended before it read back, for it had nothing more to do."""
        return self.stopped is not None and self.stopped.cause == "finished"

    @property
    def settled(self) -> bool:
        """There is nothing more to wait for."""
        return self.read_back is not None or self.failure is not None

    def hear(self, events: Iterable[AgentEvent]) -> None:
        """Note what the agent says of this version."""
        for event in events:
            if isinstance(event, AgentAccepted) and event.version >= self.version:
                self.accepted = True
            elif isinstance(event, AgentRestored) and event.version == self.version:
                self.restored = event
            elif isinstance(event, AgentReloaded) and event.version == self.version:
                self.read_back = read_back_of(event, self.command)
            elif isinstance(event, AgentRefused) and event.version == self.version:
                self.failure = f"it refused: {'; '.join(event.reasons)}"
            elif isinstance(event, AgentStopped) and not self.settled:
                self.failure = f"it stopped ({event.cause}) before it read back"
                self.stopped = event
            elif isinstance(event, AgentStarted) and self.stopped is not None:
                self.failure, self.stopped = None, None  # it runs again


def update_command(
    proposal: UpdateProposed, agent_id: str, base: int, approval: UpdateApproved | None, twin: int
) -> ConfigureAgent:
    """Tell an agent to run the new values, what proves that they were approved, and to remember first what it is.

    twin: episodes of a copy beside it.
    """
    by = approval.by if approval else proposal.by
    command = _command(proposal, agent_id, "update", base, configuration(proposal, agent_id), by)
    proof = {"content": content_of(proposal).canonical().decode(), "approval": approval.signed if approval else None}
    return command.model_copy(update={**proof, "snapshot_first": True, "twin": twin})


def rollback_command(
    proposal: UpdateProposed, agent_id: str, base: int, by: By, restore: SnapshotRef | None
) -> ConfigureAgent:
    """Tell an agent to run again what it ran before, and with `restore` to be again what it was."""
    command = _command(proposal, agent_id, "rollback", base, proposal.before[agent_id], by)
    return command.model_copy(update={"restore": restore})


def anew_command(proposal: UpdateProposed, agent_id: str, base: int, by: By) -> ConfigureAgent:
    """Tell an agent to run what it ran before, until the watch starts anew."""
    return _command(proposal, agent_id, "rollback", base, proposal.before[agent_id], by)


def _command(
    proposal: UpdateProposed,
    agent_id: str,
    purpose: Literal["update", "rollback"],
    base: int,
    values: Mapping[str, int | float | None],
    by: By,
) -> ConfigureAgent:
    return ConfigureAgent(
        agent_id=agent_id, update_id=proposal.update_id, purpose=purpose, base=base, values=dict(values), by=by
    )


def update_message_id(update_id: str, agent_id: str, attempt: int = 1) -> str:
    """The id of the new values: the same however often, and by whomever, the rollout is resumed."""
    return f"{update_id}.{agent_id}.update" + (f"-{attempt}" if attempt > 1 else "")


def anew_id(update_id: str, agent_id: str) -> str:
    """The id of the old values between two attempts."""
    return f"{update_id}.{agent_id}.anew"


def back_id(update_id: str, agent_id: str, attempt: int = 1) -> str:
    """The id of the old values, for good; one more for each time that they are asked for."""
    return f"{update_id}.{agent_id}.rollback" + (f"-{attempt}" if attempt > 1 else "")


def is_ours(message_id: str, update_id: str, agent_id: str) -> bool:
    """Whether a configuration is one of this update's."""
    return message_id.startswith(f"{update_id}.{agent_id}.")


def read_back_of(event: AgentReloaded, command: ConfigureAgent) -> ReadBack:
    """What an agent's reload proves, against what it was told: its own account of that is not asked."""
    return ReadBack(
        agent_id=event.agent_id,
        version=event.version,
        requested=command.values,
        effective=event.effective,
        step=event.step,
        milliseconds=event.milliseconds,
        weights_kept=event.weights_before == event.weights_after,
        buffer_kept=event.buffer_before == event.buffer_after,
        snapshot=event.snapshot,
        weights=event.weights_before,
    )


def expire(expected: Iterable[Expected], waited: float, accept: float, apply: float) -> None:
    """Note who did not answer in time, after `waited` seconds."""
    for found in expected:
        if not found.settled and not found.accepted and waited > accept:
            found.failure = f"it did not accept within {accept:g} s"
        elif not found.settled and waited > apply:
            found.failure = f"it accepted, but did not apply within {apply:g} s"


def failure_of(found: Expected) -> str | None:
    """Why an agent does not run what it was told to; None: it does, or nothing is known yet."""
    back = found.read_back
    if found.failure is not None or back is None:
        return found.failure
    if not back.equal:
        keys = dict.fromkeys((*back.requested, *back.effective))
        told = (
            f"{key} {back.requested.get(key)} asked, {back.effective.get(key)} read back"
            for key in keys
            if key not in back.requested
            or key not in back.effective
            or not same(back.requested[key], back.effective[key])
        )
        return f"its read-back differs: {'; '.join(told)}"
    return None if back.weights_kept else "its weights changed during the reload"


def failures_of(expected: Mapping[str, Expected]) -> dict[str, str]:
    """Each agent that does not run what it was told to, and why."""
    return {name: failure for name, found in expected.items() if (failure := failure_of(found))}


def failures_of_those_left(expected: Mapping[str, Expected]) -> dict[str, str]:
    """The same on the way out, where an agent that finishes leaves the rollout, and the others go on."""
    return failures_of({name: found for name, found in expected.items() if not found.finished})


def restored_by(expected: Mapping[str, Expected], gone_out: Mapping[str, ReadBack]) -> tuple[str, ...]:
    """Agents that are proven to be again what they were: the hash of their parameters is that of before."""
    return tuple(
        name
        for name, found in expected.items()
        if found.restored is not None and name in gone_out and found.restored.weights == gone_out[name].weights
    )


def read_backs_of(expected: Mapping[str, Expected]) -> tuple[ReadBack, ...]:
    """What was read back, from those that answered."""
    return tuple(found.read_back for found in expected.values() if found.read_back is not None)


def may_still_be_sent(events: Iterable[UpdateEvent], rollout: By) -> bool:
    """Say whether some holder may be sending the new values right now, and so must be kept from it.

    Not when the only holder there was asked for the way back itself: it had stopped sending.
    """
    holders = 0
    for event in events:
        if isinstance(event, UpdateResumed):
            holders += 1
        elif isinstance(event, UpdateRollBackRequested):
            return event.by != rollout or holders > 1
    return True
