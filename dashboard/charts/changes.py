"""Updates over time, and what their watches found."""

from collections.abc import Iterable
from typing import Final

import pandas as pd

from tars.dashboard.charts.axes import MOMENTS, UTC, Spec, zero
from tars.dashboard.palette import AMBER, BLUE, GREEN, GREY, RED
from tars.schemas.views import UpdateRow


def timeline_frame(updates: Iterable[UpdateRow]) -> pd.DataFrame:
    """Updates -> one bar each, from its proposal to its newest event."""
    return pd.DataFrame(
        [(row.update_id, row.proposed_at, row.changed_at, row.stage) for row in updates],
        columns=["update", "from", "to", "stage"],
    )


TIMELINE: Final[Spec] = {
    "height": {"step": 22},
    "encoding": {
        "y": {"field": "update", "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 160}},
        "x": {
            "field": "from",
            "type": "temporal",
            "scale": UTC,
            "axis": {**MOMENTS, "grid": True, "tickCount": 8},
        },
        "color": {
            "field": "stage",
            "type": "nominal",
            "legend": {"orient": "top", "title": None, "columns": 3},
            "scale": {
                "domain": ["pending", "in rollout", "confirmed", "taken back", "turned down"],
                "range": [AMBER, BLUE, GREEN, RED, GREY],
            },
        },
    },
    "transform": [
        {
            "calculate": "indexof(['approved','released','reloading','reloaded'], datum.stage) >= 0 ? 'in rollout' : "
            "indexof(['rolling back','rolled back','failed'], datum.stage) >= 0 ? 'taken back' : "
            "indexof(['refused','rejected','superseded'], datum.stage) >= 0 ? 'turned down' : datum.stage",
            "as": "stage",
        }
    ],
    "layer": [
        {"mark": {"type": "rule", "strokeWidth": 4, "strokeCap": "round"}, "encoding": {"x2": {"field": "to"}}},
        {
            "mark": {"type": "point", "filled": True, "size": 45, "opacity": 1},
            "encoding": {"x": {"field": "to", "type": "temporal"}},
        },
    ],
}
"""Each update from its proposal to its newest event, in the colour of where it stands."""


def effects_frame(updates: Iterable[UpdateRow]) -> pd.DataFrame:
    """Updates whose watch came to a verdict on scores -> one row each in percentage points, with its 90 % interval."""
    judged = [(row, row.judgements[-1]) for row in updates if row.judgements and row.normalised]
    return pd.DataFrame(
        [
            (row.update_id, 100 * found.effect, 100 * found.effect_low, 100 * found.effect_high, found.stage)
            for row, found in judged
            if found.effect is not None and found.effect_low is not None and found.effect_high is not None
        ],
        columns=["update", "effect", "low", "high", "stage"],
    )


_EFFECT: Final = {"type": "quantitative", "title": "effect, percentage points", "scale": {"zero": True, "nice": True}}
EFFECTS: Final[Spec] = {
    "height": {"step": 22},
    "encoding": {
        "y": {"field": "update", "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 160}},
    },
    "layer": [
        zero(_EFFECT),
        {
            "mark": {"type": "rule", "color": BLUE, "strokeWidth": 4, "opacity": 0.45, "strokeCap": "round"},
            "encoding": {"x": {"field": "low", **_EFFECT}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "color": BLUE, "size": 80, "opacity": 1},
            "encoding": {
                "x": {"field": "effect", **_EFFECT},
                "tooltip": [
                    {"field": "update"},
                    {"field": "stage", "title": "watched"},
                    *({"field": name, "format": "+.2f"} for name in ("effect", "low", "high")),
                ],
            },
        },
    ],
}
"""What the watch of each update found on the agents reloaded, with its 90 % interval."""
