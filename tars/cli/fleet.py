"""Commands that look: agents, how they play together, what waits, counts."""

import tars
from tars.cli.output import AsJson, Limit, clock, number, out, show_json, show_rows
from tars.dashboard.wording import version
from tars.schemas.hyperparameters import ALGORITHMS, same
from tars.schemas.views import AgentRow


def agents(*, as_json: AsJson = False) -> None:
    """Show every agent and what it runs."""
    with tars.connect() as bus:
        rows = bus.agents()
    columns = {
        "agent": lambda r: r.agent_id,
        "learns by": lambda r: r.algorithm or "reference",
        "state": lambda r: r.state if r.finite or r.state != "running" else "diverged",
        "episode": lambda r: r.episode,
        "score": lambda r: number(round(r.score, 3)) if r.score is not None else "-",
        "runs": version,
        "values, where not SB3's": _own_values,
        "reloaded": lambda r: f"{clock(r.reloaded_at)}, {r.reload_milliseconds:.1f} ms" if r.reloaded_at else "-",
    }
    show_rows("agents", rows, columns, as_json=as_json)


def _own_values(row: AgentRow) -> str:
    """What a study would search and is not at its default: a whole set fits no table."""
    known = ALGORITHMS[row.algorithm] if row.algorithm else None
    searched, defaults = (known.game_search, known.defaults) if known else ({}, {})
    own = {k: v for k, v in row.values.items() if k in searched and not same(v, defaults[k])}
    return ", ".join(f"{k} {number(v)}" for k, v in own.items())


def conflicts(*, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show how often the roles of each world get in each other's way, per step."""
    with tars.connect() as bus:
        rows = bus.conflicts(limit=limit)
    kinds = sorted({kind for row in rows for kind in row.conflicts})
    columns = WORLD | {kind: lambda r, kind=kind: number(r.conflicts.get(kind)) for kind in kinds}
    show_rows("conflicts", rows, columns | {"latency": lambda r: number(r.latency)}, as_json=as_json)


def equilibria(*, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Show how far each world is from an equilibrium, and what each role could gain by itself."""
    with tars.connect() as bus:
        rows = bus.equilibria(limit=limit)
    roles = sorted({role for row in rows for role in row.gains})
    gains = {role: lambda r, role=role: number(r.gains.get(role)) for role in roles}
    show_rows("equilibria", rows, WORLD | {"NashConv": lambda r: number(r.nash_conv)} | gains, as_json=as_json)


WORLD = {"world": lambda r: r.game_id, "at": lambda r: clock(r.at), "episode": lambda r: r.episode}


def stats(*, as_json: AsJson = False) -> None:
    """Show counts since the ledger began."""
    with tars.connect() as bus:
        row = bus.stats()
    if as_json:
        show_json(row)
        return
    for name, value in row.model_dump().items():
        out.print(f"{name:12} {value}", highlight=False)
