"""An agent's episodes."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from tars.dashboard.charts.axes import SCORES, TIME, Spec
from tars.dashboard.palette import AMBER, BLUE, GREY
from tars.schemas.views import AgentPoint

WINDOW: Final = 20
"""Episodes that the smooth curve averages."""


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
    "encoding": {"x": TIME},
    "layer": [
        {
            "mark": {"type": "point", "color": GREY, "opacity": 0.35, "size": 12, "filled": True},
            "encoding": {
                "y": {**SCORES, "field": "score", "title": "normalised score"},
                "tooltip": [
                    {"field": "episode"},
                    {"field": "score", "format": ".3f"},
                    {"field": "label", "title": "version"},
                ],
            },
        },
        {
            "mark": {"type": "line", "color": BLUE, "strokeWidth": 2, "interpolate": "monotone"},
            "encoding": {"y": {**SCORES, "field": "mean"}},
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
