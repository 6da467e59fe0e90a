"""A study's trials."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import pandas as pd

from tars.dashboard.charts.axes import NAMES, SCORES, Spec
from tars.dashboard.differences import place
from tars.dashboard.palette import AMBER, BLUE, GREEN, GREY, RED
from tars.dashboard.wording import number
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName
from tars.schemas.study import FrontPoint
from tars.schemas.views import TrialRow


def _searched(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """Trials of the search that have their score."""
    return [row for row in trials if row.phase == "search" and row.stage == "completed"]


def trials_frame(trials: Iterable[TrialRow]) -> pd.DataFrame:
    """Trials of the search that have a score -> number, score, best so far, and what they tried."""
    frame = pd.DataFrame(
        [(row.number, row.score, "incumbent" if row.number == 0 else "candidate") for row in _searched(trials)],
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
            "encoding": {"y": {**SCORES, "field": "best", "title": "search score"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
            "encoding": {
                "y": {**SCORES, "field": "score"},
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
    best = sorted(_searched(trials), key=lambda row: -(row.score or 0.0))[:PARALLEL_TRIALS]
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
        "y": NAMES,
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
        for row in _searched(trials)
        if row.number not in on_front
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
        "y": {**SCORES, "field": "score", "title": "search score"},
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
