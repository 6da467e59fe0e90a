"""Trials as the board shows them."""

from typing import Any

from ledgers import VALUES

from tars.consumers.trial_board import Tally, tally, trial_row
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed


def test_the_first_outcome_of_a_trial_stays() -> None:
    """And is counted once, whatever else somebody writes about it."""
    place: dict[str, Any] = {"study_id": "s1", "number": 0}
    run = RunTrial(
        **place, phase="search", algorithm="dqn", environment="policy", hyperparameters=VALUES, seed=1,
        train_episodes=5, eval_episodes=2,
    )  # fmt: skip
    asked = trial_row(run, None)
    done = trial_row(TrialCompleted(**place, score=0.5, cpu_seconds=0.1, holder="h"), asked)
    assert done is not None
    assert trial_row(TrialFailed(**place, error="late", holder="h"), done) == done
    assert tally(tally(Tally(), None, done), done, done) == tally(Tally(), None, done)
