"""Episodes on one clock: what each agent of a role scored in each slot of time, so that agents can be compared.

A slot lasts as long as the role's median episode, the same for all its agents, whatever their speed (WATCH.md
section 2).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, median
from typing import Final, NamedTuple

SILENT_INTERVALS: Final = 5
"""An agent that reports nothing for so many of its own median intervals has fallen silent (WATCH.md section 2)."""
FAILED: Final = -math.inf
"""The value of a slot with a failed episode: taken as the lowest that counts, whatever that is."""
SILENT: Final = math.nan
"""The value of a slot in which an agent has fallen silent: as bad as a failed one, and a control is left out for it."""

Slot = float | None
"""Mean score in a slot, FAILED or SILENT; None: no episode ended in it, which says nothing."""


class Episode(NamedTuple):
    """One finished episode."""

    time: float
    """When it ended, seconds on the clock that all its role's agents share (the server's)."""
    value: float
    """Behaviour score, or return; not finite: the episode failed."""


def slots(
    episodes: Iterable[Episode], start: float, width: float, count: int, *, interval: float | None = None
) -> tuple[Slot, ...]:
    """Mean score in each of `count` slots of `width` seconds from `start` on.

    episodes: of one agent, in any order; those before `start` only tell when it was last heard. interval: the agent's
    median interval in seconds, beyond five of which an empty slot is SILENT; None: empty is always None.
    """
    ordered = sorted(episodes)
    times = [episode.time for episode in ordered]
    inside: list[list[float]] = [[] for _ in range(count)]
    for time, value in ordered:
        if 0 <= (at := math.floor((time - start) / width)) < count:
            inside[at].append(value)
    patience = math.inf if interval is None else SILENT_INTERVALS * interval
    found: list[Slot] = []
    for at, values in enumerate(inside):
        end = start + (at + 1) * width
        before = bisect_left(times, end)
        heard = times[before - 1] if before else start
        found.append(_value(values) if values else (SILENT if end - heard > patience else None))
    return tuple(found)


def median_interval(*agents: Iterable[Episode]) -> float | None:
    """Median seconds from one episode's end to the next: an agent's own, or pooled a role's, which is its slot.

    None: no agent has ended two episodes at different times.
    """
    found: list[float] = []
    for episodes in agents:
        times = sorted({episode.time for episode in episodes})
        found += [after - before for before, after in pairwise(times)]
    return median(found) if found else None


def _value(values: Sequence[float]) -> float:
    return fmean(values) if all(math.isfinite(value) for value in values) else FAILED
