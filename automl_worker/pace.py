"""How a search is asked: many points at once keep trainers busy, few let the sampler learn. Pure."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MOST_IN_FLIGHT: Final = 64
"""Two trainers' populations."""
FEWEST_IN_FLIGHT: Final = 4
MOST_AT_ONCE: Final = 32


@dataclass(frozen=True)
class Pace:
    """How many points are asked at once, each time that there is room for them."""

    at_once: int
    in_flight: int
    """Most points that are asked and not answered: enough to fill populations, few enough to learn from."""

    def batches(self, trials: int) -> Iterator[range]:
        """The numbers of each batch: all that may be in flight, then so many at once."""
        yield range(min(self.in_flight, trials))
        for first in range(self.in_flight, trials, self.at_once):
            yield range(first, min(first + self.at_once, trials))

    def needed(self, batch: range) -> int:
        """How many answers a batch waits for, and is told."""
        return 0 if batch.start == 0 else batch.start + self.at_once - self.in_flight


def pace_of(trials: int) -> Pace:
    """The usual pace of a study of so many trials (benchmarks/study.py, the part "batches", measures what it costs)."""
    at_once = min(max(1, trials // 25), MOST_AT_ONCE)
    return Pace(at_once, min(max(FEWEST_IN_FLIGHT, math.ceil(trials / 3)), MOST_IN_FLIGHT))
