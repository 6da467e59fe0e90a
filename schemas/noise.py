"""How much an agent's score varies from slot to slot by itself, from the slots before a change (WATCH.md section 2).

Returns are independent around a level that wanders: successive differences see their noise, blind to level and trend.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from operator import mul
from statistics import fmean, median, pstdev
from typing import Final, NamedTuple

from tars.schemas.slots import Slot

CLIP: Final = 4.0
"""Standard deviations from an agent's median beyond which a value is cut (sections 2 and 4)."""
OUTLIER: Final = 9.0
"""Squared differences are cut at so many times their median-based mean (section 2)."""
CHI2_MEDIAN: Final = 0.455
"""Median of a chi-squared variable with one degree of freedom: median / this is the mean without outliers."""
PHI_LIMIT: Final = 0.85
PHI_SIGNIFICANT: Final = 1.64
"""Standard errors from 0 below which an autocorrelation is taken as none."""
FILLED: Final = 5
"""Values an agent's window needs before anything can be said of its noise: a parabola has three."""
ROUNDING: Final = 1e-6
"""Smallest standard deviation, relative to the level: scores that never vary still compare as numbers do."""


class Limits(NamedTuple):
    """Between which values of an agent count as they are."""

    low: float
    high: float

    def clip(self, value: float) -> float:
        """The value that counts; a failed or silent slot's is the lowest."""
        return min(max(value, self.low), self.high) if value == value else self.low  # noqa: PLR0124 - SILENT is NaN


def noise(pre: Sequence[Sequence[Slot]]) -> float:
    """S2, the long-run variance of one slot's value of one agent, pooled over a role.

    pre: of each agent its slots before the change. Agents with fewer than FILLED values are left out; ValueError where
    that leaves none. Autocorrelation phi, where it is significant, counts as (1 + phi) / (1 - phi)^2.
    """
    known = [row for row in pre if is_filled(row)]
    if not known:
        raise ValueError(f"no agent has {FILLED} slots with a finite score before the change: its noise is unknown")
    phi = _autocorrelation(known)
    return fmean(_variance(_finite(row)) for row in known) * (1 + phi) / (1 - phi) ** 2


def is_filled(pre: Sequence[Slot]) -> bool:
    """Whether a window says enough of its agent to compare with it."""
    return len(_finite(pre)) >= FILLED


def limits(pre: Sequence[Slot]) -> Limits:
    """Between which values of this agent count as they are: its median and 4 standard deviations about it."""
    values = _finite(pre)
    middle, reach = median(values), CLIP * math.sqrt(_variance(values))
    return Limits(middle - reach, middle + reach)


def _finite(row: Sequence[Slot]) -> list[float]:
    return [value for value in row if value is not None and math.isfinite(value)]


def _variance(values: Sequence[float]) -> float:
    """s2 of one agent: the mean of half the squared successive differences, robust to single outliers."""
    halves = [(after - before) ** 2 / 2 for before, after in pairwise(values)]
    middle = median(halves)
    # Where most values are equal (an episode's cap, say) the median says nothing of the others.
    cut = OUTLIER * middle / CHI2_MEDIAN if middle > 0 else math.inf
    least = (ROUNDING * max(abs(median(values)), ROUNDING)) ** 2
    return max(fmean(min(half, cut) for half in halves), least)


def _autocorrelation(rows: Sequence[Sequence[Slot]]) -> float:
    """phi, pooled over the role's agents, corrected for the bias of a short window; 0 unless significant."""
    window = len(rows[0])
    products = squares = 0.0
    for row in rows:
        left = _residuals(row)
        products += sum(map(mul, left[1:], left))
        squares += sum(map(mul, left, left))
    if squares == 0:
        return 0.0
    phi = products / squares
    phi = min(max(phi + (3 + 5 * phi) / window, 0.0), PHI_LIMIT)
    return phi if phi > PHI_SIGNIFICANT / math.sqrt(len(rows) * window) else 0.0


def _residuals(row: Sequence[Slot]) -> list[float]:
    """What a parabola over the window leaves of each slot; 0 where a slot is empty or failed."""
    present = [(float(at), value) for at, value in enumerate(row) if value is not None and math.isfinite(value)]
    times, left = [at for at, _ in present], [value for _, value in present]
    basis: list[list[float]] = []
    for degree in range(3):  # orthogonal polynomials on the slots that are there
        shape = [(at - times[0]) ** degree for at in times]
        for other in basis:
            shape = _without(shape, other)
        basis.append(shape)
        left = _without(left, shape)
    cut = CLIP * pstdev(left)
    found = [0.0] * len(row)
    for at, value in zip(times, left, strict=True):
        found[int(at)] = min(max(value, -cut), cut)
    return found


def _without(values: list[float], shape: Sequence[float]) -> list[float]:
    """Take out the part of `values` that `shape` explains."""
    part = sum(map(mul, values, shape)) / sum(map(mul, shape, shape))
    return [value - part * other for value, other in zip(values, shape, strict=True)]
