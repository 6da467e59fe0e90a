"""Rows -> data frames, beside the constant Vega-Lite specifications that draw them. Pure.

A specification is never built per refresh: only the frame changes, which is what makes a refresh cheap.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from tars.dashboard.differences import Difference, place
from tars.dashboard.wording import number
from tars.schemas.evidence import Evidence, KeyWorth
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName
from tars.schemas.study import FrontPoint
from tars.schemas.views import AgentPoint, ConflictRow, EquilibriumRow, TrialRow, UpdateRow

Spec = dict[str, Any]
WINDOW: Final = 20
"""Episodes that the smooth curve averages."""

BLUE: Final = "#2f6fde"
GREY: Final = "#98a2b3"
GREEN: Final = "#1a8f4c"
RED: Final = "#d1383d"
AMBER: Final = "#c27803"
_FAINT: Final = "#98a2b355"
_CLOCK: Final = {"year": "%Y", "month": "%b", "date": "%b %d"} | dict.fromkeys(("hours", "minutes"), "%H:%M")
_MOMENTS: Final = {"format": {**_CLOCK, "seconds": "%H:%M:%S", "milliseconds": "%H:%M:%S"}, "title": "UTC"}
_UTC: Final = {"type": "utc"}
"""Tables say UTC, so pictures do."""
_TIME: Final = {
    "field": "at",
    "type": "temporal",
    "scale": _UTC,
    "axis": {**_MOMENTS, "grid": False, "tickCount": 5},
}
_SCORE: Final = {"type": "quantitative", "scale": {"zero": False}}


def score_frame(history: Sequence[AgentPoint]) -> pd.DataFrame:
    """Episodes, newest first -> at, score, mean over WINDOW, version, and `reload` where the version is a new one."""
    frame = pd.DataFrame(
        [(point.at, point.episode, point.score, point.version) for point in reversed(history)],
        columns=["at", "episode", "score", "version"],
    )
    frame["mean"] = frame["score"].rolling(WINDOW, min_periods=1).mean()
    frame["reload"] = frame["version"].ne(frame["version"].shift()) & (frame.index > 0)
    frame["label"] = [f"v{version}" for version in frame["version"]]
    return frame


SCORE: Final[Spec] = {
    "height": 300,
    "encoding": {"x": _TIME},
    "layer": [
        {
            "mark": {"type": "point", "color": GREY, "opacity": 0.35, "size": 12, "filled": True},
            "encoding": {
                "y": {**_SCORE, "field": "score", "title": "normalised score"},
                "tooltip": [
                    {"field": "episode"},
                    {"field": "score", "format": ".3f"},
                    {"field": "label", "title": "version"},
                ],
            },
        },
        {
            "mark": {"type": "line", "color": BLUE, "strokeWidth": 2, "interpolate": "monotone"},
            "encoding": {"y": {**_SCORE, "field": "mean"}},
        },
        {
            "transform": [{"filter": "datum.reload"}],
            "mark": {"type": "rule", "color": AMBER, "strokeDash": [4, 3]},
        },
        {
            "transform": [{"filter": "datum.reload"}],
            "mark": {"type": "text", "color": AMBER, "align": "left", "dx": 4, "dy": 8, "fontWeight": "bold"},
            "encoding": {"text": {"field": "label"}, "y": {"value": 0}},
        },
    ],
}
"""Each episode, the mean over WINDOW, and a labelled line at each reload."""


def bounds_frame(differences: Iterable[Difference]) -> pd.DataFrame:
    """Changes -> one row for each key: where old and new lie between its bounds, 0 to 1, and the bounds in words."""
    return pd.DataFrame(
        [(d.name, d.place_old, d.place_new, d.low_text, d.high_text, d.old_text, d.new_text) for d in differences],
        columns=["name", "old", "new", "low", "high", "old_text", "new_text"],
    )


_PLACE: Final = {"type": "quantitative", "scale": {"domain": [0, 1]}, "axis": None}
_NAME: Final = {
    "field": "name",
    "type": "nominal",
    "sort": None,
    "axis": {"title": None, "domain": False, "ticks": False, "labelLimit": 220, "labelFontSize": 12},
}
BOUNDS: Final[Spec] = {
    "height": {"step": 34},
    "encoding": {"y": _NAME},
    "layer": [
        {
            "mark": {"type": "rule", "color": _FAINT, "strokeWidth": 6, "strokeCap": "round"},
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
                "y": {**_SCORE, "field": "incumbent", "title": "score after training"},
                "y2": {"field": "candidate"},
                "color": {
                    "condition": {"test": "datum.difference >= 0", "value": GREEN},
                    "value": RED,
                },
            },
        },
        {
            "mark": {"type": "point", "filled": True, "color": GREY, "size": 42, "opacity": 1},
            "encoding": {"y": {**_SCORE, "field": "incumbent"}},
        },
        {
            "mark": {"type": "point", "filled": True, "color": BLUE, "size": 52, "opacity": 1},
            "encoding": {"y": {**_SCORE, "field": "candidate"}},
        },
    ],
}
"""Each held-out seed, trained twice: grey with what runs, blue with what is proposed."""


def gain_frame(evidence: Evidence) -> pd.DataFrame:
    """Evidence -> one row in percentage points: the held-out gain, its interval, the search's gain, the threshold."""
    claimed = math.nan if evidence.search_gain is None else evidence.search_gain
    numbers = (evidence.gain, evidence.gain_low, evidence.gain_high, claimed, evidence.threshold)
    return pd.DataFrame([[100 * number for number in numbers]], columns=["gain", "low", "high", "search", "threshold"])


_SOME_TICKS: Final[Spec] = {"scale": {"zero": True, "nice": True}, "axis": {"tickCount": 6}}
_GAIN: Final = {"type": "quantitative", "title": "gain, percentage points", **_SOME_TICKS}
_FULL: Final = {"y": {"value": 0}, "y2": {"value": {"expr": "height"}}}
GAIN: Final[Spec] = {
    "height": 92,
    "layer": [
        {
            "mark": {"type": "rule", "color": AMBER, "strokeWidth": 2, "strokeDash": [4, 3]},
            "encoding": {
                "x": {"field": "threshold", **_GAIN},
                **_FULL,
                "tooltip": {"field": "threshold", "format": ".1f"},
            },
        },
        {"mark": {"type": "rule", "color": GREY}, "encoding": {"x": {"datum": 0, **_GAIN}, **_FULL}},
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
            "scale": _UTC,
            "axis": {**_MOMENTS, "grid": True, "tickCount": 8},
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
        {"mark": {"type": "rule", "color": GREY}, "encoding": {"x": {"datum": 0, **_EFFECT}, **_FULL}},
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


def trials_frame(trials: Iterable[TrialRow]) -> pd.DataFrame:
    """Trials of the search that have a score -> number, score, best so far, and what they tried."""
    done = [row for row in trials if row.phase == "search" and row.stage == "completed" and row.score is not None]
    frame = pd.DataFrame(
        [(row.number, row.score, "incumbent" if row.number == 0 else "candidate") for row in done],
        columns=["number", "score", "who"],
    )
    frame["best"] = frame["score"].cummax()
    return frame


TRIALS: Final[Spec] = {
    "height": 240,
    "encoding": {
        "x": {"field": "number", "type": "quantitative", "title": "trial", "axis": {"tickMinStep": 1, "grid": False}}
    },
    "layer": [
        {
            "mark": {"type": "line", "color": BLUE, "interpolate": "step-after", "opacity": 0.6},
            "encoding": {"y": {**_SCORE, "field": "best", "title": "search score"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
            "encoding": {
                "y": {**_SCORE, "field": "score"},
                "color": {
                    "field": "who",
                    "type": "nominal",
                    "scale": {"domain": ["incumbent", "candidate"], "range": [GREY, BLUE]},
                    "legend": {"orient": "top", "title": None},
                },
                "tooltip": [{"field": "number", "title": "trial"}, {"field": "score", "format": ".3f"}],
            },
        },
    ],
}
"""Each completed trial of a search, and the best score so far."""


PARALLEL_TRIALS: Final = 200
"""Trials drawn as lines, those with the highest scores: more than that is a grey wall."""


def parallel_frame(trials: Iterable[TrialRow], searched: Sequence[str], algorithm: AlgorithmName) -> pd.DataFrame:
    """Completed trials of the search -> one row for each and each key that was tried at more than one value.

    place: where the value lies between the lowest and the highest tried, on the scale on which the key is felt.
    """
    done = [row for row in trials if row.phase == "search" and row.stage == "completed" and row.score is not None]
    best = sorted(done, key=lambda row: -(row.score or 0.0))[:PARALLEL_TRIALS]
    found = []
    for name in searched:
        tried = [value for row in best if (value := row.hyperparameters.get(name)) is not None]
        bounds = (min(tried, default=0), max(tried, default=0))
        found += [
            (row.number, name, at, number(row.hyperparameters[name]), row.score)
            for row in best
            if name in row.hyperparameters
            and (at := place(ALGORITHMS[algorithm][name], bounds, row.hyperparameters[name])) is not None
        ]
    return pd.DataFrame(found, columns=["trial", "name", "place", "value", "score"])


PARALLEL: Final[Spec] = {
    "height": 240,
    "encoding": {
        "x": {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "labelAngle": -20}},
        "y": {"field": "place", "type": "quantitative", "axis": {"title": "lowest … highest tried", "labels": False}},
        "detail": {"field": "trial", "type": "nominal"},
        "color": {
            "field": "score",
            "type": "quantitative",
            "scale": {"range": ["#d8dde6", BLUE]},
            "legend": {"title": "score", "format": ".2f"},
        },
        "tooltip": [{"field": "trial"}, {"field": "name"}, {"field": "value"}, {"field": "score", "format": ".3f"}],
    },
    "layer": [
        {"mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.7}},
        {"mark": {"type": "point", "filled": True, "size": 22, "opacity": 0.8}},
    ],
}
"""Each trial as a line through its values."""


def importances_frame(importances: Mapping[str, float]) -> pd.DataFrame:
    """Share of each key -> one row each, the largest first."""
    ordered = sorted(importances.items(), key=lambda pair: -pair[1])
    return pd.DataFrame([(key, share) for key, share in ordered], columns=["name", "share"])


IMPORTANCES: Final[Spec] = {
    "height": {"step": 24},
    "encoding": {
        "y": _NAME,
        "x": {"field": "share", "type": "quantitative", "axis": {"title": None, "format": "%", "tickCount": 4}},
    },
    "layer": [
        {
            "mark": {"type": "bar", "color": BLUE, "opacity": 0.8, "cornerRadiusEnd": 2},
            "encoding": {"tooltip": [{"field": "name", "title": "key"}, {"field": "share", "format": ".1%"}]},
        }
    ],
}
"""How much of the score's variance each key explains among the good trials."""


def front_frame(front: Sequence[FrontPoint], trials: Iterable[TrialRow]) -> pd.DataFrame:
    """A Pareto front, and the completed trials behind it -> one row each."""
    on_front = {point.number for point in front}
    others: list[tuple[int, float | None, float | None, float | None, bool]] = [
        (row.number, row.score, row.conflict, row.latency, False)
        for row in trials
        if row.phase == "search" and row.stage == "completed" and row.number not in on_front
    ]
    points = [(point.number, point.score, point.conflict, point.latency, True) for point in front]
    return pd.DataFrame([*others, *points], columns=["number", "score", "conflict", "latency", "front"])


_FRONT_TIP: Final = [
    {"field": "number", "title": "trial"},
    *({"field": name, "format": ".3f"} for name in ("score", "conflict", "latency")),
]
FRONT: Final[Spec] = {
    "height": 240,
    "encoding": {
        "x": {"field": "conflict", "type": "quantitative", "title": "conflicts a step", "scale": {"zero": False}},
        "y": {**_SCORE, "field": "score", "title": "search score"},
        "tooltip": _FRONT_TIP,
    },
    "layer": [
        {
            "transform": [{"filter": "!datum.front"}],
            "mark": {"type": "point", "filled": True, "color": GREY, "size": 30, "opacity": 0.4},
        },
        {
            "transform": [{"filter": "datum.front"}],
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1, "stroke": "white", "strokeWidth": 0.5},
            "encoding": {
                "color": {
                    "field": "latency",
                    "type": "quantitative",
                    "scale": {"range": [GREEN, AMBER, RED]},
                    "legend": {"title": "latency a step", "format": ".2f"},
                }
            },
        },
    ],
}
"""Score against conflict of a search: in colour, by latency, the trials that no other beats in all three."""


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


_WORTH: Final = {"type": "quantitative", "title": "worth, percentage points", **_SOME_TICKS}
_KEPT: Final = {
    "field": "kept",
    "type": "nominal",
    "scale": {"domain": ["kept", "dropped"], "range": [BLUE, GREY]},
    "legend": {"orient": "top", "title": None},
}
WORTH: Final[Spec] = {
    "height": {"step": 30},
    "encoding": {"y": _NAME},
    "layer": [
        {"mark": {"type": "rule", "color": GREY}, "encoding": {"x": {"datum": 0, **_WORTH}, **_FULL}},
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


def conflicts_frame(rows: Sequence[ConflictRow]) -> pd.DataFrame:
    """A world's measurements, newest first -> one row for each and each kind of conflict, oldest first."""
    return pd.DataFrame(
        [(row.at, row.episode, kind, rate) for row in reversed(rows) for kind, rate in sorted(row.conflicts.items())],
        columns=["at", "episode", "name", "value"],
    )


def nash_frame(rows: Sequence[EquilibriumRow]) -> pd.DataFrame:
    """A world's measurements, newest first -> NashConv of each, oldest first."""
    return pd.DataFrame(
        [(row.at, row.episode, row.nash_conv) for row in reversed(rows)], columns=["at", "episode", "value"]
    )


def gains_frame(rows: Sequence[EquilibriumRow]) -> pd.DataFrame:
    """A world's measurements, newest first -> one row for each and each role, oldest first."""
    return pd.DataFrame(
        [(row.at, row.episode, role, gain) for row in reversed(rows) for role, gain in sorted(row.gains.items())],
        columns=["at", "episode", "name", "value"],
    )


_OVER_TIME: Final = {"type": "line", "strokeWidth": 2, "interpolate": "monotone", "tooltip": True}
_NAMED: Final = {
    "field": "name",
    "type": "nominal",
    "legend": {"orient": "top", "title": None},
    "scale": {"range": [BLUE, AMBER, GREEN, RED]},
}


def _over_time(height: int, title: str, *, named: bool) -> Spec:
    """Lines over time from 0 on: one, or one for each name."""
    value = {"field": "value", "type": "quantitative", "title": title, "scale": {"zero": True}}
    mark = _OVER_TIME if named else {**_OVER_TIME, "color": BLUE}
    return {
        "height": height,
        "encoding": {"x": _TIME, "y": value} | ({"color": _NAMED} if named else {}),
        "layer": [{"mark": mark}],
    }


CONFLICTS: Final = _over_time(240, "conflicts a step", named=True)
"""How often roles get in each other's way, a line for each kind."""
NASH: Final = _over_time(240, "NashConv", named=False)
"""How far a world is from an equilibrium."""
GAINS: Final = _over_time(220, "gain, reward a step", named=True)
"""What each role could gain by itself."""
