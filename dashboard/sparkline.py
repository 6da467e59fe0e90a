"""A small curve as HTML and CSS alone. Pure.

A wall shows a dozen of them, drawn again every second in every open page: a Vega view each would keep a browser and the
page's process busy, and this is a string that all sessions share.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tars.dashboard.charts import AMBER, BLUE, WINDOW
from tars.schemas.views import AgentPoint

POINTS: Final = 80
"""Places of the curve: a card is not much wider in pixels."""
HEIGHT: Final = 64
"""Pixels."""
THICK: Final = 2.6
"""Of the line, in percent of HEIGHT."""


def sparkline(history: Sequence[AgentPoint]) -> str:
    """Episodes, newest first -> the mean score over WINDOW against time; a dashed line where a new version began."""
    points = tuple(reversed(history))
    means = running_means([point.score for point in points])
    low, high = min(means), max(means)
    spread = high - low or 1.0
    lefts = _lefts([point.at for point in points])
    chosen = sorted({round(k * (len(points) - 1) / (POINTS - 1)) for k in range(POINTS)})
    curve = [(lefts[k], 4 + 92 * (high - means[k]) / spread) for k in chosen]
    upper = [f"{x:.1f}% {y - THICK / 2:.1f}%" for x, y in curve]
    lower = [f"{x:.1f}% {y + THICK / 2:.1f}%" for x, y in reversed(curve)]
    reloads = [k for k in range(1, len(points)) if points[k].version != points[k - 1].version]
    rules = "".join(
        f'<div title="v{points[k].version}" style="position:absolute;top:0;bottom:0;left:{lefts[k]:.1f}%;'
        f'border-left:1.5px dashed {AMBER}"></div>'
        for k in reloads
    )
    told = f"mean score of the last {len(points)} episodes: {low:.2f} to {high:.2f}, now {means[-1]:.2f}"
    return (
        f'<div role="img" aria-label="{told}" title="{told}" style="display:flex;gap:6px;height:{HEIGHT}px">'
        f'<div style="position:relative;flex:1;min-width:0">{rules}<div style="position:absolute;inset:0;'
        f'background:{BLUE};clip-path:polygon({",".join((*upper, *lower))})"></div></div>'
        '<div style="display:flex;flex-direction:column;justify-content:space-between;font-size:11px;line-height:1;'
        f'opacity:.65;font-variant-numeric:tabular-nums"><span>{high:.2f}</span><span>{low:.2f}</span></div></div>'
    )


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
