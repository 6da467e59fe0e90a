"""The life of an update, as two pure functions.

proposed -> refused | pending -> approved -> released -> reloading -> reloaded -> confirmed
pending -> rejected, superseded; from released on: -> rolling back -> rolled back (again, where not all were reached)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import reduce
from typing import Final, assert_never

from tars.schemas.bounds import Strictness
from tars.schemas.errors import Refused
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By, Signed
from tars.schemas.running import RunningAgent
from tars.schemas.update import (
    APPLY_WITHIN,
    ApplyUpdate,
    ApprovalMode,
    ApproveUpdate,
    ProposeUpdate,
    ReadBack,
    RejectUpdate,
    RollBackUpdate,
    UpdateApproved,
    UpdateCommand,
    UpdateCommandRefused,
    UpdateConfirmed,
    UpdateEvent,
    UpdateFailed,
    UpdateJudged,
    UpdateProposed,
    UpdateRefused,
    UpdateRejected,
    UpdateReleased,
    UpdateReloaded,
    UpdateResumed,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
    UpdateSuperseded,
    What,
    content_of,
)
from tars.schemas.validation import Proposal, changed, moved, objections
from tars.sync_worker.findings import Findings, unfounded

EXPIRY: Final = timedelta(days=7)
"""How long a proposal may wait for its approval, unless it says otherwise."""

LATE: Final = "it came after its deadline"


class Stage(StrEnum):
    """How far an update has come."""

    UNKNOWN = "unknown"
    REFUSED = "refused"
    PENDING = "pending"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    APPROVED = "approved"
    RELEASED = "released"
    RELOADING = "reloading"
    RELOADED = "reloaded"
    CONFIRMED = "confirmed"
    ROLLING_BACK = "rolling back"
    ROLLED_BACK = "rolled back"
    FAILED = "failed"


RELEASED_STAGES: Final = frozenset({Stage.RELEASED, Stage.RELOADING, Stage.RELOADED, Stage.CONFIRMED})
"""The agents run, or are about to run, the new values: it can only be rolled back."""
GOING_OUT: Final = frozenset({Stage.RELEASED, Stage.RELOADING, Stage.RELOADED})
"""Approved, and on its way to its agents."""
OVER: Final = frozenset({Stage.REFUSED, Stage.REJECTED, Stage.SUPERSEDED, Stage.ROLLED_BACK, Stage.FAILED})


@dataclass(frozen=True)
class Update:
    """What the events so far add up to."""

    stage: Stage = Stage.UNKNOWN
    proposal: UpdateProposed | None = None
    held: bool = False
    approval: UpdateApproved | None = None
    rollback: UpdateRollBackRequested | None = None
    """Somebody wants it back."""
    read_backs: tuple[ReadBack, ...] = ()
    back: UpdateRolledBack | None = None
    """What came of taking it back; it may be asked for again while agents were not reached."""


@dataclass(frozen=True)
class Facts:
    """What a decision needs beside the journal, gathered by the shell."""

    id: str
    """The command's id: the cause of the events."""
    time: datetime
    """When the server stored the command."""
    by: By
    signed: Signed | None = None
    """The command as it was signed, where that proves who sent it."""
    barred: str | None = None
    """Why whoever sent it may not, where only signed commands of those with a role count."""
    late: bool = False
    """Its deadline has passed."""
    mode: ApprovalMode = "manual"
    threshold: float = 0.03
    strictness: Strictness = "medium"
    four_eyes: bool = False
    agents: Mapping[str, RunningAgent] = field(default_factory=dict)
    """The agents concerned, as their own events tell; one that never started is not in it."""
    episodes: Mapping[str, int] = field(default_factory=dict)
    """How many each has run, where that is known."""
    study: Findings | None = None
    """What the study that a proposal names has found, by the ledger."""


def decide(state: Update, command: UpdateCommand, facts: Facts) -> list[UpdateEvent]:  # noqa: PLR0911 - one for each command
    """Say what happens because of `command`.

    Raises Refused, which leaves no event, for a command that is barred and proves no name, for one about an update that
    nobody proposed, and for a proposal by who may not: an event for each would let a flood fill a ledger that is kept
    for ever.
    """
    if facts.barred and not facts.by.signed:
        raise Refused(facts.barred)
    if isinstance(command, ProposeUpdate):
        return _propose(state, command, facts)
    if state.stage is Stage.UNKNOWN:
        raise Refused(f"there is no update {command.update_id}")
    if state.proposal is None:
        return [_refusal(command, facts, "its proposal was refused: propose again under a new id")]
    if reason := facts.barred or (LATE if facts.late else None):
        return [_refusal(command, facts, reason)]
    match command:
        case ApproveUpdate():
            return _approve(state, state.proposal, command, facts)
        case RejectUpdate():
            return _reject(state, command, facts)
        case ApplyUpdate():
            return _apply(state, state.proposal, command, facts)
        case RollBackUpdate():
            return _roll_back(state, command, facts)
        case _:
            assert_never(command)


def _refusal(command: UpdateCommand, facts: Facts, *reasons: str) -> UpdateCommandRefused:
    return UpdateCommandRefused(update_id=command.update_id, by=facts.by, command=command.kind, reasons=reasons)


def _propose(state: Update, command: ProposeUpdate, facts: Facts) -> list[UpdateEvent]:
    base = command.base if command.base is not None else {a: r.heard for a, r in facts.agents.items()}
    if facts.barred and state.stage is Stage.UNKNOWN:
        raise Refused(facts.barred)  # an event would let anybody spoil the id of an update that is still to come
    if facts.barred:
        return [_refusal(command, facts, facts.barred)]
    if state.proposal is not None:
        same = _asks_for_the_same(command, state.proposal)
        return [] if same else [_refusal(command, facts, "another update has this id")]
    if state.stage is not Stage.UNKNOWN:
        return [_refusal(command, facts, f"update is {state.stage}: propose again under a new id")]
    expires_at = command.expires_at or facts.time + EXPIRY
    proposal = Proposal(
        command.agents, command.values, base, command.evidence, expires_at, facts.time, facts.agents, facts.strictness
    )
    reasons = (LATE,) if facts.late else tuple(objections(proposal))
    if reasons:
        refused = UpdateRefused(
            update_id=command.update_id, by=facts.by, reasons=reasons, agents=command.agents, values=command.values
        )
        return [refused]
    proposed = UpdateProposed(
        update_id=command.update_id,
        by=facts.by,
        values=command.values,
        base=base,
        before={agent: dict(facts.agents[agent].values) for agent in command.agents},
        evidence=command.evidence,
        study_id=command.study_id,
        reason=command.reason,
        expires_at=expires_at,
        strictness=facts.strictness,
        content="",
        doubt=_doubt(command, base, facts),
        signed=facts.signed,
    )
    proposed = proposed.model_copy(update={"content": content_of(proposed).digest()})
    return [proposed, *_approve_by_mode(proposed, facts)]


def _asks_for_the_same(command: ProposeUpdate, proposed: UpdateProposed) -> bool:
    """Without a base of its own it means the versions of then, which may have moved since."""
    return (
        (command.values, command.evidence) == (proposed.values, proposed.evidence)
        and set(command.agents) == set(proposed.base)
        and command.base in (None, proposed.base)
    )


def _is_convincing(evidence: Evidence | None, facts: Facts) -> bool:
    return evidence is not None and evidence.promotable and evidence.gain >= facts.threshold


def _doubt(command: ProposeUpdate, base: Mapping[str, int], facts: Facts) -> str:
    """Why a person must decide on evidence that would convince the mode: anybody can write down numbers."""
    evidence = command.evidence
    if facts.mode != "autonomous_threshold" or evidence is None or not _is_convincing(evidence, facts):
        return ""
    return unfounded(evidence, command.study_id, base, facts.study) or _too_short(evidence, command, facts)


def _too_short(evidence: Evidence, command: ProposeUpdate, facts: Facts) -> str:
    """Why evidence says little of learners as old as these: what wins from scratch can harm them."""
    ages = {name: facts.episodes.get(name) for name in command.agents}
    old = [name for name, episodes in ages.items() if episodes is None or episodes > evidence.train_episodes]
    if evidence.start == "snapshot" or not old:
        return ""
    known = ages[old[0]]
    others = f" and {len(old) - 1} more" if len(old) > 1 else ""
    age = f"has run {known} episodes" if known is not None else "has run nobody knows how many episodes"
    return (
        f"its evidence trains {evidence.train_episodes} episodes from scratch, {old[0]} {age}{others}: "
        "a study with start=snapshot tells what becomes of a learner that old"
    )


def _approve_by_mode(proposed: UpdateProposed, facts: Facts) -> list[UpdateEvent]:
    evidence = proposed.evidence
    convincing = _is_convincing(evidence, facts) and not proposed.doubt
    if facts.mode == "manual" or (facts.mode == "autonomous_threshold" and not convincing):
        return []
    why = (
        f"{facts.mode}: held-out gain {evidence.gain:+.3f}" if convincing and evidence else f"{facts.mode}: it is valid"
    )
    by = By(principal=f"mode {facts.mode}")
    approved = UpdateApproved(update_id=proposed.update_id, by=by, mode=facts.mode, reason=why, hold=False)
    return [approved, UpdateReleased(update_id=proposed.update_id, by=by)]


def _approve(state: Update, proposal: UpdateProposed, command: ApproveUpdate, facts: Facts) -> list[UpdateEvent]:
    before = state.approval
    said = before is not None and (before.by.principal, before.hold) == (facts.by.principal, command.hold)
    if said and state.stage in {Stage.APPROVED, *GOING_OUT}:
        return []  # said twice; saying yes again changes nothing
    if state.stage is not Stage.PENDING:
        hint = " on hold: apply it, or reject it" if state.stage is Stage.APPROVED else ""
        return [_refusal(command, facts, f"update is {state.stage}{hint}")]
    if facts.four_eyes and facts.by.principal == proposal.by.principal:
        return [_refusal(command, facts, "four eyes: who proposed it may not approve it")]
    apply_until = command.apply_until or facts.time + APPLY_WITHIN
    if reason := _unlike(proposal, command, facts) or _over(apply_until, facts):
        return [_refusal(command, facts, reason)]
    if hindered := _hindered(proposal, command, facts):
        return hindered
    approved = UpdateApproved(
        update_id=command.update_id,
        by=facts.by,
        mode="manual",
        reason=command.reason,
        hold=command.hold,
        apply_until=apply_until,
        signed=facts.signed,
        single_operator=facts.by.principal == proposal.by.principal,
    )
    return [approved] if command.hold else [approved, UpdateReleased(update_id=command.update_id, by=facts.by)]


def _unlike(proposal: UpdateProposed, command: ApproveUpdate, facts: Facts) -> str | None:
    """Why an approval is not one of this content; unsigned, it may leave out which."""
    content = content_of(proposal).digest()
    if content != proposal.content:
        return "its content is not what was proposed: propose it again"
    if command.content is None and facts.signed is not None:
        return "a signed approval names the content it approves: it gives none"
    if command.content not in {None, content}:
        return f"it approves another content: {command.content}, this update's is {content}"
    return None


def _over(apply_until: datetime, facts: Facts) -> str | None:
    """Why an approved update may go to no agent any more."""
    if facts.time <= apply_until:
        return None
    return f"its approval was for applying it until {apply_until:%Y-%m-%d %H:%M} UTC: propose it again"


def _hindered(proposal: UpdateProposed, command: UpdateCommand, facts: Facts) -> list[UpdateEvent]:
    """Why a pending or held update cannot go on now; empty: it can."""
    if facts.time > proposal.expires_at:
        return [_refusal(command, facts, f"it expired at {proposal.expires_at:%Y-%m-%d %H:%M} UTC: propose it again")]
    agents = facts.agents
    if reasons := moved(proposal.base, agents) or changed(proposal.before, agents):
        superseded = UpdateSuperseded(update_id=command.update_id, by=facts.by, reasons=tuple(reasons))
        return [_refusal(command, facts, *reasons), superseded]  # who asked is told no, with the reasons
    if stopped := [name for name in proposal.base if name not in agents or not agents[name].alive]:
        return [_refusal(command, facts, f"{', '.join(stopped)} does not run: ask again when it does")]
    return []


def _reject(state: Update, command: RejectUpdate, facts: Facts) -> list[UpdateEvent]:
    if state.stage in {Stage.PENDING, Stage.APPROVED}:
        return [UpdateRejected(update_id=command.update_id, by=facts.by, reason=command.reason, signed=facts.signed)]
    if state.stage in RELEASED_STAGES:
        return [_refusal(command, facts, f"update is {state.stage}: roll it back instead")]
    return [_refusal(command, facts, f"update is {state.stage}")]


def _apply(state: Update, proposal: UpdateProposed, command: ApplyUpdate, facts: Facts) -> list[UpdateEvent]:
    if state.held and state.stage in GOING_OUT:
        return []
    if state.stage is not Stage.APPROVED:
        why = "approve it first" if state.stage is Stage.PENDING else "only an update approved on hold is applied"
        return [_refusal(command, facts, f"update is {state.stage}: {why}")]
    until = state.approval.apply_until if state.approval else None
    if until is not None and (reason := _over(until, facts)):
        return [_refusal(command, facts, reason)]
    released = UpdateReleased(update_id=command.update_id, by=facts.by, signed=facts.signed)
    return _hindered(proposal, command, facts) or [released]


def _roll_back(state: Update, command: RollBackUpdate, facts: Facts) -> list[UpdateEvent]:
    if state.stage is Stage.ROLLING_BACK:
        return []
    not_reached = state.stage is Stage.ROLLED_BACK and state.back is not None and state.back.unreached
    if state.stage in RELEASED_STAGES or not_reached:
        asked = UpdateRollBackRequested(
            update_id=command.update_id,
            by=facts.by,
            reason=command.reason,
            what=command.what or _goes_back(state),
            over_later=command.over_later,
            signed=facts.signed,
        )
        return [asked]
    hint = ": reject it instead" if state.stage in {Stage.PENDING, Stage.APPROVED} else ""
    return [_refusal(command, facts, f"update is {state.stage}{hint}")]


def _goes_back(state: Update) -> What:
    """What goes back unless a command says so; of what is taken back once more, the same as before."""
    before = state.rollback.what if state.rollback else None
    return before or ("values" if state.stage is Stage.CONFIRMED else "all")


def evolve(state: Update, event: UpdateEvent) -> Update:  # noqa: C901, PLR0911, PLR0912 - one answer for each event
    """The state after `event`. Never fails: what happened, happened."""
    match event:
        case UpdateProposed():
            return replace(state, stage=Stage.PENDING, proposal=event)
        case UpdateRefused():
            return replace(state, stage=Stage.REFUSED)
        case UpdateApproved():
            return replace(state, stage=Stage.APPROVED, held=event.hold, approval=event)
        case UpdateRejected():
            return replace(state, stage=Stage.REJECTED)
        case UpdateSuperseded():
            return replace(state, stage=Stage.SUPERSEDED)
        case UpdateReleased():
            return replace(state, stage=Stage.RELEASED)
        case UpdateRollBackRequested():
            return replace(state, stage=Stage.ROLLING_BACK, rollback=event)
        case UpdateStarted():
            return replace(state, stage=Stage.RELOADING)
        case UpdateReloaded():
            backs = {back.agent_id: back for back in (*state.read_backs, *event.read_backs)}
            return replace(state, stage=Stage.RELOADED, read_backs=tuple(backs.values()))
        case UpdateConfirmed():
            return replace(state, stage=Stage.CONFIRMED)
        case UpdateRolledBack():
            return replace(state, stage=Stage.ROLLED_BACK, read_backs=event.read_backs, back=event)
        case UpdateFailed():
            return replace(state, stage=Stage.FAILED)
        case UpdateCommandRefused() | UpdateResumed() | UpdateJudged():
            return state
        case _:
            assert_never(event)


def replay(events: Iterable[UpdateEvent]) -> Update:
    """Fold a history into a state."""
    return reduce(evolve, events, Update())


def configuration(proposal: UpdateProposed, agent_id: str) -> dict[str, Value]:
    """The whole set that an agent is to run: what it ran, with the changes laid over."""
    return {**proposal.before[agent_id], **proposal.values}
