"""Commands that look: agents and counts."""

import tars
from tars.cli.output import AsJson, clock, number, out, show_json, show_rows
from tars.schemas.hyperparameters import ALGORITHMS


def agents(*, as_json: AsJson = False) -> None:
    """Show every agent and what it runs."""
    with tars.connect() as bus:
        rows = bus.agents()
    searched = {name for algorithm in ALGORITHMS.values() for name in algorithm.game_search}
    columns = {
        "agent": lambda r: r.agent_id,
        "learns by": lambda r: r.algorithm or "reference",
        "state": lambda r: r.state if r.finite or r.state != "running" else "diverged",
        "episode": lambda r: r.episode,
        "score": lambda r: number(round(r.score, 3)) if r.score is not None else "-",
        "version": lambda r: r.applied,
        "values": lambda r: ", ".join(f"{k} {number(v)}" for k, v in r.values.items() if k in searched),
        "reloaded": lambda r: f"{clock(r.reloaded_at)}, {r.reload_milliseconds:.1f} ms" if r.reloaded_at else "-",
    }
    show_rows("agents", rows, columns, as_json=as_json)


def stats(*, as_json: AsJson = False) -> None:
    """Show counts since the ledger began."""
    with tars.connect() as bus:
        row = bus.stats()
    if as_json:
        show_json(row)
        return
    for name, value in row.model_dump().items():
        out.print(f"{name:12} {value}", highlight=False)
