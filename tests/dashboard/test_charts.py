"""Pictures: the frames hold what the specifications draw, and Vega-Lite accepts these."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import altair as alt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from examples import AGENT, CHANGE, EVIDENCE, NOON, RUNNING
from tars.dashboard import charts
from tars.dashboard.differences import differences
from tars.schemas.evidence import PairedScore
from tars.schemas.views import AgentPoint, TrialRow, UpdateRow

POINTS = [
    AgentPoint(at=NOON + timedelta(seconds=n), episode=n, score=n / 10, version=version)
    for n, version in reversed(list(enumerate((0, 0, 3, 3, 3, 7))))
]
UPDATE = UpdateRow(
    update_id="u-1", stage="pending", proposed_at=NOON, proposed_by="ada", changed_at=NOON, agents=(AGENT,),
    values=CHANGE,
)  # fmt: skip
TRIALS = [
    TrialRow(
        study_id="s", number=n, phase="search", stage="completed", hyperparameters=RUNNING, seed=n, train_episodes=1,
        score=score,
    )
    for n, score in enumerate((0.2, 0.1, 0.6))
]  # fmt: skip
PICTURES = {
    "spark": (charts.SPARK, charts.score_frame(POINTS)),
    "score": (charts.SCORE, charts.score_frame(POINTS)),
    "bounds": (charts.BOUNDS, charts.bounds_frame(differences(CHANGE, RUNNING, "dqn", "medium"))),
    "paired": (charts.PAIRED, charts.paired_frame(EVIDENCE)),
    "gain": (charts.GAIN, charts.gain_frame(EVIDENCE)),
    "timeline": (charts.TIMELINE, charts.timeline_frame([UPDATE])),
    "trials": (charts.TRIALS, charts.trials_frame(TRIALS)),
}


def fields(spec: object) -> Iterator[str]:
    """Every column that a specification reads."""
    if isinstance(spec, dict):
        if isinstance(spec.get("field"), str):
            yield spec["field"]
        for value in spec.values():
            yield from fields(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from fields(value)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_draws_columns_that_its_frame_has(name: str) -> None:
    spec, frame = PICTURES[name]
    assert len(frame) > 0
    assert set(fields(spec)) <= set(frame.columns)


@pytest.mark.parametrize("name", PICTURES)
def test_vega_lite_accepts_a_picture(name: str) -> None:
    spec, _ = PICTURES[name]
    alt.LayerChart.from_dict({**spec, "data": {"values": []}})  # raises where the schema is broken


def test_a_reload_is_where_the_version_changes() -> None:
    frame = charts.score_frame(POINTS)
    assert frame[frame["reload"]]["label"].tolist() == ["v3", "v7"]
    assert frame["episode"].is_monotonic_increasing


def test_without_episodes_there_is_an_empty_curve() -> None:
    assert charts.score_frame([]).empty
    assert charts.trials_frame([]).empty


@settings(max_examples=30)
@given(some.lists(some.tuples(some.floats(-2, 2), some.floats(-2, 2)), min_size=1, max_size=64))
def test_every_held_out_seed_is_drawn_once_the_largest_loss_first(scores: list[tuple[float, float]]) -> None:
    pairs = tuple(PairedScore(seed=n, incumbent=old, candidate=new) for n, (old, new) in enumerate(scores))
    frame = charts.paired_frame(EVIDENCE.model_copy(update={"scores": pairs}))
    assert sorted(frame["seed"].astype(int)) == list(range(len(scores)))
    assert frame["difference"].is_monotonic_increasing


def test_the_best_score_never_falls() -> None:
    assert charts.trials_frame(TRIALS)["best"].tolist() == [0.2, 0.2, 0.6]


def test_times_keep_their_zone() -> None:
    at = charts.score_frame(POINTS)["at"].iloc[0]
    assert pd.Timestamp(at) == pd.Timestamp(datetime(2026, 11, 24, 12, tzinfo=UTC))
