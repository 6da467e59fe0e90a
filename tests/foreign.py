"""Trainers that somebody else might have written."""

import math
from collections.abc import Callable, Mapping

NUMBER = 4


def scored(values: Mapping[str, float], *, seed: int, report: Callable[[int, float], None], **_: object) -> float:
    """Score by learning rate and seed."""
    report(1, 0.5)
    return values["learning_rate"] + seed


def nan(values: Mapping[str, float], **_: object) -> float:
    """No score."""
    return math.nan


def breaks(values: Mapping[str, float], **_: object) -> float:
    """Break."""
    return values["learning_rate"] / 0
