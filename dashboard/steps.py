"""An update's way from its proposal to its end: what is done, what goes on, and what is to come. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

from tars.dashboard.wording import amount, plain, span
from tars.schemas.update import RolloutStage
from tars.schemas.views import Judged, UpdateRow, UpdateStage

State = Literal["done", "now", "ahead", "bad"]
SIGNS: Final[dict[State, str]] = {"done": "✓", "now": "●", "ahead": "○", "bad": "✗"}
COLOURS: Final[dict[State, str]] = {"done": "green", "now": "blue", "ahead": "gray", "bad": "red"}
TURNED_DOWN: Final[frozenset[UpdateStage]] = frozenset({"refused", "rejected", "superseded"})
UNDONE: Final[frozenset[UpdateStage]] = frozenset({"rolling back", "rolled back", "failed"})


class Step(NamedTuple):
    """One of an update's steps."""

    name: str
    state: State
    told: str = ""

    def __str__(self) -> str:
        """Sign, name and what there is to say."""
        return f"{SIGNS[self.state]} {self.name}{f': {self.told}' if self.told else ''}"


def badges(way: Sequence[Step]) -> str:
    """The steps in a line of Streamlit's Markdown."""
    return " → ".join(f":{COLOURS[step.state]}-badge[{plain(str(step))}]" for step in way)


def steps(row: UpdateRow, now: datetime) -> tuple[Step, ...]:
    """The way of an update: those steps that it takes no more are left out."""
    if row.stage in TURNED_DOWN:
        return (*([Step("proposed", "done")] if row.stage != "refused" else ()), Step(row.stage, "bad"))
    if row.stage == "pending":
        return (Step("proposed", "done"), Step("approval", "now", "waits"), *_ahead(row))
    approved = (Step("proposed", "done"), Step("approved", "done", row.approved_by or ""))
    if row.stage == "approved":
        return (*approved, Step("release", "now", "on hold"), *_ahead(row)[1:])
    way = (*approved, Step("released", "done"), *_stages(row, now))
    if row.stage in UNDONE:
        if any(entry.kind.startswith("update.confirmed.") for entry in row.history):
            way += (Step("confirmed", "done"),)
        return (*way, Step(row.stage, "now" if row.stage == "rolling back" else "bad"))
    return (*way, Step("confirmed", "done" if row.stage == "confirmed" else "ahead"))


def _ahead(row: UpdateRow) -> list[Step]:
    first = ["canary"] if len(row.agents) > 1 else []
    return [Step(name, "ahead") for name in ("release", *first, "rest", "confirmed")]


def _stages(row: UpdateRow, now: datetime) -> Iterator[Step]:
    """The stages of its rollout; of one that is undone those that were reached."""
    judged = {found.stage: found for found in row.judgements}
    planned = _planned(row)
    reached = planned.index(row.watching) if row.watching in planned else -1
    going_on = row.stage not in UNDONE
    for number, stage in enumerate(planned):
        if number == reached and row.stage != "confirmed":
            yield Step(stage, "now", _watched(row, now)) if going_on else Step(stage, "done", "read back")
            going_on = False
        elif stage in judged and judged[stage].then != "start anew":
            yield _verdict(judged[stage], row)
        elif number < reached or row.stage == "confirmed":
            yield Step(stage, "done")
        elif row.stage not in UNDONE:
            yield Step(stage, "now" if going_on else "ahead", "reloading" if going_on else "")
            going_on = False


def _planned(row: UpdateRow) -> list[RolloutStage]:
    """The last is always the rest; a few go first where there are more, and half where the few told too little."""
    few: list[RolloutStage] = ["canary"] if 0 < len(row.canary) < len(row.agents) else []
    half: list[RolloutStage] = ["half"] if any(found.then == "widen" for found in row.judgements) else []
    return [*few, *half, "rest"]


def _watched(row: UpdateRow, now: datetime) -> str:
    """How long its watch goes on: since the newest read-back."""
    since = next((entry.at for entry in reversed(row.history) if entry.kind.startswith("update.reloaded.")), None)
    if row.watch_seconds is None or since is None:
        return "read back"
    left = row.watch_seconds - (now - since).total_seconds()
    return f"watched, {span(left)} more at most" if left > 0 else "watched, about to be judged"


def _verdict(found: Judged, row: UpdateRow) -> Step:
    told = "" if found.effect is None else amount(found.effect, normalised=row.normalised)
    return Step(found.stage, "bad" if found.then == "undo" else "done", told)
