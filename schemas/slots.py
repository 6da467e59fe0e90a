"""Episodes on one clock: what each agent of a role scored in each slot of time, so that agents can be compared.

A slot lasts as long as an ordinary agent of the role takes to report an episode, the same for all its agents, whatever
their speed (WATCH.md section 2).
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from statistics import fmean, median
from typing import Final, NamedTuple

SILENT_INTERVALS: Final = 5
"""An agent that reports nothing for so many of its own intervals has fallen silent (WATCH.md section 2)."""
TIME_SHARE: Final = 2 / 3
"""Of an agent's time that passes in intervals no longer than its own."""
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
    own in seconds, beyond five of which an empty slot is SILENT; None: empty is always None.
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


def own_interval(episodes: Iterable[Episode]) -> float | None:
    """Seconds from one report of an agent to the next: TIME_SHARE of its time passes in intervals no longer.

    Weighed by time, since a learner's reports leave in bursts, with pauses while it learns: most of its intervals are
    next to nothing, and so is their median. At least TIME_SHARE of its slots of this width have an episode.
    None: it has not ended two episodes at different times.
    """
    times = sorted({episode.time for episode in episodes})
    found = sorted(after - before for before, after in pairwise(times))
    most = TIME_SHARE * sum(found)
    return next((one for one, passed in zip(found, accumulate(found), strict=True) if passed >= most), None)


def usual_interval(*agents: Iterable[Episode]) -> float | None:
    """The median of the agents' own intervals, which is their role's slot; None: none of them has one."""
    found = [own for episodes in agents if (own := own_interval(episodes)) is not None]
    return median(found) if found else None


def patient_interval(episodes: Iterable[Episode], width: float, pause: int) -> float | None:
    """The interval by which an agent is found silent: its own, or a slot where that is longer; None: it has none yet.

    pause: empty slots in a row that it had before, at most; it may pause for 2.5 times as many without being silent.
    """
    own = own_interval(episodes)
    return None if own is None else max(width, own, pause * width / 2)


def longest_pause(row: Sequence[Slot]) -> int:
    """Empty slots in a row, at most, since the first with a value."""
    filled = [at for at, value in enumerate(row) if value is not None]
    return max((after - before - 1 for before, after in pairwise([*filled, len(row)])), default=0)


def _value(values: Sequence[float]) -> float:
    return fmean(values) if all(math.isfinite(value) for value in values) else FAILED
