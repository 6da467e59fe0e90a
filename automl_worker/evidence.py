"""The sequential paired test of a candidate against the incumbent, on seeds that the search never saw.

Looks after 8, 16, 32 and 64 pairs. At each a one-sided paired t-test may spend a part of the error: the increment of
the O'Brien-Fleming-like spending function of Lan and DeMets (Biometrika 70, 1983), 2 (1 - Phi(z / sqrt t)) with
z = Phi^-1(1 - alpha / 2), at that look's information t = n / 64. Taking the increments as nominal levels keeps their
sum, and so the error, at most alpha whatever the looks' dependence. Several candidates share alpha (Bonferroni).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tars.schemas.evidence import PairedScore, Verdict

LOOKS: Final = (8, 16, 32, 64)
"""Pairs after which the test looks."""
ALPHA: Final = 0.05
"""Chance to promote a candidate that is no better, over all looks and candidates."""
CONFIDENCE: Final = 0.95
UNUSABLE: Final = 0.25
"""Share of seeds on which a candidate may fail, or a pair be missing: beyond it it never counts as better."""
PAIRS_FOR_AN_INTERVAL: Final = 2
LARGEST: Final = 1e100
"""A normalised score that is larger says nothing, whatever its sign, and its square would not be finite."""


@dataclass(frozen=True)
class Look:
    """What a look at the pairs found."""

    number: int
    """From 1."""
    verdict: Verdict | None
    """None: undecided, more pairs are needed."""
    gain: float
    gain_low: float
    gain_high: float
    p_value: float


def level(look: int, candidates: int) -> float:
    """The nominal one-sided level of a look (from 1), for one of so many candidates."""
    alpha = ALPHA / candidates
    spent = [_spent(alpha, pairs / LOOKS[-1]) for pairs in LOOKS]
    return spent[look - 1] - (spent[look - 2] if look > 1 else 0.0)


def _spent(alpha: float, information: float) -> float:
    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(information)))


def assess(pairs: Sequence[PairedScore], look: int, *, threshold: float, candidates: int) -> Look:
    """Look at the pairs that should be there by now; those that lack a score, or have an impossible one, are left out.

    BETTER: significant, and the mean gain reaches `threshold`. NOT_BETTER: the upper bound lies below it (futile), or
    the last look is over and the mean does. INCONCLUSIVE: the last look is over without either, or too many pairs are
    missing or failed, whatever the rest say. Of fewer than two pairs no interval is known: both its ends are the gain.
    """
    usable = [pair for pair in pairs if _is_usable(pair)]
    difference = np.array([pair.candidate - pair.incumbent for pair in usable])
    gain, low, high = interval(difference)
    if len(difference) < PAIRS_FOR_AN_INTERVAL:
        return Look(look, Verdict.INCONCLUSIVE, gain, low, high, 1.0)
    p_value = _p_value(gain, float(stats.sem(difference)), len(difference) - 1)
    enough = sum(not pair.failed for pair in usable) >= (1 - UNUSABLE) * LOOKS[look - 1]
    verdict = _verdict(gain, high, p_value, look, threshold, candidates) if enough else Verdict.INCONCLUSIVE
    return Look(look, verdict, gain, low, high, p_value)


def interval(difference: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of paired differences, and both one-sided 95 % ends; of fewer than two the ends are the mean, of none 0."""
    if len(difference) < PAIRS_FOR_AN_INTERVAL:
        only = float(np.sum(difference))
        return only, only, only
    gain = float(np.mean(difference))
    reach = float(stats.t.ppf(CONFIDENCE, len(difference) - 1)) * float(stats.sem(difference))
    return gain, gain - reach, gain + reach


def _verdict(gain: float, upper: float, p_value: float, look: int, threshold: float, candidates: int) -> Verdict | None:
    if p_value < level(look, candidates) and gain >= threshold:
        return Verdict.BETTER
    if upper < threshold:
        return Verdict.NOT_BETTER
    if look < len(LOOKS):
        return None
    return Verdict.NOT_BETTER if gain < threshold else Verdict.INCONCLUSIVE


def _p_value(gain: float, error: float, freedom: int) -> float:
    """One-sided; without any spread the t statistic is infinite, and equal scores prove nothing."""
    if error == 0:
        return 0.0 if gain > 0 else 1.0
    return float(stats.t.sf(gain / error, freedom))


def _is_usable(pair: PairedScore) -> bool:
    return _counts(pair.candidate) and _counts(pair.incumbent)


def _counts(score: float) -> bool:
    """False also of what is not a number."""
    return abs(score) <= LARGEST


def paired(
    seeds: Sequence[int], incumbent: Mapping[int, float | None], candidate: Mapping[int, float | None]
) -> tuple[PairedScore, ...]:
    """Pair the scores of the same seeds; a seed where the incumbent failed is left out.

    Where only the candidate failed, its score is the lowest that either has shown on these seeds, and at most 0, what
    doing nothing clever scores: left out, its failures would be invisible to mean and test. A number far below (as
    FAILED_SCORE) would say no more, and would widen the interval until nothing was ever futile.
    """
    found = [(seed, _known(incumbent.get(seed)), _known(candidate.get(seed))) for seed in seeds]
    worst = min([0.0, *(score for _, *both in found for score in both if score is not None)])
    return tuple(
        PairedScore(seed=seed, incumbent=one, candidate=worst if other is None else other, failed=other is None)
        for seed, one, other in found
        if one is not None
    )


def _known(score: float | None) -> float | None:
    """None: it failed, is lost, or is no score at all."""
    return score if score is not None and _counts(score) else None
