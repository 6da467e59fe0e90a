"""Commands about what waits and what was put aside: pipeline, dead list, dead show, dead replay."""

from typing import Annotated

import typer

import tars
from tars.cli.output import AsJson, Limit, clock, out, show_json, show_rows
from tars.schemas.views import DeadRow

dead = typer.Typer(help="Messages that nobody could read or handle.", no_args_is_help=True)
Sequence = Annotated[int, typer.Argument(metavar="SEQ", min=1, help="Its place, as `tars dead list` shows it.")]


def pipeline(*, as_json: AsJson = False) -> None:
    """Show what waits before each kind of work, what came back, and how many workers wait for more."""
    with tars.connect() as bus:
        rows = bus.pipeline()
    columns = {
        "work": lambda r: r.durable,
        "waiting": lambda r: r.waiting,
        "in hand": lambda r: r.unacknowledged,
        "redelivered": lambda r: r.redelivered,
        "workers that wait": lambda r: r.listening,
    }
    show_rows("pipeline", rows, columns, as_json=as_json)


@dead.command("list")
def list_dead(*, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show dead letters, newest first."""
    with tars.connect() as bus:
        rows = bus.dead(limit=limit)
    columns = {
        "seq": lambda r: r.sequence,
        "at": lambda r: clock(r.at),
        "subject": lambda r: r.subject,
        "reason": lambda r: r.reason,
        "attempts": lambda r: r.attempts,
        "again": lambda r: "no" if r.not_again else "yes",
        "error": lambda r: r.error,
    }
    show_rows("dead letters", rows, columns, as_json=as_json)


@dead.command()
def show(sequence: Sequence, *, as_json: AsJson = False) -> None:
    """Show one dead letter, whole."""
    with tars.connect() as bus:
        row = bus.dead_letter(sequence)
    show_json(row) if as_json else _show(row)


def _show(row: DeadRow) -> None:
    lines = {
        "subject": row.subject,
        "put aside": f"{clock(row.at)}, deliveries: {row.attempts}",
        "reason": f"{row.reason}: {row.error}",
        "id": row.id or "none",
        "again": row.not_again or f"`tars dead replay {row.sequence}` sends it in your name",
        "body": row.body,
    }
    for name, text in lines.items():
        out.print(f"{name:9} {text}", highlight=False, markup=False, soft_wrap=True)


@dead.command()
def replay(sequence: Sequence, *, as_json: AsJson = False) -> None:
    """Send a dead command again in your name: its bytes, under a new id; a deadline that has passed is renewed."""
    with tars.connect() as bus:
        outcome = bus.replay(sequence)
    if as_json:
        show_json({"command_id": outcome.command_id, "events": outcome.events})
        return
    out.print(f"{sequence}: {', '.join(outcome.events) or 'it was so already'}", highlight=False)
