"""Trials and studies as the board shows them."""

from datetime import timedelta
from typing import Any

from ledgers import EVIDENCE, SNAPSHOT, START, VALUES, study_events

from tars.consumers.trial_board import Tally, study_row, tally, trial_row
from tars.schemas.study import FrontPoint, StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed
from tars.schemas.views import FRONT_SHOWN, StudyRow

LATER = START + timedelta(seconds=9)


def result(**fields: Any) -> StudyRow:
    """The row of a study that has finished with this."""
    started, finished = (next(e for e in study_events("s1") if isinstance(e, k)) for k in (StudyStarted, StudyFinished))
    assert isinstance(started, StudyStarted)
    assert isinstance(finished, StudyFinished)
    row = study_row(finished.model_copy(update=fields), study_row(started, None, START), LATER)
    assert row is not None
    return row


def test_the_first_outcome_of_a_trial_stays() -> None:
    """And is counted once, whatever else somebody writes about it."""
    place: dict[str, Any] = {"study_id": "s1", "number": 0}
    run = RunTrial(
        **place, phase="search", algorithm="dqn", environment="policy", hyperparameters=VALUES, seed=1,
        train_episodes=5, eval_episodes=2,
    )  # fmt: skip
    asked = trial_row(run, None, START)
    done = trial_row(TrialCompleted(**place, score=0.5, cpu_seconds=0.1, holder="h"), asked, LATER)
    assert done is not None
    assert trial_row(TrialFailed(**place, error="late", holder="h"), done, LATER) == done
    assert tally(tally(Tally(), None, done), done, done) == tally(Tally(), None, done)


def test_a_trial_says_from_where_and_when_it_went_on_and_what_it_cost_the_others() -> None:
    place: dict[str, Any] = {"study_id": "s1", "number": 0}
    run = RunTrial(
        **place, phase="ablation", algorithm="dqn", environment="policy", hyperparameters=VALUES, seed=1,
        train_episodes=5, eval_episodes=2, snapshot=SNAPSHOT,
    )  # fmt: skip
    completed = TrialCompleted(**place, score=0.5, conflict=0.25, latency=0.125, cpu_seconds=0.1, holder="h")
    row = trial_row(completed, trial_row(run, None, START), LATER)
    assert row is not None
    assert (row.snapshot, row.asked_at, row.ended_at) == ("a1.r1.50", START, LATER)
    assert (row.score, row.conflict, row.latency, row.episode) == (0.5, 0.25, 0.125, 5)


def test_a_study_says_what_it_was_asked_and_what_it_found() -> None:
    row = result()
    assert (row.start, row.objective, row.weights.conflict, row.threshold) == ("snapshot", "pareto", 2.0, 0.03)
    assert (row.snapshots, row.candidates, row.wall_seconds, row.propose) == (
        (SNAPSHOT,),
        ({"gamma": 0.98},),
        90,
        False,
    )
    assert (row.evidence, row.weighed, row.importances) == (EVIDENCE, (EVIDENCE, EVIDENCE), {"gamma": 1.0})


def test_a_row_stays_small_whatever_a_study_found() -> None:
    point = FrontPoint(number=1, hyperparameters=VALUES, score=0.5, conflict=0.1, latency=0.1)
    row = result(front=(point,) * 900, weighed=(EVIDENCE,) * 9)
    assert (len(row.front), len(row.weighed)) == (FRONT_SHOWN, 3)
    assert {tuple(shown.hyperparameters) for shown in row.front} == {("gamma",)}
