"""A small curve as HTML and CSS alone. Pure.

A wall shows a dozen of them, drawn again every second in every open page: a Vega view each would keep a browser and the
page's process busy, and this is a string that all sessions share.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

from tars.dashboard.charts.agents import WINDOW
from tars.dashboard.palette import AMBER, BLUE
from tars.schemas.views import AgentPoint

POINTS: Final = 60
"""Places of the curve: each is four corners of its outline, sent to every open page at every refresh."""
HEIGHT: Final = 64
"""Pixels."""
WIDTH: Final = 240
"""Pixels that a line's thickness is reckoned with; the curve is as wide as its card."""
THICK: Final = 1.7
"""Pixels."""


def sparkline(history: Sequence[AgentPoint]) -> str:
    """Episodes, newest first -> the mean score over WINDOW against time; a dashed line where a new version began."""
    points = tuple(reversed(history))
    means = running_means([point.score for point in points])
    if len(points) > 2 * WINDOW:  # means of only a few are noise
        points, means = points[WINDOW - 1 :], means[WINDOW - 1 :]
    low, high = min(means), max(means)
    lefts = _lefts([point.at for point in points])
    chosen = sorted({round(k * (len(points) - 1) / (POINTS - 1)) for k in range(POINTS)})
    curve = [(lefts[k], 4 + 92 * (high - means[k]) / (high - low or 1.0)) for k in chosen]
    rules = "".join(
        f'<div title="v{points[k].version}" style="position:absolute;top:0;bottom:0;left:{lefts[k]:.1f}%;'
        f'border-left:1.5px dashed {AMBER}"></div>'
        for k in range(1, len(points))
        if points[k].version != points[k - 1].version
    )
    told = f"mean score of the last {len(points)} episodes: {low:.2f} to {high:.2f}, now {means[-1]:.2f}"
    return (
        f'<div role="img" aria-label="{told}" title="{told}" style="display:flex;gap:6px;height:{HEIGHT}px">'
        f'<div style="position:relative;flex:1;min-width:0">{rules}<div style="position:absolute;inset:0;'
        f'background:{BLUE};clip-path:polygon({_outline(curve)})"></div></div>'
        '<div style="display:flex;flex-direction:column;justify-content:space-between;font-size:11px;line-height:1;'
        f'opacity:.65;font-variant-numeric:tabular-nums"><span>{high:.2f}</span><span>{low:.2f}</span></div></div>'
    )


def _outline(curve: Sequence[tuple[float, float]]) -> str:
    """Both edges of a line along these places (percent from the left and the top), as thick where it is steep."""
    above, below = [], []
    for (x, y), (to_x, to_y) in pairwise(curve if len(curve) > 1 else (*curve, *curve)):
        across, down = (to_x - x) * WIDTH, (to_y - y) * HEIGHT
        length = math.hypot(across, down)
        right, up = (
            (50 * THICK * down / length / WIDTH, 50 * THICK * across / length / HEIGHT) if length else (0.0, 1.0)
        )
        for at_x, at_y in ((x, y), (to_x, to_y)):  # both ends, so that a sharp turn is no thinner
            above.append(f"{_within(at_x + right):.1f}% {_within(at_y - up):.1f}%")
            below.append(f"{_within(at_x - right):.1f}% {_within(at_y + up):.1f}%")
    return ",".join((*above, *reversed(below)))


def _within(percent: float) -> float:
    return min(max(percent, 0.0), 100.0)


def running_means(scores: Sequence[float]) -> list[float]:
    """Mean of each score and those before it, WINDOW at most."""
    found, total = [], 0.0
    for place, score in enumerate(scores):
        total += score - (scores[place - WINDOW] if place >= WINDOW else 0.0)
        found.append(total / min(place + 1, WINDOW))
    return found


def _lefts(times: Sequence[datetime]) -> list[float]:
    """Times, the oldest first -> percent from the left."""
    begin = times[0]
    length = (times[-1] - begin).total_seconds() or 1.0
    return [100 * (at - begin).total_seconds() / length for at in times]
