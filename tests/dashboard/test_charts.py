"""Pictures: the frames hold what the specifications draw, and Vega-Lite accepts these."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import altair as alt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from examples import AGENT, CHANGE, EVIDENCE, NOON, RUNNING
from tars.dashboard.charts import agents, changes, coordination, evidence, studies
from tars.dashboard.differences import differences
from tars.schemas.evidence import KeyWorth, PairedScore
from tars.schemas.study import FrontPoint
from tars.schemas.views import AgentPoint, ConflictRow, EquilibriumRow, Judged, TrialRow, UpdateRow

POINTS = [
    AgentPoint(at=NOON + timedelta(seconds=n), episode=n, score=n / 10, version=version)
    for n, version in reversed(list(enumerate((0, 0, 3, 3, 3, 7))))
]
UPDATE = UpdateRow(
    update_id="u-1", stage="pending", proposed_at=NOON, proposed_by="ada", changed_at=NOON, agents=(AGENT,),
    values=CHANGE,
)  # fmt: skip
JUDGED = UPDATE.model_copy(
    update={
        "judgements": (
            Judged(
                stage="canary", attempt=1, verdict="CONFIRM", then="go on", reason="kept", effect=0.02,
                effect_low=-0.01, effect_high=0.05, slot=60, reloaded=(AGENT,), compared=(), smallest_harm=0.1,
                stopped_early=False,
            ),
        )
    }
)  # fmt: skip
TRIALS = [
    TrialRow(
        study_id="s", number=n, phase="search", stage="completed", seed=n, train_episodes=1,
        hyperparameters={**RUNNING, "gamma": 0.99 - n / 100}, score=score, conflict=score / 4, latency=score / 8,
    )
    for n, score in enumerate((0.2, 0.1, 0.6))
]  # fmt: skip
FRONT = [FrontPoint(number=n, hyperparameters=CHANGE, score=n / 9, conflict=n / 99, latency=0.1) for n in (2, 7)]
WORTH = [
    KeyWorth(key=key, before=0.99, after=0.95, gain=gain, gain_low=gain - 0.1, gain_high=gain + 0.1, seeds=8, kept=kept)
    for key, gain, kept in (("gamma", 0.25, True), ("tau", -0.01, False))
]
CONFLICTS = [
    ConflictRow(at=NOON + timedelta(seconds=n), game_id="w", episode=n, conflicts={"veto": n / 9}, latency=0.1)
    for n in (1, 0)
]
EQUILIBRIA = [
    EquilibriumRow(at=NOON + timedelta(seconds=n), game_id="w", episode=n, nash_conv=0.3, gains={"policy": n, "a": 0})
    for n in (1, 0)
]
PICTURES = {
    "score": (agents.SCORE, agents.score_frame(POINTS)),
    "bounds": (evidence.BOUNDS, evidence.bounds_frame(differences(CHANGE, RUNNING, "dqn", "medium"))),
    "paired": (evidence.PAIRED, evidence.paired_frame(EVIDENCE)),
    "gain": (evidence.GAIN, evidence.gain_frame(EVIDENCE)),
    "timeline": (changes.TIMELINE, changes.timeline_frame([UPDATE])),
    "effects": (changes.EFFECTS, changes.effects_frame([JUDGED])),
    "trials": (studies.TRIALS, studies.trials_frame(TRIALS)),
    "parallel": (studies.PARALLEL, studies.parallel_frame(TRIALS, ("gamma", "learning_rate"), "dqn")),
    "importances": (studies.IMPORTANCES, studies.importances_frame({"gamma": 0.25, "tau": 0.75})),
    "front": (studies.FRONT, studies.front_frame(FRONT, TRIALS)),
    "worth": (evidence.WORTH, evidence.worth_frame(WORTH)),
    "conflicts": (coordination.CONFLICTS, coordination.conflicts_frame(CONFLICTS)),
    "nash": (coordination.NASH, coordination.nash_frame(EQUILIBRIA)),
    "gains": (coordination.GAINS, coordination.gains_frame(EQUILIBRIA)),
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
    frame = agents.score_frame(POINTS)
    assert frame[frame["reload"]]["label"].tolist() == ["v3", "v7"]
    assert frame["episode"].is_monotonic_increasing


def test_without_episodes_there_is_an_empty_curve() -> None:
    assert agents.score_frame([]).empty
    assert studies.trials_frame([]).empty


@settings(max_examples=30)
@given(some.lists(some.tuples(some.floats(-2, 2), some.floats(-2, 2)), min_size=1, max_size=64))
def test_every_held_out_seed_is_drawn_once_the_largest_loss_first(scores: list[tuple[float, float]]) -> None:
    pairs = tuple(PairedScore(seed=n, incumbent=old, candidate=new) for n, (old, new) in enumerate(scores))
    frame = evidence.paired_frame(EVIDENCE.model_copy(update={"scores": pairs}))
    assert sorted(frame["seed"].astype(int)) == list(range(len(scores)))
    assert frame["difference"].is_monotonic_increasing


def test_the_best_score_never_falls() -> None:
    assert studies.trials_frame(TRIALS)["best"].tolist() == [0.2, 0.2, 0.6]


def test_a_trial_on_the_front_is_drawn_once() -> None:
    frame = studies.front_frame(FRONT, TRIALS)
    assert dict(zip(frame["number"], frame["front"], strict=True)) == {0: False, 1: False, 2: True, 7: True}
    assert len(frame) == 4


def test_the_most_important_key_comes_first() -> None:
    assert studies.importances_frame({"gamma": 0.25, "tau": 0.75})["name"].tolist() == ["tau", "gamma"]


def test_worth_is_in_percentage_points_and_says_what_was_dropped() -> None:
    frame = evidence.worth_frame(WORTH)
    assert frame[["name", "gain", "kept"]].to_numpy().tolist() == [
        ["gamma 0.99 → 0.95", 25.0, "kept"], ["tau 0.99 → 0.95", -1.0, "dropped"],
    ]  # fmt: skip


def test_times_keep_their_zone() -> None:
    at = agents.score_frame(POINTS)["at"].iloc[0]
    assert pd.Timestamp(at) == pd.Timestamp(datetime(2026, 11, 24, 12, tzinfo=UTC))


def test_each_role_has_its_own_gain_oldest_first() -> None:
    frame = coordination.gains_frame(EQUILIBRIA)
    assert frame[["episode", "name", "value"]].to_numpy().tolist() == [
        [0, "a", 0.0], [0, "policy", 0.0], [1, "a", 0.0], [1, "policy", 1.0],
    ]  # fmt: skip


def test_a_trial_runs_through_its_values_between_the_lowest_and_the_highest_tried() -> None:
    frame = studies.parallel_frame(TRIALS, ("gamma", "learning_rate"), "dqn")
    assert set(frame["name"]) == {"gamma"}  # the other was never varied
    places = dict(zip(frame["trial"], frame["place"], strict=True))
    assert (places[0], places[2]) == (1.0, 0.0)
    assert 0.0 < places[1] < 1.0
