"""`tars watch`: agents, what waits for approval, rollouts and studies, live."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

import tars
from tars.cli.output import clock, number, out, show_json, shown_live, titled, verdict_text
from tars.dashboard.steps import steps
from tars.dashboard.wording import ago, condition, summary, version
from tars.schemas.message import Frozen
from tars.schemas.views import AgentRow, StudyRow, UpdateRow, UpdateStage

if TYPE_CHECKING:
    from tars.producers.client import Client

NEWEST: Final = 50
"""Updates that are looked at, beside those that wait and those that were going on at the look before."""
ON_THE_WAY: Final[frozenset[UpdateStage]] = frozenset({"approved", "released", "reloading", "reloaded", "rolling back"})
AWAY: Final = "nobody answers: NATS or the consumers are away; workers go on where they can"
BACK: Final = "answers again"


class Overview(Frozen):
    """All that is shown, at one moment."""

    at: datetime
    agents: tuple[AgentRow, ...]
    updates: tuple[UpdateRow, ...]
    studies: tuple[StudyRow, ...]

    @property
    def pending(self) -> list[UpdateRow]:
        """What waits for a person."""
        return [row for row in self.updates if row.stage == "pending"]

    @property
    def rollouts(self) -> list[UpdateRow]:
        """What is let through and not at its end."""
        return [row for row in self.updates if row.stage in ON_THE_WAY]


class Change(Frozen):
    """Something that is not as it was when last looked at."""

    at: datetime
    noun: str
    id: str
    state: str
    told: str
    """The same in words, with what else is known."""


Seen = dict[tuple[str, str], Change]
"""How each thing stood when it was last looked at, by noun and id."""
Told = Callable[[Overview | None], None]
"""Gets what there is now; None: nobody answers."""


def watch(
    *,
    every: Annotated[float, typer.Option("--every", min=0.1, max=60, help="Seconds between two looks.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="An object in a line for each change.")] = False,
) -> None:
    """Follow agents, approvals, rollouts and studies until Ctrl-C; off a terminal, a line for each change."""
    told = (
        shown_live(Live(console=out, auto_refresh=False), picture, AWAY)
        if out.is_terminal and not as_json
        else _lines(as_json=as_json)
    )
    last: Overview | None = None
    with tars.connect() as bus, told as tell:
        try:
            while True:
                now = _look(bus, last)
                tell(now)
                last = now or last
                time.sleep(every)
        except KeyboardInterrupt:
            return


def _look(bus: "Client", last: Overview | None) -> Overview | None:
    from tars.producers.async_client import NobodyAnswers  # noqa: PLC0415 - help must be quick

    try:
        agents, updates, studies = bus.agents(), _updates(bus, last), bus.studies()
    except NobodyAnswers:
        return None
    return Overview(at=datetime.now(UTC), agents=tuple(agents), updates=tuple(updates), studies=tuple(studies))


def _updates(bus: "Client", last: Overview | None) -> list[UpdateRow]:
    """The newest, and however old those that wait or went on a look ago: nobody is to miss how they end."""
    found = {row.update_id: row for row in (*bus.pending(), *bus.updates(limit=NEWEST))}
    went_on = [*last.pending, *last.rollouts] if last else []
    ended = [bus.update(row.update_id) for row in went_on if row.update_id not in found]
    return [*found.values(), *(row for row in ended if row is not None)]


@contextmanager
def _lines(*, as_json: bool) -> Iterator[Told]:
    seen: Seen = {}
    answered: bool | None = None

    def tell(now: Overview | None) -> None:
        nonlocal answered
        if answered is not (now is not None) and (answered is not None or now is None):
            _say(Change(at=datetime.now(UTC), noun="connection", id="", state="up" if now else "away",
                        told=BACK if now else AWAY), as_json=as_json)  # fmt: skip
        answered = now is not None
        if now:
            for change in changes(now, seen):
                _say(change, as_json=as_json)
            seen.update(states(now))

    yield tell


def _say(change: Change, *, as_json: bool) -> None:
    if as_json:
        show_json(change)
    else:
        typer.echo(f"{clock(change.at)}  {' '.join(filter(None, (change.noun, change.id)))}: {change.told}")
    sys.stdout.flush()  # whoever reads a pipe reads it now


def states(now: Overview) -> Seen:
    """How everything stands, by noun and id."""
    found = (
        *(_agent(row, now.at) for row in now.agents),
        *(_update(row, now.at) for row in now.updates),
        *(_study(row, now.at) for row in now.studies),
    )
    return {(one.noun, one.id): one for one in found}


def changes(now: Overview, seen: Seen) -> list[Change]:
    """What differs from what was seen; at first that is everything that is not over."""
    over = set() if seen else {
        *(("update", row.update_id) for row in now.updates if row.stage not in {"pending", *ON_THE_WAY}),
        *(("study", row.study_id) for row in now.studies if row.stage != "running"),
    }  # fmt: skip
    return [
        one for key, one in states(now).items() if key not in over and (key not in seen or one.state != seen[key].state)
    ]


def _agent(row: AgentRow, now: datetime) -> Change:
    state, _ = condition(row, now)
    score = f", score {number(round(row.score, 3))}" if row.score is not None else ""
    told = f"{state}, {version(row)}{score}"
    return Change(at=now, noun="agent", id=row.agent_id, state=f"{state} {version(row)}", told=told)


def _update(row: UpdateRow, now: datetime) -> Change:
    last = row.history[-1].text if row.history else summary(row)
    state = f"{row.stage} {len(row.history)}"
    told = last if last.startswith(row.stage) else f"{row.stage}: {last}"
    return Change(at=now, noun="update", id=row.update_id, state=state, told=told)


def _study(row: StudyRow, now: datetime) -> Change:
    done, told = _progress(row)
    return Change(at=now, noun="study", id=row.study_id, state=f"{row.stage} {done}", told=f"{row.stage}: {told}")


def _progress(row: StudyRow) -> tuple[int, str]:
    """How many trials are done, and that in words."""
    searched = row.completed + row.pruned + row.failed
    best = f", best {number(row.best_score and round(row.best_score, 3))}" if row.best_score is not None else ""
    seeds = f", {row.confirmations} trials on held-out seeds" if row.confirmations else ""
    evidence = f", {verdict_text(row.evidence)}" if row.evidence else ""
    return searched + row.confirmations, f"{searched} of {row.trials} trials{best}{seeds}{evidence}"


def picture(now: Overview) -> RenderableType:
    """Four tables, what asks for a person first; one without a row is a line that says so."""
    return Group(
        _table("waiting for approval", ("update", "agents", "values", "waits since"), [
            (row.update_id, ", ".join(row.agents), summary(row), ago(row.proposed_at, now.at)) for row in now.pending
        ], "nothing waits for approval"),
        _table("rollouts", ("update", "stage", "step", "last", ""), [
            (row.update_id, row.stage, _step(row, now.at), row.history[-1].text if row.history else "",
             ago(row.changed_at, now.at))
            for row in now.rollouts
        ], "no rollout in progress"),
        _table("studies", ("study", "for", "progress", "since"), [
            (row.study_id, ", ".join(row.agents) or row.algorithm, _progress(row)[1], ago(row.started_at, now.at))
            for row in now.studies if row.stage == "running"
        ], "no study is running"),
        _table("agents", ("agent", "state", "version", "episode", "score", "reloaded"), [
            (row.agent_id, _coloured(row, now.at), version(row), str(row.episode),
             number(row.score and round(row.score, 3)), ago(row.reloaded_at, now.at))
            for row in now.agents
        ], "no agents: `tars run agents`, or attach() one"),
        Text(f"{clock(now.at)}, Ctrl-C ends", style="dim"),
    )  # fmt: skip


def _step(row: UpdateRow, now: datetime) -> str:
    """What goes on."""
    return next((str(step) for step in steps(row, now) if step.state == "now"), "")


def _coloured(row: AgentRow, now: datetime) -> Text:
    state, colour = condition(row, now)
    return Text(state, style="bright_black" if colour == "gray" else colour)


def _table(title: str, headings: tuple[str, ...], rows: list[Any], empty: str) -> RenderableType:
    if not rows:
        return Text(f"{empty}\n", style="dim")
    table = titled(title)
    for place, heading in enumerate(headings):
        table.add_column(heading, no_wrap=place == 0)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else escape(cell) for cell in row))
    return Group(table, Text())
