"""update.* events -> the approval queue, and each update's history in sentences. Pure."""

from collections.abc import Mapping, Sized
from datetime import datetime
from typing import Any, Final, assert_never

from tars.schemas.counting import counted
from tars.schemas.message import By
from tars.schemas.update import (
    ROLLOUT,
    ReadBack,
    UpdateApproved,
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
)
from tars.schemas.views import AuditEntry, Judged, UpdateRow

TAKEN_BACK: Final[Mapping[What, str]] = {"values": "the values", "all": "values, weights and optimiser"}
Change = tuple[str, dict[str, Any]]
"""What happened in a sentence, and the fields of the row that it changes."""


def row(event: UpdateEvent, before: UpdateRow | None, at: datetime, trace_id: str | None = None) -> UpdateRow | None:
    """The update's row after `event`; None: nobody proposed it."""
    by: By | None = getattr(event, "by", None)
    if before is None:
        if not isinstance(event, UpdateProposed | UpdateRefused):
            return None
        before = UpdateRow(
            update_id=event.update_id, stage="pending", proposed_at=at, proposed_by=str(event.by), changed_at=at,
            agents=(), values=event.values,
        )  # fmt: skip
    text, change = _change(event, before)
    itself = isinstance(event, UpdateRollBackRequested | UpdateRolledBack) and by == ROLLOUT
    who = None if by is None or itself else str(by)
    entry = AuditEntry(at=at, kind=event.kind, by=who, text=text, trace_id=trace_id)
    return before.model_copy(update={**change, "changed_at": at, "history": (*before.history, entry)})


def unread(kind: str, before: UpdateRow, at: datetime, trace_id: str | None = None) -> UpdateRow:
    """The update's row after an event that only a newer version of TARS can read: what it says may be out of date."""
    text = f"{kind}: this version cannot read it, so what is shown is from before it; upgrade the consumers"
    entry = AuditEntry(at=at, kind=kind, by=None, text=text, trace_id=trace_id)
    reasons = (*before.reasons, text)
    return before.model_copy(update={"reasons": reasons, "changed_at": at, "history": (*before.history, entry)})


def _change(event: UpdateEvent, before: UpdateRow) -> Change:  # noqa: C901, PLR0911, PLR0912 - one answer for each event
    change: dict[str, Any]
    match event:
        case UpdateProposed():
            return _proposed(event)
        case UpdateRefused():
            change = {"stage": "refused", "reasons": event.reasons, "agents": event.agents}
            return f"refused: {'; '.join(event.reasons)}", change
        case UpdateApproved():
            how = f"approved{' on hold' if event.hold else ''}{' (single operator)' if event.single_operator else ''}"
            by = f"{event.by} (single operator)" if event.single_operator else str(event.by)
            change = {"stage": "approved", "approved_by": by, "mode": event.mode}
            return f"{how}{_because(event.reason)}", change
        case UpdateRejected():
            return f"rejected{_because(event.reason)}", {"stage": "rejected", "reasons": _some(event.reason)}
        case UpdateSuperseded():
            return f"superseded: {'; '.join(event.reasons)}", {"stage": "superseded", "reasons": event.reasons}
        case UpdateCommandRefused():
            return f"{event.command} refused: {'; '.join(event.reasons)}", {}
        case UpdateReleased():
            return "released to its agents", {"stage": "released"}
        case UpdateResumed():
            return f"rollout in the hands of {event.holder}", {}
        case UpdateStarted():
            return _started(event), {
                "stage": "reloading", "smallest_harm": event.smallest_harm, "normalised": event.normalised,
                "canary": event.canary, "watch_seconds": event.slot_seconds and event.slot_seconds * event.slots,
            }  # fmt: skip
        case UpdateReloaded():
            slowest = max((back.milliseconds for back in event.read_backs), default=0.0)
            text = f"{event.stage}: read back from {_agents(event.read_backs)}, the slowest after {slowest:.1f} ms"
            read_backs = merged(before.read_backs, event.read_backs)
            return text, {"stage": "reloaded", "read_backs": read_backs, "watching": event.stage}
        case UpdateJudged():
            change = {"judgements": (*before.judgements, judgement(event)), "watching": None}
            return f"{event.stage}: {event.reason}", change
        case UpdateConfirmed():
            told = event.reason or "every agent runs the new values"
            return f"confirmed: {told}", {"stage": "confirmed", "watching": None}
        case UpdateRollBackRequested():
            change = {"stage": "rolling back", "reasons": _some(event.reason), "takes_back": event.what}
            what = f" ({TAKEN_BACK[event.what]})" if event.what else ""
            later = ", with the updates that came after it" if event.over_later else ""
            return f"to be rolled back{what}{later}{_because(event.reason)}", change
        case UpdateRolledBack():
            return _rolled_back(event, before)
        case UpdateFailed():
            return f"failed: {event.error}", {"stage": "failed", "reasons": (event.error,)}
        case _:
            assert_never(event)


def _started(event: UpdateStarted) -> str:
    if not event.canary:
        return f"reloading {_agents(event.agents)}"
    others = f" first, of {_agents(event.agents)}" if len(event.agents) > len(event.canary) else ""
    first = f"reloading {', '.join(event.canary)}{others}"
    if event.slot_seconds is None:
        return f"{first}; not watched: {event.unwatched}" if event.unwatched else first
    return f"{first}, watched for {event.slots} episodes{_findable(event)}"


def _findable(event: UpdateStarted) -> str:
    if event.smallest_harm is None:
        return ""
    loss = f"{100 * event.smallest_harm:.0f} points" if event.normalised else f"{event.smallest_harm:.3g} in return"
    return f"; it can find a loss of {loss}"


def merged(before: tuple[ReadBack, ...], new: tuple[ReadBack, ...]) -> tuple[ReadBack, ...]:
    """The newest read-back of each agent, in the order in which they first came."""
    return tuple({back.agent_id: back for back in (*before, *new)}.values())


def judgement(event: UpdateJudged) -> Judged:
    """What a watch found, for a row."""
    return Judged.model_validate(event.model_dump(exclude={"kind", "update_id"}))


def _proposed(event: UpdateProposed) -> Change:
    fields = ("values", "base", "before", "evidence", "study_id", "reason", "expires_at")
    change = {name: getattr(event, name) for name in fields}
    values = ", ".join(f"{key} = {value:g}" for key, value in event.values.items() if value is not None)
    waits = f"; it waits for a person: {event.doubt}" if event.doubt else ""
    text = f"proposed {values} for {', '.join(event.base)}{_because(event.reason)}{waits}"
    return text, {**change, "stage": "pending", "agents": tuple(event.base), "proposed_by": str(event.by)}


def _rolled_back(event: UpdateRolledBack, before: UpdateRow) -> Change:
    back = [read.agent_id for read in event.read_backs]
    whole = f", with weights and optimiser on {', '.join(event.restored)}" if event.restored else ""
    lost = [agent for agent in back if agent not in event.restored] if before.takes_back == "all" else []
    only = f"; of {', '.join(lost)} only the values, for no snapshot could be restored" if lost else ""
    left = "".join(f"; {agent} was not reached: {why}" for agent, why in event.unreached.items())
    text = f"rolled back on {_agents(back)}{whole}{only}{_because(event.reason)}{left}"
    return text, {"stage": "rolled back", "read_backs": event.read_backs, "reasons": _some(event.reason)}


def _agents(them: Sized) -> str:
    return counted(len(them), "agent")


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _some(reason: str) -> tuple[str, ...]:
    return (reason,) if reason else ()
