"""What a proposal changes, and what held-out seeds say of it."""

import math
from collections.abc import Iterable
from typing import Final

import pandas as pd

from tars.dashboard.charts.axes import FULL, NAMES, SCORES, SOME_TICKS, Spec, zero
from tars.dashboard.differences import Difference
from tars.dashboard.palette import AMBER, BLUE, FAINT, GREEN, GREY, RED
from tars.dashboard.wording import number
from tars.schemas.evidence import Evidence, KeyWorth


def bounds_frame(differences: Iterable[Difference]) -> pd.DataFrame:
    """Changes -> one row for each key: where old and new lie between its bounds, 0 to 1, and the bounds in words."""
    return pd.DataFrame(
        [(d.name, d.place_old, d.place_new, d.low_text, d.high_text, d.old_text, d.new_text) for d in differences],
        columns=["name", "old", "new", "low", "high", "old_text", "new_text"],
    )


_PLACE: Final = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": None}
BOUNDS: Final[Spec] = {
    "height": {"step": 34},
    "encoding": {"y": NAMES},
    "layer": [
        {
            "mark": {"type": "rule", "color": FAINT, "strokeWidth": 6, "strokeCap": "round"},
            "encoding": {"x": {"datum": 0, **_PLACE}, "x2": {"datum": 1}},
        },
        {
            "mark": {"type": "rule", "color": BLUE, "strokeWidth": 2},
            "encoding": {"x": {"field": "old", **_PLACE}, "x2": {"field": "new"}},
        },
        {
            "mark": {"type": "point", "filled": True, "color": GREY, "size": 90, "opacity": 1},
            "encoding": {
                "x": {"field": "old", **_PLACE},
                "tooltip": [{"field": "name", "title": "key"}, {"field": "old_text", "title": "runs"}],
            },
        },
        {
            "mark": {"type": "point", "filled": True, "color": BLUE, "size": 110, "opacity": 1},
            "encoding": {
                "x": {"field": "new", **_PLACE},
                "tooltip": [{"field": "name", "title": "key"}, {"field": "new_text", "title": "proposed"}],
            },
        },
        {
            "mark": {"type": "text", "align": "left", "dy": 13, "fontSize": 10, "color": GREY},
            "encoding": {"x": {"datum": 0, **_PLACE}, "text": {"field": "low"}},
        },
        {
            "mark": {"type": "text", "align": "right", "dy": 13, "fontSize": 10, "color": GREY},
            "encoding": {"x": {"datum": 1, **_PLACE}, "text": {"field": "high"}},
        },
    ],
}
"""Each key's bounds as a bar; grey: what runs, blue: what is proposed."""


def paired_frame(evidence: Evidence) -> pd.DataFrame:
    """Held-out seeds -> one row each, the largest loss first: both scores and their difference."""
    ordered = sorted(evidence.scores, key=lambda pair: pair.candidate - pair.incumbent)
    return pd.DataFrame(
        [
            (place, str(pair.seed), pair.incumbent, pair.candidate, pair.candidate - pair.incumbent)
            for place, pair in enumerate(ordered, 1)
        ],
        columns=["place", "seed", "incumbent", "candidate", "difference"],
    )


_SEEDS: Final = {
    "field": "place",
    "type": "ordinal",
    "axis": {"title": "held-out seed, by difference", "labels": False, "ticks": False},
}
_PAIR_TIP: Final = [
    {"field": "seed"},
    {"field": "incumbent", "format": ".3f"},
    {"field": "candidate", "format": ".3f"},
    {"field": "difference", "format": "+.3f"},
]
PAIRED: Final[Spec] = {
    "height": 210,
    "encoding": {"x": _SEEDS, "tooltip": _PAIR_TIP},
    "layer": [
        {
            "mark": {"type": "rule", "strokeWidth": 2, "opacity": 0.7},
            "encoding": {
                "y": {**SCORES, "field": "incumbent", "title": "score after training"},
                "y2": {"field": "candidate"},
                "color": {
                    "condition": {"test": "datum.difference >= 0", "value": GREEN},
                    "value": RED,
                },
            },
        },
        {
            "mark": {"type": "point", "filled": True, "color": GREY, "size": 42, "opacity": 1},
            "encoding": {"y": {**SCORES, "field": "incumbent"}},
        },
        {
            "mark": {"type": "point", "filled": True, "color": BLUE, "size": 52, "opacity": 1},
            "encoding": {"y": {**SCORES, "field": "candidate"}},
        },
    ],
}
"""Each held-out seed, trained twice: grey with what runs, blue with what is proposed."""


def gain_frame(evidence: Evidence) -> pd.DataFrame:
    """Evidence -> one row in percentage points: the held-out gain, its interval, the search's gain, the threshold."""
    claimed = math.nan if evidence.search_gain is None else evidence.search_gain
    numbers = (evidence.gain, evidence.gain_low, evidence.gain_high, claimed, evidence.threshold)
    return pd.DataFrame([[100 * number for number in numbers]], columns=["gain", "low", "high", "search", "threshold"])


_GAIN: Final = {"type": "quantitative", "title": "gain, percentage points", **SOME_TICKS}
GAIN: Final[Spec] = {
    "height": 92,
    "layer": [
        {
            "mark": {"type": "rule", "color": AMBER, "strokeWidth": 2, "strokeDash": [4, 3]},
            "encoding": {
                "x": {"field": "threshold", **_GAIN},
                **FULL,
                "tooltip": {"field": "threshold", "format": ".1f"},
            },
        },
        zero(_GAIN),
        {
            "mark": {"type": "rule", "color": BLUE, "strokeWidth": 5, "opacity": 0.45, "strokeCap": "round"},
            "encoding": {"x": {"field": "low", **_GAIN}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "filled": True, "color": BLUE, "size": 120, "opacity": 1},
            "encoding": {
                "x": {"field": "gain", **_GAIN},
                "tooltip": [{"field": name, "format": "+.2f"} for name in ("gain", "low", "high")],
            },
        },
        {
            "mark": {
                "type": "point",
                "filled": False,
                "color": GREY,
                "size": 110,
                "strokeWidth": 2,
                "shape": "diamond",
            },
            "encoding": {
                "x": {"field": "search", **_GAIN},
                "tooltip": {"field": "search", "title": "the search's gain", "format": "+.2f"},
            },
        },
    ],
}
"""Blue: the held-out gain with its interval; hollow: what the search claimed; dashed: what BETTER needs."""


def worth_frame(worth: Iterable[KeyWorth]) -> pd.DataFrame:
    """What each key is worth -> one row each in percentage points, and whether the proposed change has it."""
    return pd.DataFrame(
        [
            (
                f"{key.key} {number(key.before)} → {number(key.after)}",
                *(100 * gain for gain in (key.gain, key.gain_low, key.gain_high)),
                "kept" if key.kept else "dropped",
                key.seeds,
            )
            for key in worth
        ],
        columns=["name", "gain", "low", "high", "kept", "seeds"],
    )


_WORTH: Final = {"type": "quantitative", "title": "worth, percentage points", **SOME_TICKS}
_KEPT: Final = {
    "field": "kept",
    "type": "nominal",
    "scale": {"domain": ["kept", "dropped"], "range": [BLUE, GREY]},
    "legend": {"orient": "top", "title": None},
}
WORTH: Final[Spec] = {
    "height": {"step": 30},
    "encoding": {"y": NAMES},
    "layer": [
        zero(_WORTH),
        {
            "mark": {"type": "rule", "strokeWidth": 4, "opacity": 0.45, "strokeCap": "round"},
            "encoding": {"x": {"field": "low", **_WORTH}, "x2": {"field": "high"}, "color": _KEPT},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
            "encoding": {
                "x": {"field": "gain", **_WORTH},
                "color": _KEPT,
                "tooltip": [
                    {"field": "name", "title": "key"},
                    *({"field": name, "format": "+.2f"} for name in ("gain", "low", "high")),
                    {"field": "seeds"},
                ],
            },
        },
    ],
}
"""What is lost on held-out seeds when one key alone is put back, with its interval."""
