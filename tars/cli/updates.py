"""Commands about updates: propose, approve, reject, apply, rollback, and their history."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, cast, get_args

import typer
from rich.markup import escape
from rich.table import Table

import tars
from tars.cli import completion
from tars.cli.dry_run import try_out
from tars.cli.output import (
    PAGE,
    AsJson,
    Limit,
    Offset,
    clock,
    err,
    gain_text,
    number,
    out,
    show_json,
    show_page,
    show_rows,
    values_text,
    verdict_text,
)
from tars.cli.study_options import Agents, Role
from tars.dashboard.harm import foreseen
from tars.dashboard.steps import steps
from tars.dashboard.wording import REVERSIBLE
from tars.producers.commands import CommandRefused
from tars.runtime.settings import load_settings
from tars.schemas.hyperparameters import ALGORITHMS, Value
from tars.schemas.message import Event
from tars.schemas.update import UpdateRolledBack, What
from tars.schemas.views import UpdateRow, UpdateStage

if TYPE_CHECKING:
    from tars.producers.client import Client

UNRELEASED: Final[tuple[UpdateStage, ...]] = ("pending", "approved")
HELP: Final = "Its id, as `tars updates` shows it."
Pending = Annotated[str, typer.Argument(metavar="UPDATE", help=HELP, autocompletion=completion.updates_at("pending"))]
Unreleased = Annotated[
    str, typer.Argument(metavar="UPDATE", help=HELP, autocompletion=completion.updates_at(*UNRELEASED))
]
Held = Annotated[str, typer.Argument(metavar="UPDATE", help=HELP, autocompletion=completion.updates_at("approved"))]
Released = Annotated[
    str, typer.Argument(metavar="UPDATE", help=HELP, autocompletion=completion.updates_at(*REVERSIBLE))
]
Why = Annotated[str, typer.Option("--reason", "-r", help="Why; it stands in the history.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")]


def updates(
    *,
    pending: Annotated[bool, typer.Option("--pending", help="All that wait for approval.")] = False,
    limit: Limit = PAGE,
    offset: Offset = 0,
    as_json: AsJson = False,
) -> None:
    """Show updates, newest first."""
    if pending and (limit, offset) != (PAGE, 0):
        raise typer.BadParameter("--pending shows all that wait: leave out --limit and --offset")
    with tars.connect() as bus:
        rows = bus.pending() if pending else bus.updates(offset=offset, limit=limit)
    columns = {
        "update": lambda r: r.update_id,
        "stage": lambda r: r.stage,
        "agents": lambda r: ", ".join(r.agents),
        "values": lambda r: values_text(r.values),
        "evidence": _evidence,
        "proposed": lambda r: f"{clock(r.proposed_at)} by {r.proposed_by}",
    }
    if pending:
        show_rows("pending updates", rows, columns, as_json=as_json)
    else:
        show_page("updates", rows, columns, limit=limit, offset=offset, as_json=as_json)


def _evidence(row: UpdateRow) -> str:
    return verdict_text(row.evidence) if row.evidence else "none"


def propose(
    *,
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A value to change; repeat it.",
            autocompletion=completion.hyperparameters,
        ),
    ],
    agent: Agents = None,
    role: Role = None,
    reason: Why = "",
    update_id: Annotated[str | None, typer.Option("--id", help="Its id; made up unless given.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check it, by VALIDATION_STRICTNESS here.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Propose values for agents; the rest stays as each agent runs it."""
    values = dict(parse_value(text) for text in sets)
    if (role is None) == (not agent):
        raise typer.BadParameter("name exactly one of --role and --agent")
    if dry_run:
        try_out(values, role, agent or (), as_json=as_json)
        return
    with tars.connect() as bus:
        update = bus.propose(values, role=role, agents=tuple(agent or ()), reason=reason, update_id=update_id)
        event = update.wait() if wait else None
    _done(update.update_id, "proposed", event, as_json=as_json)


def parse_value(text: str) -> tuple[str, Value]:
    """Read `key=value`: a whole number for a whole-number key, else a number; raises typer.BadParameter."""
    key, found, value = text.partition("=")
    if not found or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE, for example gamma=0.97")
    whole = any(
        declared.name == key and declared.type is int for a in ALGORITHMS.values() for declared in a.hyperparameters
    )
    try:
        read = int(value) if whole else float(value)
    except ValueError:
        read = math.nan
    if not math.isfinite(read):
        kind = "a whole number" if whole else "a finite number"
        raise typer.BadParameter(f"{value!r} is not {kind}: {key} needs one")
    return key.strip(), read


def approve(
    update_id: Pending,
    *,
    reason: Why = "",
    hold: Annotated[bool, typer.Option("--hold", help="Do not release it yet; `tars apply` does.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Let a pending update through."""
    with tars.connect() as bus:
        bus.approve(update_id, reason, hold=hold)
        event = bus.wait_for_update(update_id) if wait and not hold else None
    _done(update_id, "approved, on hold" if hold else "approved and released", event, as_json=as_json)


def reject(update_id: Unreleased, *, reason: Why = "", as_json: AsJson = False) -> None:
    """Turn an update down before it is released."""
    with tars.connect() as bus:
        bus.reject(update_id, reason)
    _done(update_id, "rejected", None, as_json=as_json)


def apply(update_id: Held, *, wait: Wait = False, as_json: AsJson = False) -> None:
    """Release an update that was approved on hold."""
    with tars.connect() as bus:
        bus.apply(update_id)
        event = bus.wait_for_update(update_id) if wait else None
    _done(update_id, "released", event, as_json=as_json)


def rollback(
    update_id: Released,
    *,
    reason: Why = "",
    what: Annotated[
        str | None, typer.Option("--what", help="values, or all: what was learnt since as well, from the snapshot.")
    ] = None,
    over_later: Annotated[bool, typer.Option("--over-later", help="Undo the updates that came after it, too.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Take a released update back: its agents return to the values they ran before it.

    While its rollout is not over all that they were returns with them; afterwards only if --what all says so. Where
    agents were not reached it can be asked for again.
    """
    with tars.connect() as bus:
        bus.roll_back(update_id, reason, what=_what(what), over_later=over_later)
        event = bus.wait_for_update(update_id, rolled_back=True) if wait else None
    if isinstance(event, UpdateRolledBack) and what == "all" and event.read_backs and not event.restored:
        err.print("only the values went back: of no agent there is a snapshot that could be restored")
    _done(update_id, "to be rolled back", event, as_json=as_json)


def _what(name: str | None) -> What | None:
    for known in get_args(What):
        if name == known:
            return cast("What", known)
    if name is None:
        return None
    raise typer.BadParameter(f"{name} cannot go back; {' and '.join(get_args(What))} can")


def _done(update_id: str, what: str, event: Event | None, *, as_json: bool) -> None:
    """Say what became of it; waiting for something that did not go through ends with exit code 1."""
    ended = event.kind.split(".")[1].replace("-", " ") if event else None
    if as_json:
        show_json(
            {
                "update_id": update_id,
                "outcome": ended or what,
                "event": event.model_dump(mode="json") if event else None,
            }
        )
    else:
        out.print(f"{update_id}: {ended or what}")
    not_reached = event.unreached if isinstance(event, UpdateRolledBack) else {}
    for agent_id, why in not_reached.items():
        err.print(f"{agent_id} was not reached: {why}", markup=False, highlight=False)
    went_through = ended in {None, "confirmed"} or (ended == "rolled back" and "rolled" in what)
    if not_reached or not went_through:
        raise typer.Exit(1)


def history(
    key: Annotated[
        str, typer.Argument(metavar="ID", help="An update, or an agent.", autocompletion=completion.updates_and_agents)
    ],
    *,
    limit: Limit = PAGE,
    offset: Offset = 0,
    as_json: AsJson = False,
) -> None:
    """Show every event of an update, or the episodes of an agent, newest first: of these so many, from so many on."""
    with tars.connect() as bus:
        row = bus.update(key)
        episodes = [] if row else bus.history(key, offset=offset, limit=limit)
        watch = _watch(bus, row) if row and row.stage in UNRELEASED and not as_json else None
    if row is None and not episodes and not offset:
        raise CommandRefused(f"there is no update and no agent {key}")
    if row is not None and (limit, offset) != (PAGE, 0):
        raise typer.BadParameter(f"{key} is an update, whose history is shown whole: leave out --limit and --offset")
    if row is None:
        show_page(f"episodes of {key}", episodes, EPISODES, limit=limit, offset=offset, as_json=as_json)
    elif as_json:
        show_json(row)
    else:
        _show_update(row)
        if watch:
            out.print(watch, highlight=False)


def _watch(bus: "Client", row: UpdateRow) -> str:
    """What the watch of an update that is not released yet could find."""
    agents = [agent for agent in bus.agents() if agent.agent_id in row.agents]
    return foreseen(agents, bus, datetime.now(UTC), load_settings().watch_episodes)


EPISODES = {
    "at": lambda p: clock(p.at),
    "episode": lambda p: p.episode,
    "score": lambda p: number(p.score),
    "version": lambda p: p.version,
}


def _show_update(row: UpdateRow) -> None:
    out.print(f"[bold]{escape(row.update_id)}[/] {row.stage}: {escape(values_text(row.values))}")
    out.print("  ".join(map(str, steps(row, datetime.now(UTC)))), highlight=False, markup=False)
    if row.evidence:
        e = row.evidence
        out.print(f"evidence {e.verdict}: {gain_text(e)}; p {e.p_value:.2g}")
    told = Table.grid(padding=(0, 2, 0, 0))
    for entry in row.history:
        told.add_row("", clock(entry.at), escape(entry.by or "TARS"), escape(entry.text))
    out.print(told)
    for back in row.read_backs:
        proof = "as asked" if back.equal else "NOT as asked"
        kept = "weights kept" if back.weights_kept else "weights CHANGED"
        out.print(f"  {back.agent_id} read back {proof} after {back.milliseconds:.1f} ms, {kept}", highlight=False)
