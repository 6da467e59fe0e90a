"""`tars propose --dry-run`: the sync worker's rules, asked here about what the agents run; nothing is sent."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import typer

import tars
from tars.cli.output import number, out, show_json
from tars.dashboard.harm import foreseen
from tars.producers.commands import CommandRefused
from tars.producers.rehearsal import rehearse, running_agents
from tars.runtime.settings import load_settings
from tars.schemas.hyperparameters import Value
from tars.schemas.update import ProposeUpdate


def try_out(values: Mapping[str, Value], role: str | None, agents: Sequence[str], *, as_json: bool) -> None:
    """Say what would change and whether it would be refused; then the exit code is 1."""
    settings, now = load_settings(), datetime.now(UTC)
    strictness = settings.validation_strictness
    with tars.connect() as bus:
        names = bus.learners(role) if role is not None else tuple(agents)
        concerned = [row for row in bus.agents() if row.agent_id in names]
        watch = foreseen(concerned, bus, now, settings.watch_episodes)
    running = running_agents(concerned)
    ProposeUpdate(update_id="dry-run", agents=names, values=dict(values))  # raises where no message can hold it
    reasons = rehearse(values, names, running, strictness, now)
    changes = {name: {key: [agent.values.get(key), values[key]] for key in values} for name, agent in running.items()}
    if as_json:
        show_json(
            {"allowed": not reasons, "strictness": strictness, "reasons": reasons, "changes": changes, "watch": watch}
        )
        raise typer.Exit(1 if reasons else 0)
    for name, change in changes.items():
        text = ", ".join(f"{key} {number(before)} -> {number(after)}" for key, (before, after) in change.items())
        out.print(f"{name}: {text}", highlight=False, markup=False)
    if reasons:
        raise CommandRefused(*reasons)
    out.print(watch, highlight=False)
    out.print(f"allowed at strictness {strictness}; nothing was sent")
