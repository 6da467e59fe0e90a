"""Which trials go on: successive halving, decided at each rung by those that came so far (Li et al. 2020, ASHA)."""

from collections.abc import Sequence
from math import isfinite
from statistics import median
from typing import Final

RUNGS: Final = (20, 40)
"""Episodes at which a full search trial is compared. Before episode 20 some learners, DDPG most, do not yet rise."""
FEWEST: Final = 4
"""Trials at a rung, below which none is pruned."""


def rungs(train_episodes: int) -> tuple[int, ...]:
    """The rungs of a trial of this length; the last episode is none."""
    return tuple(rung for rung in RUNGS if rung < train_episodes)


def falls_behind(score: float, at_rung: Sequence[float]) -> bool:
    """Whether a trial is in the worse half of those at its rung, itself included.

    What is not finite is no score: no episode has ended yet, or the trial diverged, which its end will tell.
    """
    known = [other for other in at_rung if isfinite(other)]
    return isfinite(score) and len(known) >= FEWEST and score < median(known)
