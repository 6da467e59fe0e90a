"""`tars sync`: propose what studies have found, by hand."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, cast

import typer

import tars
from tars.cli import completion
from tars.cli.output import PAGE, AsJson, show_rows, values_text, verdict_text
from tars.producers.commands import CommandRefused
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import Value
from tars.schemas.message import Frozen
from tars.schemas.study import StudyEvent
from tars.schemas.update import ProposeUpdate, UpdateRefused
from tars.schemas.views import StudyRow
from tars.sync_worker.findings import champion_update

if TYPE_CHECKING:
    from tars.producers.client import Client


class Synced(Frozen):
    """What became of a champion."""

    study_id: str
    update_id: str
    agents: tuple[str, ...]
    values: dict[str, Value]
    evidence: Evidence
    reasons: tuple[str, ...] = ()
    """Why it was refused; none: it is proposed."""


def sync(
    role: Annotated[
        str | None,
        typer.Argument(help="Only for agents of this role.", autocompletion=completion.game_roles, show_default=False),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Propose the newest BETTER champion of each target that is not proposed yet."""
    with tars.connect() as bus:
        found = [one for study_id in _newest(bus, role) if (one := _synced(bus, study_id))]
    columns = {
        "update": lambda r: r.update_id,
        "agents": lambda r: ", ".join(r.agents),
        "values": lambda r: values_text(r.values),
        "evidence": lambda r: verdict_text(r.evidence),
        "outcome": lambda r: "; ".join(("refused", *r.reasons)) if r.reasons else "proposed",
    }
    show_rows("champions to propose", found, columns, as_json=as_json)
    if any(one.reasons for one in found):
        raise typer.Exit(1)


def _newest(bus: "Client", role: str | None) -> Iterator[str]:
    """The newest study with a BETTER champion of each target; an older one that shares an agent was for the same."""
    roles = {row.agent_id: row.role for row in bus.agents()}
    if role is not None and role not in roles.values():
        raise CommandRefused(f"no agent has the role {role}")
    taken: set[str] = set()
    for row in _studies(bus):
        ours = role is None or role in {roles.get(name) for name in row.agents}
        if ours and row.evidence and row.evidence.promotable and not taken.intersection(row.agents):
            taken.update(row.agents)
            yield row.study_id


def _studies(bus: "Client") -> Iterator[StudyRow]:
    """Page by page, the newest first: one answer holds so many."""
    offset = 0
    while page := bus.studies(offset=offset, limit=PAGE):
        yield from page
        offset += len(page)


def _synced(bus: "Client", study_id: str) -> Synced | None:
    """Propose its champion; None: it has no target, or is proposed. An id that was refused once stays so."""
    command = champion_update(cast("tuple[StudyEvent, ...]", bus.events("study", study_id)))
    if command is None or command.evidence is None:
        return None
    known = bus.events("update", command.update_id)
    refused = next((event.reasons for event in known if isinstance(event, UpdateRefused)), None)
    if known and refused is None:
        return None
    return Synced(
        study_id=study_id,
        update_id=command.update_id,
        agents=command.agents,
        values=command.values,
        evidence=command.evidence,
        reasons=_refusal(bus, command) if refused is None else refused,
    )


def _refusal(bus: "Client", command: ProposeUpdate) -> tuple[str, ...]:
    try:
        bus.send(command)
    except CommandRefused as refused:
        return refused.reasons
    return ()
