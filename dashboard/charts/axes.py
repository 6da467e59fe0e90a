"""Axes and marks that several pictures have."""

from typing import Any, Final

from tars.dashboard.palette import GREY

Spec = dict[str, Any]

_CLOCK: Final = {"year": "%Y", "month": "%b", "date": "%b %d"} | dict.fromkeys(("hours", "minutes"), "%H:%M")
MOMENTS: Final = {"format": {**_CLOCK, "seconds": "%H:%M:%S", "milliseconds": "%H:%M:%S"}, "title": "UTC"}
UTC: Final = {"type": "utc"}
"""Tables say UTC, so pictures do."""
TIME: Final = {
    "field": "at",
    "type": "temporal",
    "scale": UTC,
    "axis": {**MOMENTS, "grid": False, "tickCount": 5},
}
SCORES: Final = {"type": "quantitative", "scale": {"zero": False}}
NAMES: Final = {
    "field": "name",
    "type": "nominal",
    "sort": None,
    "axis": {"title": None, "domain": False, "ticks": False, "labelLimit": 220, "labelFontSize": 12},
}
SOME_TICKS: Final[Spec] = {"scale": {"zero": True, "nice": True}, "axis": {"tickCount": 6}}
FULL: Final = {"y": {"value": 0}, "y2": {"value": {"expr": "height"}}}


def zero(axis: Spec) -> Spec:
    """A line where nothing is gained and nothing lost, from top to bottom."""
    return {"mark": {"type": "rule", "color": GREY}, "encoding": {"x": {"datum": 0, **axis}, **FULL}}
