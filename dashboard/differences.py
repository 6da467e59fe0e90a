"""What an update changes, by group of agents, and where each value lies in its bounds. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from tars.dashboard.wording import factor, number
from tars.schemas.bounds import Strictness, interval, out_of_bounds
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Hyperparameter, Value, Values, same
from tars.schemas.views import UpdateRow

WIDE: float = 100.0
"""Bounds that span more than this factor are drawn on a logarithmic scale."""


@dataclass(frozen=True)
class Difference:
    """One key of an update: what runs, what is proposed, and where both lie."""

    name: str
    old: Value
    new: Value
    bounds: tuple[float, float] | None
    """What the strictness allows, ends included; None: no change at all, or nobody knows the key."""
    place_old: float | None
    """0 at the lower bound, 1 at the upper, cut to that; None: it has no place."""
    place_new: float | None
    change: str
    """By how much it changes, for people; of a discount, by how much its distance from 1 does."""
    takes_effect: str
    objection: str | None
    """Why the new value is out of bounds; None: it is not."""

    @property
    def old_text(self) -> str:
        """What runs, for people."""
        return number(self.old)

    @property
    def new_text(self) -> str:
        """What is proposed, for people."""
        return number(self.new)

    @property
    def low_text(self) -> str:
        """The lower bound, for people."""
        return f"{self.bounds[0]:g}" if self.bounds else ""

    @property
    def high_text(self) -> str:
        """The upper bound, for people."""
        return f"{self.bounds[1]:g}" if self.bounds else ""


@dataclass(frozen=True)
class Group:
    """Agents of an update that run the same values of what it changes."""

    agents: tuple[str, ...]
    differences: tuple[Difference, ...]


def groups(
    update: UpdateRow, algorithms: Mapping[str, AlgorithmName | None], strictness: Strictness
) -> tuple[Group, ...]:
    """Group the agents of `update` by what they ran when it was proposed.

    algorithms: that of each agent; for one that is not there, the evidence says which, else nothing has bounds.
    """
    fallback = update.evidence.algorithm if update.evidence else None

    def key(agent: str) -> tuple[AlgorithmName | None, tuple[tuple[str, Value], ...]]:
        before = update.before.get(agent, {})
        return algorithms.get(agent) or fallback, tuple((name, before.get(name)) for name in update.values)

    def order(agent: str) -> str:
        return repr(key(agent))

    return tuple(
        Group(tuple(sorted(agents)), differences(update.values, dict(key_[1]), key_[0], strictness))
        for key_, agents in ((key_, tuple(found)) for key_, found in groupby(sorted(update.agents, key=order), key=key))
    )


def differences(
    values: Values, before: Values, algorithm: AlgorithmName | None, strictness: Strictness
) -> tuple[Difference, ...]:
    """Return what really changes, key by key, in the order of the update."""
    known = ALGORITHMS[algorithm] if algorithm else None
    return tuple(
        _difference(name, before.get(name), value, known[name] if known and name in known.names else None, strictness)
        for name, value in values.items()
        if name not in before or not same(before[name], value)
    )


def _difference(
    name: str, old: Value, new: Value, declared: Hyperparameter | None, strictness: Strictness
) -> Difference:
    if declared is None:
        return Difference(name, old, new, None, None, None, factor(old, new), "", None)
    bounds = interval(declared, strictness, old)
    return Difference(
        name,
        old,
        new,
        bounds,
        place(declared, bounds, old),
        place(declared, bounds, new),
        f"1-x {factor(1 - old, 1 - new)}"
        if declared.one_minus and old is not None and new is not None
        else factor(old, new),
        declared.takes_effect["ours"],
        out_of_bounds(declared, new, old, strictness),
    )


def place(declared: Hyperparameter, bounds: tuple[float, float] | None, value: Value) -> float | None:
    """Return where `value` lies between `bounds`, from 0 to 1, on the scale on which the key is felt.

    A discount is felt by the logarithm of its distance from 1, and what spans more than a factor WIDE by its own.
    """
    if bounds is None or value is None or bounds[0] >= bounds[1]:
        return None
    low, high = bounds
    if declared.one_minus and high < 1:
        return _within(-math.log(1 - low), -math.log(1 - high), -math.log(max(1 - value, 1e-9)))
    if low > 0 and high / low > WIDE:
        return _within(math.log(low), math.log(high), math.log(max(value, low)))
    return _within(low, high, value)


def _within(low: float, high: float, value: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))
