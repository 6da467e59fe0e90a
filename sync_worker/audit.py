"""Was this update decided as it should have been? Its history, what was approved and by whom, decided again. Pure.

Each check answers with every fault it finds, or in a sentence with what it found in order; or raises NotCheckable.
What happened to the agents is the business of audit_rollout.py, the evidence that of automl_worker/audit.py.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from pydantic import ValidationError

from tars.schemas.audit import EXPECTED, Case, NotCheckable, Told, Verify
from tars.schemas.errors import Refused
from tars.schemas.message import By, Command, Event, Signed
from tars.schemas.running import RunningAgent
from tars.schemas.running import replay as running
from tars.schemas.trust import TrustedKey, lacking_right, sender_of
from tars.schemas.update import (
    ApplyUpdate,
    ApproveUpdate,
    ProposeUpdate,
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
    content_of,
)
from tars.sync_worker.lifecycle import GOING_OUT, RELEASED_STAGES, Facts, Stage, Update, decide, evolve, replay

FOLLOWS: Final[Mapping[type[Event], frozenset[Stage]]] = {
    UpdateProposed: frozenset({Stage.UNKNOWN}),
    UpdateRefused: frozenset({Stage.UNKNOWN}),
    UpdateApproved: frozenset({Stage.PENDING}),
    UpdateRejected: frozenset({Stage.PENDING, Stage.APPROVED}),
    UpdateSuperseded: frozenset({Stage.PENDING, Stage.APPROVED}),
    UpdateCommandRefused: frozenset(Stage) - {Stage.UNKNOWN},
    UpdateReleased: frozenset({Stage.APPROVED}),
    UpdateRollBackRequested: RELEASED_STAGES | {Stage.ROLLED_BACK},
    UpdateResumed: RELEASED_STAGES | {Stage.ROLLING_BACK},
    UpdateStarted: frozenset({Stage.RELEASED}),
    UpdateReloaded: frozenset({Stage.RELOADING, Stage.RELOADED}),
    UpdateJudged: frozenset({Stage.RELOADED}),
    UpdateConfirmed: frozenset({Stage.RELOADING, Stage.RELOADED}),
    UpdateRolledBack: frozenset({Stage.ROLLING_BACK}),
    UpdateFailed: GOING_OUT | {Stage.ROLLING_BACK},
}
"""The stages of an update that each event may follow."""
JUST_BEFORE: Final = timedelta(seconds=10)
"""A decision's facts are read a moment before its events are stored: agents may have moved in between."""
COMMANDS: Final[Mapping[type[Event], type[Command]]] = {
    UpdateProposed: ProposeUpdate,
    UpdateApproved: ApproveUpdate,
    UpdateRejected: RejectUpdate,
    UpdateReleased: ApplyUpdate,
    UpdateRollBackRequested: RollBackUpdate,
}
"""The command that each of these answers, where a command asked for it."""
CHOSEN: Final = frozenset({"apply_until", "base", "expires_at", "what"})
"""What a command may leave to whoever decides it."""
BESIDE: Final = frozenset({"doubt", "signed", "content"})
"""Of a proposal, what its command does not say: the mode's doubt, and what other checks are about."""


def messages(case: Case) -> list[str] | str:
    """Every message can be read, is what its headers say, and lies in its stream's order, once."""
    faults = [*case.unreadable]
    last: dict[str, tuple[int, datetime]] = {}
    for stored in case.stored:
        sequence, time = last.get(stored.stream, (0, stored.time))
        if stored.sequence <= sequence or stored.time < time:
            faults.append(f"{stored.stream} {stored.sequence} does not come after {stored.stream} {sequence}")
        last[stored.stream] = (stored.sequence, stored.time)
    for told in case.told:
        headers = told.headers
        if headers.get("ce-id", told.id) != told.id or headers.get("ce-type") not in {
            None,
            f"tars.{told.message.kind}",
        }:
            faults.append(f"{told.message.kind} {told.id}: its headers are another message's")
    for chain in _chains(case):
        for before, told in pairwise(chain):
            if told.expected not in {None, before.sequence}:
                faults.append(f"{told.message.kind} {told.id}: what it was appended to is missing, or it was moved")
    ids = Counter(told.id for told in case.told if told.id)
    faults += [f"{name} is there {times} times" for name, times in ids.items() if times > 1]
    return faults or f"{len(case.stored)} messages can be read, each once and in order"


def _chains(case: Case) -> Iterator[tuple[Told, ...]]:
    """Messages of which each is appended to the one before it: agents' histories and configurations, the study's."""
    proposed = next((event for event in case.events if isinstance(event, UpdateProposed)), None)
    if proposed is not None:
        for name in proposed.base:
            yield case.of("agent", name)
            yield case.configurations(name)
        yield case.of("study", proposed.study_id or "")


def history(case: Case) -> list[str] | str:
    """Every event may follow the one before it, and none is missing: each was appended to the version before it."""
    if not case.update:
        return [f"there is no event of {case.update_id}"]
    state, version, faults = Update(), 0, list[str]()
    for told in case.update:
        event = told.message
        if state.stage not in FOLLOWS[type(event)]:
            faults.append(f"{event.kind} ({told.id}) cannot follow: the update was {state.stage}")
        faults += [*_chained(told, version), *_in_whose_name(state, told)]
        state, version = evolve(state, event), told.sequence
    return faults or f"{len(case.update)} events follow from one another: {state.stage}"


def _in_whose_name(state: Update, told: Told) -> Iterator[str]:
    """Why an event is in the name of somebody who did not ask for it: what follows from a decision is its decider's."""
    event = told.message
    asked = state.approval.by if isinstance(event, UpdateReleased) and event.signed is None and state.approval else None
    if isinstance(event, UpdateRolledBack) and state.rollback is not None:
        asked = state.rollback.by
    if asked is not None and event.by != asked and not state.held:
        yield f"{event.kind} ({told.id}) is in the name of {event.by}; {asked} asked for it"


def _chained(told: Told, version: int) -> Iterator[str]:
    """Why an event was not appended to this version; those of a batch follow its first one."""
    batched = int(told.headers.get("Nats-Batch-Sequence", "1"))
    if batched > 1:
        if told.sequence != version + 1:
            yield f"{told.message.kind} ({told.id}): what its batch holds before it is missing"
    elif EXPECTED in told.headers and told.expected != version:
        yield f"{told.message.kind} ({told.id}) was appended to version {told.expected}, before it is {version}"


def proposal(case: Case) -> list[str] | str:
    """The agents ran what it says, at the versions it was made for, and it broke no rule: decided again."""
    proposed, told = case.proposal, next(t for t in case.update if isinstance(t.message, UpdateProposed))
    command = ProposeUpdate(
        update_id=case.update_id,
        agents=tuple(proposed.base),
        values=proposed.values,
        base=proposed.base,
        evidence=proposed.evidence,
        study_id=proposed.study_id,
        reason=proposed.reason,
        expires_at=proposed.expires_at,
    )
    beside = {name: getattr(proposed, name) for name in BESIDE}
    first: UpdateEvent | None = None
    for facts in _facts(case, told):
        found = decide(Update(), command, replace(facts, by=proposed.by, strictness=proposed.strictness))
        again = found[0]
        first = first or again
        if isinstance(again, UpdateProposed) and again.model_copy(update=beside) == proposed:
            return f"made for {_versions(proposed)}, which ran what it says; strictness {proposed.strictness}"
    return _differences(first, proposed) if first else ["nothing tells what its agents ran"]


def _versions(proposed: UpdateProposed) -> str:
    return ", ".join(f"{name} at version {version}" for name, version in proposed.base.items())


def _differences(again: UpdateEvent, proposed: UpdateProposed) -> list[str]:
    if isinstance(again, UpdateRefused):
        return [f"it should have been refused: {reason}" for reason in again.reasons]
    return [
        f"{name} is {getattr(proposed, name)}, decided again {getattr(again, name, None)}"
        for name in UpdateProposed.model_fields
        if name not in BESIDE and getattr(proposed, name) != getattr(again, name, None)
    ]


def _facts(case: Case, told: Told) -> Iterator[Facts]:
    """What was known when an event was decided: the agents as they were then, or at any moment shortly before."""
    histories = {name: case.of("agent", name) for name in case.proposal.base}
    before = sorted(one.sequence for events in histories.values() for one in events if one.sequence < told.sequence)
    recent = {one.sequence for events in histories.values() for one in events if one.time >= told.time - JUST_BEFORE}
    for cut in dict.fromkeys([told.sequence, *(s - 1 for s in reversed(before) if s in recent)]):
        yield Facts(id=told.cause, time=told.time, by=By(principal="?"), agents=agents_at(case, cut))


def content(case: Case) -> list[str] | str:
    """What an approval names is what was proposed."""
    found = content_of(case.proposal).digest()
    if found != case.proposal.content:
        return [f"its content hashes to {found}, it says {case.proposal.content}"]
    return f"sha256 {found[:16]}..."


def signatures(case: Case, verify: Verify) -> list[str] | str:
    """Every command that left its signed bytes was signed by who is named, and asked for what happened."""
    faults, good, silent = list[str](), list[str](), list[str]()
    for told in case.update:
        event = told.message
        signed: Signed | None = getattr(event, "signed", None)
        if signed is not None:
            found = _unlike(told, signed, verify)
            faults += found
            good += [] if found else [f"{event.kind} by {event.by.principal}{_through(verify(signed))}"]
        elif getattr(event, "by", None) is not None and event.by.signed and type(event) in COMMANDS:
            silent.append(event.kind)
    if not faults and not good:
        raise NotCheckable(f"no signed command is kept{' of ' + ', '.join(silent) if silent else ''}")
    return faults or ", ".join(good)


def _through(by: TrustedKey | str) -> str:
    """On whose word a principal is named: a page's, for who logged in there; an export holds no id token."""
    return f" (as the page {by.name} says)" if isinstance(by, TrustedKey) and "gateway" in by.roles else ""


def _unlike(told: Told, signed: Signed, verify: Verify) -> list[str]:
    """How a signed command is not the one that this event answers."""
    event, kind = told.message, COMMANDS[type(told.message)]
    by = verify(signed)
    if isinstance(by, str):
        return [f"{event.kind}: {by}"]
    try:
        said = kind.model_validate_json(signed.body)
    except ValidationError:
        return [f"{event.kind}: what {by.name} signed is no {kind.model_fields['kind'].default}"]
    faults = [f"{event.kind}: {text}" for text in _not_theirs(event.by, said, signed, by)]
    if signed.subject != said.subject or said.key != event.key:
        faults.append(f"{event.kind}: what was signed is about {said.key}")
    if signed.id != told.cause:
        faults.append(f"{event.kind}: what was signed is the command {signed.id}, it came from {told.cause}")
    return faults + [f"{event.kind}: {text}" for text in _otherwise(said, event)]


def _otherwise(said: Command, event: Event) -> Iterator[str]:
    """Where an event tells something else than the command that asked for it."""
    for name in sorted((set(type(said).model_fields) & set(type(event).model_fields)) - {"kind"}):
        asked, told = getattr(said, name), getattr(event, name)
        if asked != told and not (name in CHOSEN and asked is None):
            yield f"{name} was signed as {asked}, it says {told}"
    if isinstance(said, ProposeUpdate) and isinstance(event, UpdateProposed) and set(said.agents) != set(event.base):
        yield f"it was signed for {', '.join(said.agents)}"


def _not_theirs(who: By, said: Command, signed: Signed, key: TrustedKey) -> Iterator[str]:
    """Why a key does not stand for who is named, or may not say this."""
    sender = sender_of(signed, key)
    if isinstance(sender, str):
        yield sender
        return
    if not who.signed:
        yield "it is signed, and its event says that it is not"
    if who.principal != sender.name:
        yield f"it is signed by {sender.name}, not by {who.principal}"
    elif who.login != sender.login:
        yield f"what it says of how {who.principal} logged in is not what was signed"
    if lacking := lacking_right(said, sender):
        yield lacking


def approval(case: Case) -> list[str] | str:
    """An approval approves this content, and nothing else; a mode lets through what its evidence allows."""
    approved = replay(case.events).approval
    if approved is None:
        raise NotCheckable("it was never approved")
    evidence = case.proposal.evidence
    if approved.mode == "autonomous_threshold" and not (evidence is not None and evidence.promotable):
        return ["it approved itself, without evidence that allows it"]
    if approved.mode != "manual":
        return f"by {approved.by}: {approved.reason}"
    if approved.signed is None:
        raise NotCheckable(f"by {approved.by}: nothing proves it, there was no trust file")
    said = ApproveUpdate.model_validate_json(approved.signed.body)
    faults = []
    if said.content != content_of(case.proposal).digest():
        faults.append(f"{approved.by} approved another content: {said.content}")
    if said.apply_until != approved.apply_until:
        faults.append(f"it was approved until {said.apply_until}, it says {approved.apply_until}")
    told = next(t for t in case.update if t.message is approved)
    faults += _decided_again(case, told, said, approved)
    return faults or f"{approved.by.principal} approved this content until {said.apply_until:%Y-%m-%d %H:%M} UTC"


def _decided_again(case: Case, told: Told, said: UpdateCommand, approved: UpdateApproved) -> list[str]:
    before = replay(t.message for t in case.update if t.sequence < told.sequence)
    again: list[UpdateEvent] = []
    for facts in _facts(case, told):
        try:
            again = decide(before, said, replace(facts, by=approved.by, signed=approved.signed))
        except Refused as refused:
            return [f"it should have been refused: {refused}"]
        if again and again[0] == approved:
            return []
    reasons = [reason for event in again for reason in getattr(event, "reasons", ())]
    return [f"it should have been refused: {reason}" for reason in reasons] or ["decided again it comes out otherwise"]


def eyes(case: Case, approvers: frozenset[str] | None) -> list[str] | str:
    """Who approved is not who proposed; where they are one, everybody was told so."""
    approved = replay(case.events).approval
    if approved is None or approved.mode != "manual":
        raise NotCheckable("it was never approved" if approved is None else f"nobody approved it but {approved.by}")
    proposer = case.proposal.by.principal
    if approved.by.principal != proposer:
        return f"{proposer} proposed it, {approved.by.principal} approved it"
    if not approved.single_operator:
        return [f"{proposer} approved it too, and it is not marked as a single operator's"]
    if approvers is not None and len(approvers) > 1:
        told = "there are several approvers now; whether there were then, or FOUR_EYES was off, is not in the export"
        raise NotCheckable(f"{proposer} proposed and approved it: {told}")
    return f"{proposer} proposed and approved it, marked as a single operator's"


def agents_at(case: Case, sequence: int) -> dict[str, RunningAgent]:
    """The update's agents as their events up to a sequence tell; one that never started is not in it."""
    found = {
        name: running(one.message for one in case.of("agent", name) if one.sequence <= sequence)
        for name in case.proposal.base
    }
    return {name: agent for name, agent in found.items() if agent.run_id}
