"""An update: new hyperparameter values on their way to live agents."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, Field, StrictInt, field_validator

from tars.schemas.bounds import Strictness
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import Value, all_same
from tars.schemas.message import By, Command, Event, Frozen, Holder, Id, Principal, Reason, Signed
from tars.schemas.snapshot import SnapshotRef

APPLY_WITHIN: Final = timedelta(days=14)
"""How long after its approval an update may go to an agent, unless the approval says otherwise."""
ApprovalMode = Literal["manual", "autonomous_threshold", "autonomous_all"]
What = Literal["values", "all"]
"""What goes back: the values alone, or parameters, optimisers and counters too."""
RolloutStage = Literal["canary", "half", "rest"]
"""Agents of a rollout that switch together: a few, then half where the few said too little, then all."""
ROLLOUT: Final = By(principal="rollout")
"""TARS itself, where it takes an update back that went wrong."""


class ProposeUpdate(Command):
    """Ask for these values on these agents."""

    kind: Literal["update.propose.v1"] = "update.propose.v1"
    update_id: Id
    agents: Annotated[tuple[Id, ...], Field(min_length=1, max_length=1000)]
    values: Annotated[dict[str, Value], Field(min_length=1)]
    """Only the keys to change; the rest stays as each agent runs it."""
    base: dict[Id, StrictInt] | None = None
    """The version of each agent that this was made for; None: the versions at the decision."""
    evidence: Evidence | None = None
    study_id: Id | None = None
    reason: Reason = ""
    expires_at: AwareDatetime | None = None
    """No approval after this moment; None: seven days."""

    @field_validator("agents")
    @classmethod
    def _named_once(cls, agents: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(agents)) != len(agents):
            raise ValueError("an agent is named twice")
        return agents


class ApproveUpdate(Command):
    """Let a pending update through."""

    kind: Literal["update.approve.v1"] = "update.approve.v1"
    update_id: Id
    reason: Reason = ""
    hold: bool = False
    """Do not release it yet: ApplyUpdate does."""
    content: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """The digest of the content that is approved; a signed approval must give it."""
    apply_until: AwareDatetime | None = None
    """No agent takes it after this moment; None: 14 days after the approval."""


class RejectUpdate(Command):
    """Turn an update down before it is released."""

    kind: Literal["update.reject.v1"] = "update.reject.v1"
    update_id: Id
    reason: Reason = ""


class ApplyUpdate(Command):
    """Release an update that was approved on hold."""

    kind: Literal["update.apply.v1"] = "update.apply.v1"
    update_id: Id


class RollBackUpdate(Command):
    """Take a released update back: its agents return to the values they ran before it."""

    kind: Literal["update.roll-back.v1"] = "update.roll-back.v1"
    update_id: Id
    reason: Reason = ""
    what: What | None = None
    """None: all while its rollout is not over, afterwards the values: what was learnt since is kept."""
    over_later: bool = False
    """Go back to before this update also where later updates lie over it."""


class UpdateProposed(Event):
    """A valid update waits for approval; its content is fixed from here on."""

    kind: Literal["update.proposed.v1"] = "update.proposed.v1"
    update_id: Id
    by: By
    values: dict[str, Value]
    base: dict[Id, int]
    """Its agents, and the version of each that it was made for."""
    before: dict[Id, dict[str, Value]]
    """The whole set that each agent ran when it was proposed: what a rollback returns to."""
    evidence: Evidence | None
    study_id: Id | None
    reason: Reason
    expires_at: AwareDatetime
    strictness: Strictness
    content: str
    """sha256 of what an approval approves: `content_of(...).digest()`."""
    doubt: Reason = ""
    """Why a person decides on what the mode would have approved by itself; empty: nothing speaks against that."""
    signed: Signed | None = None
    """The command as it was signed; None: nothing proves it, or no command asked for this."""


class UpdateRefused(Event):
    """A proposal was invalid; every broken rule is named."""

    kind: Literal["update.refused.v1"] = "update.refused.v1"
    update_id: Id
    by: By
    reasons: tuple[str, ...]
    agents: tuple[Id, ...]
    values: dict[str, Value]


class UpdateApproved(Event):
    """Somebody, or the mode, let it through."""

    kind: Literal["update.approved.v1"] = "update.approved.v1"
    update_id: Id
    by: By
    mode: ApprovalMode
    """manual: a person did."""
    reason: Reason
    hold: bool
    apply_until: AwareDatetime | None = None
    signed: Signed | None = None
    """The approval as it was signed; None: nothing proves it."""
    single_operator: bool = False
    """Who proposed it approved it too."""


class UpdateRejected(Event):
    """It was turned down."""

    kind: Literal["update.rejected.v1"] = "update.rejected.v1"
    update_id: Id
    by: By
    reason: Reason
    signed: Signed | None = None
    """The command as it was signed; None: nothing proves it, or no command asked for this."""


class UpdateSuperseded(Event):
    """Its agents have moved on since it was made."""

    kind: Literal["update.superseded.v1"] = "update.superseded.v1"
    update_id: Id
    by: By
    reasons: tuple[str, ...]


class UpdateCommandRefused(Event):
    """A command about it may not be carried out."""

    kind: Literal["update.command-refused.v1"] = "update.command-refused.v1"
    update_id: Id
    by: By
    command: str
    """The refused command's kind."""
    reasons: tuple[str, ...]


class UpdateReleased(Event):
    """It may go to its agents; this event leases the rollout."""

    kind: Literal["update.released.v1"] = "update.released.v1"
    update_id: Id
    by: By
    signed: Signed | None = None
    """The command that applied it, as it was signed; None: nothing proves it, or its approval released it."""


class UpdateRollBackRequested(Event):
    """Somebody wants it taken back; this event takes the rollout's lease."""

    kind: Literal["update.roll-back-requested.v1"] = "update.roll-back-requested.v1"
    update_id: Id
    by: By
    reason: Reason
    what: What | None = None
    over_later: bool = False
    signed: Signed | None = None
    """The command as it was signed; None: nothing proves it, or no command asked for this."""


class UpdateResumed(Event):
    """A sync worker took the rollout's lease."""

    kind: Literal["update.resumed.v1"] = "update.resumed.v1"
    update_id: Id
    holder: Holder
    delivery: int


class ReadBack(Frozen):
    """What one agent was found to run after a reload."""

    agent_id: Id
    version: int
    requested: dict[str, Value]
    effective: dict[str, Value]
    """Read from where the learner uses each value."""
    step: int
    """The agent's gradient step count when it took effect."""
    milliseconds: float
    """From the agent's hearing of it to its reading back."""
    weights_kept: bool
    buffer_kept: bool
    snapshot: SnapshotRef | None = None
    """What it was just before; going back can return to it while it is kept."""
    weights: str | None = None
    """On the way out: sha256 of the parameters just before. On the way back: after loading the snapshot; the two are
    equal where all went back."""

    @property
    def equal(self) -> bool:
        """The agent runs what was asked for, to the 32-bit floats it computes with."""
        return all_same(self.requested, self.effective)


class UpdateStarted(Event):
    """Its rollout begins."""

    kind: Literal["update.started.v1"] = "update.started.v1"
    update_id: Id
    agents: tuple[Id, ...]
    canary: tuple[Id, ...] = ()
    """Those that switch first, picked at random; the others are compared with them."""
    twins: bool = False
    """Copies of the canaries that go on with the old values are compared with them, not the others."""
    slot_seconds: float | None = None
    """Length of a slot of the watch: the median episode. None: nothing is watched."""
    slots: int = 0
    """Length of each stage's watch."""
    smallest_harm: float | None = None
    """The smallest loss that the canary stage finds 4 times in 5, in the score's unit."""
    normalised: bool = True
    """Scores are normalised, so that differences are percentage points; else they are returns."""
    unwatched: Reason = ""
    """Why nothing is watched."""


class UpdateReloaded(Event):
    """All agents of a stage run the new values, read back."""

    kind: Literal["update.reloaded.v1"] = "update.reloaded.v1"
    update_id: Id
    read_backs: tuple[ReadBack, ...]
    stage: RolloutStage = "rest"
    attempt: int = 1
    """2: the watch of this stage was started anew."""
    before: dict[Id, tuple[float | None, ...]] = Field(default_factory=dict)
    """Of every agent of the watch, its mean score in each slot before the change, the newest last; None: no episode."""


class UpdateJudged(Event):
    """A watch has come to its verdict on a stage. The effect is that on the agents of the stage, while it watched."""

    kind: Literal["update.judged.v1"] = "update.judged.v1"
    update_id: Id
    stage: RolloutStage
    attempt: int = 1
    verdict: Literal["CONFIRM", "ROLL_BACK", "ENVIRONMENT", "INCONCLUSIVE"]
    then: Literal["go on", "widen", "start anew", "undo"]
    reason: Reason
    effect: float | None
    """Difference in differences of mean scores, reloaded - compared; None: too little was heard."""
    effect_low: float | None
    """Lower end of its 90 % interval."""
    effect_high: float | None
    slot: int
    """After how many slots."""
    reloaded: tuple[Id, ...]
    compared: tuple[Id, ...]
    """Empty: with their own past."""
    smallest_harm: float | None
    stopped_early: bool


class UpdateConfirmed(Event):
    """It stays."""

    kind: Literal["update.confirmed.v1"] = "update.confirmed.v1"
    update_id: Id
    reason: Reason = ""
    """What is known of it: not harmful, kept but not proven, or not watched."""


class UpdateRolledBack(Event):
    """Its agents run again what they ran before it."""

    kind: Literal["update.rolled-back.v1"] = "update.rolled-back.v1"
    update_id: Id
    by: By
    reason: Reason
    read_backs: tuple[ReadBack, ...]
    restored: tuple[Id, ...] = ()
    """Agents whose parameters, optimisers and counters went back too, proven by the hash of the parameters."""
    unreached: dict[Id, str]
    """Agents that could not be taken back, and why: a person must look at them."""


class UpdateFailed(Event):
    """Its rollout cannot go on; what was changed was taken back where it could be."""

    kind: Literal["update.failed.v1"] = "update.failed.v1"
    update_id: Id
    error: Reason


UpdateCommand = Annotated[
    ProposeUpdate | ApproveUpdate | RejectUpdate | ApplyUpdate | RollBackUpdate, Field(discriminator="kind")
]
UpdateEvent = Annotated[
    UpdateProposed
    | UpdateRefused
    | UpdateApproved
    | UpdateRejected
    | UpdateSuperseded
    | UpdateCommandRefused
    | UpdateReleased
    | UpdateRollBackRequested
    | UpdateResumed
    | UpdateStarted
    | UpdateReloaded
    | UpdateJudged
    | UpdateConfirmed
    | UpdateRolledBack
    | UpdateFailed,
    Field(discriminator="kind"),
]


class Content(Frozen):
    """What an approval approves; its digest is what is signed."""

    values: dict[str, Value]
    """Only the keys that change."""
    base: dict[Id, int]
    """On which agents, and at which version of each."""
    evidence: str | None
    """The digest of why."""
    proposer: Principal
    expires_at: AwareDatetime


def content_of(proposed: UpdateProposed) -> Content:
    """The content that an update fixed when it was proposed."""
    return Content(
        values=proposed.values,
        base=proposed.base,
        evidence=proposed.evidence.digest() if proposed.evidence else None,
        proposer=proposed.by.principal,
        expires_at=proposed.expires_at,
    )
