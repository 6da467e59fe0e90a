"""What the command line prints: a table for people, JSON for programs."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any, Final, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tars.dashboard.wording import points
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import Value

AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most so many, the newest first.")]
Offset = Annotated[int, typer.Option("--offset", min=0, help="Leave out so many of the newest: the next page.")]
PAGE: Final = 100
"""Rows unless --limit says otherwise."""

PIPED_COLUMNS: Final = 200
"""Where no terminal says how wide a line may be: what is piped is searched and cut by others."""
T = TypeVar("T")
out = Console()
if not out.is_terminal:
    out.width = max(out.width, PIPED_COLUMNS)
err = Console(stderr=True)


def show_json(value: object) -> None:
    """Print one JSON value on standard output."""
    typer.echo(json.dumps(_plain(value)))


def show_rows(title: str, rows: Sequence[BaseModel], columns: Mapping[str, Any], *, as_json: bool) -> None:
    """Print rows; columns: heading -> function of a row that gives its cell."""
    if as_json:
        show_json(rows)
        return
    if not rows:
        out.print(f"no {title}")
        return
    table = titled(title)
    for place, heading in enumerate(columns):
        table.add_column(heading, no_wrap=place == 0, overflow="fold")  # an id is to be copied
    for row in rows:
        table.add_row(*(escape(str(cell(row))) for cell in columns.values()))
    out.print(table)


def titled(title: str) -> Table:
    """A table as all of ours are: without lines, its title at the left."""
    return Table(title=escape(title), title_justify="left", header_style="bold", box=None, pad_edge=False)


@contextmanager
def shown_live(live: Live, draw: Callable[[T], RenderableType], away: str) -> Iterator[Callable[[T | None], None]]:
    """Draw whatever is told; told None, what was told last, and below it `away`: that nobody answers."""
    last: T | None = None

    def tell(now: T | None) -> None:
        nonlocal last
        last = now if now is not None else last
        picture = () if last is None else (draw(last),)
        live.update(Group(*picture, *(() if now is not None else (Text(away, style="yellow"),))))
        if not live.auto_refresh:
            live.refresh()

    with live:
        yield tell


def show_page(
    title: str, rows: Sequence[BaseModel], columns: Mapping[str, Any], *, limit: int, offset: int, as_json: bool
) -> None:
    """Print one page of rows, the newest first; people are told how to come to the next one."""
    show_rows(f"more {title}" if offset and not rows else title, rows, columns, as_json=as_json)
    if len(rows) == limit and not as_json:
        out.print(f"older ones: --offset {offset + limit}", style="dim", highlight=False)


def values_text(values: Mapping[str, Value]) -> str:
    """Hyperparameters in one line: `gamma 0.95, tau 0.05`."""
    return ", ".join(f"{key} {number(value)}" for key, value in values.items())


def number(value: float | None) -> str:
    """A number short enough for a table."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def verdict_text(evidence: Evidence) -> str:
    """What the held-out seeds say, in short: `BETTER +4.2 pp`."""
    return f"{evidence.verdict} {points(evidence.gain)}"


def gain_text(evidence: Evidence) -> str:
    """What the held-out seeds say, and what the search had claimed."""
    interval = f"95 % from {points(evidence.gain_low)} to {points(evidence.gain_high)}"
    failed = f", of which it failed on {evidence.failed}" if evidence.failed else ""
    found = f"held-out gain {points(evidence.gain)} ({interval}) on {len(evidence.scores)} seeds{failed}"
    return found if evidence.search_gain is None else f"{found}; the search said {points(evidence.search_gain)}"


def clock(at: datetime | None) -> str:
    """A moment in local time."""
    return at.astimezone().strftime("%m-%d %H:%M:%S") if at else "-"


@contextmanager
def quiet() -> Iterator[None]:
    """Let nobody log meanwhile: what there is to say, the command says."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
