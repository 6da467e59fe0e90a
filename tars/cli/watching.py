"""Following a study from any terminal: a live picture for people, lines of JSON for programs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tars.cli.output import err, number, show_json, shown_live, values_text
from tars.cli.standing import Pace, Standing, Weighing, standing
from tars.dashboard.wording import points, span
from tars.producers.commands import CommandRefused
from tars.schemas.counting import counted
from tars.schemas.errors import Transient
from tars.schemas.study import StudyFinished

if TYPE_CHECKING:
    from tars.producers.client import Client

LOOK_SECONDS: Final = 0.5
INTERRUPTED: Final = 130
"""Exit code after Ctrl-C, as shells have it."""
AWAY: Final = "NATS or the consumers are away; the study goes on where its workers can"

Told = Callable[[Standing | None], None]
"""Gets how far the study has come; None: nobody answers."""


def watch(bus: "Client", study_id: str, *, as_json: bool = False) -> StudyFinished:
    """Follow a study to its end, however long it runs or has been over; raises CommandRefused where there is none.

    as_json: a line on standard output whenever something has moved; else a picture on standard error.
    """
    if not bus.events("study", study_id):
        raise CommandRefused(f"there is no study {study_id}: `tars study list` shows all")
    pace = Pace()
    try:
        with _lines() if as_json else shown_live(Live(console=err, transient=True), picture, AWAY) as tell:
            while True:
                if finished := _finished(bus, study_id):
                    return finished
                tell(_look(bus, study_id, pace))
    except KeyboardInterrupt:
        err.print(
            f"{study_id} runs on: `tars study watch {study_id}` follows it, `tars study stop {study_id}` ends it",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None


def _finished(bus: "Client", study_id: str) -> StudyFinished | None:
    """The result, as soon as it is there; None: not in the next LOOK_SECONDS. Raises StudyEnded."""
    began = time.monotonic()
    try:
        return bus.wait_for_study(study_id, timeout=LOOK_SECONDS)
    except TimeoutError:
        return None
    except Transient:  # NATS is away
        time.sleep(max(0.0, began + LOOK_SECONDS - time.monotonic()))
        return None


def _look(bus: "Client", study_id: str, pace: Pace) -> Standing | None:
    from tars.producers.async_client import NobodyAnswers  # noqa: PLC0415 - help must be quick

    try:
        row = bus.study(study_id)
        if row is None:
            return None
        trials = bus.trials(study_id, offset=0 if row.objective == "penalty" else row.asked)
    except NobodyAnswers:
        return None
    now = datetime.now(UTC)
    per_minute = pace.see(row.completed + row.pruned + row.failed, row.started_at, now)
    return standing(row, trials, per_minute, now)


@contextmanager
def _lines() -> Iterator[Told]:
    last: Standing | None = None

    def tell(now: Standing | None) -> None:
        nonlocal last
        if now is not None and now.has_moved(last):
            show_json(now)
            last = now

    yield tell


def picture(now: Standing) -> RenderableType:
    """A bar for the search, one for the held-out seeds, and a line for each candidate."""
    bars = Table.grid(padding=(0, 2))
    if now.trials:
        bars.add_row("search", _bar(now.done, now.trials), f"{now.done} of {now.trials} trials")
    if now.phase != "search" or not now.trials:
        pairs = f"{now.pairs} of {now.pairs_asked} pairs, then a look" if now.pairs_asked else "about to begin"
        bars.add_row("held-out seeds", _bar(now.pairs, now.pairs_asked), pairs)
    if now.phase == "ablation":
        put_back = f"{now.put_back} of {now.put_back_asked} trials"
        bars.add_row("one key put back", _bar(now.put_back, now.put_back_asked), put_back)
    lines = [_searched(now)] if now.trials else []
    return Group(bars, *(Text(f"  {line}") for line in [*lines, *map(weighed, now.weighed)]))


def _bar(done: int, total: int) -> ProgressBar:
    """Without a total it pulses."""
    return ProgressBar(total=total or None, completed=done, width=24, pulse=not total)


def _searched(now: Standing) -> str:
    ended = [f"{count} {what}" for count, what in ((now.pruned, "pruned"), (now.failed, "failed")) if count]
    pace = [f"{now.per_minute:.3g} a minute"] if now.per_minute and now.phase == "search" else []
    left = [f"{span(now.seconds_left)} left"] if now.seconds_left is not None and now.done < now.trials else []
    return ", ".join([f"best {number(now.best and round(now.best, 3))}", *ended, *pace, *left])


def weighed(one: Weighing) -> str:
    """A candidate in one line: what it changes, its gain so far, and what the last look said."""
    told = values_text(one.change)
    if one.gain is None or one.gain_low is None or one.gain_high is None:
        return f"{told}: {counted(one.pairs, 'pair')}"
    interval = f"{100 * one.gain_low:+.1f} … {100 * one.gain_high:+.1f}"
    verdict = f"{one.verdict} so far" if one.verdict else "undecided"
    return f"{told}: {points(one.gain)} ({interval}), {counted(one.pairs, 'pair')}, {verdict}"
