"""A proposal made by hand: whom it can be for, one input for each key, and what was typed. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tars.dashboard.wording import number
from tars.schemas.bounds import Strictness, interval
from tars.schemas.hyperparameters import ALGORITHMS, Hyperparameter, Value
from tars.schemas.views import AgentRow

CHOSEN: Final = "chosen agents"
"""Instead of a role: agents, one by one."""
NONE: Final = "none"
"""How a value that is not there is typed, where a key allows it."""


@dataclass(frozen=True)
class Input:
    """One key of the form."""

    name: str
    runs: str
    """What the agents run, for people."""
    bounds: str
    """Where a new value may lie at this strictness, for people."""
    help: str
    locked: bool
    """The strictness allows no change."""


def learners(rows: Iterable[AgentRow]) -> list[AgentRow]:
    """Agents that can be proposed for."""
    return [row for row in rows if row.algorithm is not None and row.state == "running"]


def targets(rows: Iterable[AgentRow]) -> list[str]:
    """Whom a proposal can be for: roles of live learners, and agents one by one; empty: nobody learns."""
    found = learners(rows)
    return [*sorted({row.role for row in found if row.role}), CHOSEN] if found else []


def inputs(rows: Sequence[AgentRow], strictness: Strictness) -> tuple[Input, ...]:
    """One input for each key that all these agents have, in the order of declaration; none where algorithms differ."""
    algorithms = {row.algorithm for row in rows}
    algorithm = algorithms.pop() if len(algorithms) == 1 else None
    if algorithm is None:
        return ()
    return tuple(
        _input(declared, [row.values[declared.name] for row in rows], strictness)
        for declared in ALGORITHMS[algorithm].hyperparameters
        if all(declared.name in row.values for row in rows)
    )


def _input(declared: Hyperparameter, runs: Sequence[Value], strictness: Strictness) -> Input:
    different = list(dict.fromkeys(runs))
    bounds = [interval(declared, strictness, value) for value in different]
    within = [f"{pair[0]:g} … {pair[1]:g}" for pair in dict.fromkeys(bounds) if pair]
    when = f"Takes effect: {declared.takes_effect['ours']}."
    locked = f" May not change at strictness {strictness}: {declared.high_risk}." if not within else ""
    return Input(
        name=declared.name,
        runs=" or ".join(number(value) for value in different[:3]),
        bounds=" or ".join(within[:3]) or "no change",
        help=f"{declared.meaning} {when}{locked}",
        locked=not within,
    )


def typed(rows: Sequence[AgentRow], texts: Mapping[str, str]) -> tuple[dict[str, Value], list[str]]:
    """Read what was typed: the values, and every text that is no value of its key. An empty text changes nothing."""
    known = {
        declared.name: declared
        for row in rows[:1]
        if row.algorithm is not None
        for declared in ALGORITHMS[row.algorithm].hyperparameters
    }
    values: dict[str, Value] = {}
    wrong = []
    for name, text in texts.items():
        if not text.strip():
            continue
        try:
            values[name] = _read(known[name], text.strip())
        except ValueError:
            kind = "a whole number" if known[name].type is int else "a finite number"
            wrong.append(f"{name} = {text.strip()}: it must be {kind}, as 64 or 3e-4")
    return values, wrong


def _read(declared: Hyperparameter, text: str) -> Value:
    """Raises ValueError."""
    if text == NONE and declared.default is None:
        return None
    plain = text.replace(",", "").replace("_", "")
    if declared.type is int:
        return int(plain)
    if not math.isfinite(value := float(plain)):
        raise ValueError(text)
    return value
