"""How well the roles of a world play together, over time."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from tars.dashboard.charts.axes import TIME, Spec
from tars.dashboard.palette import AMBER, BLUE, GREEN, RED
from tars.schemas.views import ConflictRow, EquilibriumRow


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
        "encoding": {"x": TIME, "y": value} | ({"color": _NAMED} if named else {}),
        "layer": [{"mark": mark}],
    }


CONFLICTS: Final = _over_time(240, "conflicts a step", named=True)
"""How often roles get in each other's way, a line for each kind."""
NASH: Final = _over_time(240, "NashConv", named=False)
"""How far a world is from an equilibrium."""
GAINS: Final = _over_time(220, "gain, reward a step", named=True)
"""What each role could gain by itself."""
