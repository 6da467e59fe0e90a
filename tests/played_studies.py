"""Studies played out without a server: made-up outcomes, the real plan."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from examples import NOON
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import plan
from tars.automl_worker.steps import Ask
from tars.schemas.hyperparameters import DQN
from tars.schemas.message import By
from tars.schemas.study import StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed

Measured = float | tuple[float, float, float] | None
"""A score, or score, conflict and latency; None: the trial fails."""
Score = Callable[[RunTrial], Measured]


def started(trials: int = 12, **changes: object) -> StudyStarted:
    """A study of a policy agent that runs SB3's values."""
    fields = {
        "study_id": "s", "by": By(principal="ada"), "algorithm": "dqn", "environment": "policy", "base": {"a": 0},
        "incumbent": DQN.demo_start(), "searched": tuple(DQN.game_search), "trials": trials, "quick": True,
        "search_episodes": (10, 5), "full_episodes": (50, 10), "sampler": "tpe", "seed": 1, "structural": False,
        "threshold": 0.03,
    }  # fmt: skip
    return StudyStarted.model_validate({**fields, **changes})


def answer(board: Board, trials: Sequence[RunTrial], score: Score) -> None:
    """Ask these trials, and let them end."""
    for trial in trials:
        board.asked[trial.number] = trial
        board.outcomes[trial.number] = outcome(trial, score(trial))
    board.newest = NOON + timedelta(seconds=len(board.asked))


def outcome(trial: RunTrial, found: Measured) -> TrialCompleted | TrialFailed:
    """How a trial ended."""
    place = {"study_id": trial.study_id, "number": trial.number, "holder": "t"}
    if found is None:
        return TrialFailed.model_validate({**place, "error": "made to fail"})
    score, conflict, latency = found if isinstance(found, tuple) else (found, None, None)
    measured = {"score": score, "conflict": conflict, "latency": latency, "cpu_seconds": 0.0}
    return TrialCompleted.model_validate({**place, **measured})


def play(study: StudyStarted, score: Score, *, seconds: float = 1e9) -> tuple[StudyFinished, Board]:
    """Ask and answer until the study has finished; its time is up after so many answers, one a second."""
    board = Board()
    while not isinstance(step := plan(study, board, time_is_up=len(board.asked) >= seconds), StudyFinished):
        assert isinstance(step, Ask)
        answer(board, step.trials, score)
    return step, board


def noise(trial: RunTrial) -> float:
    """A spread that depends on the seed alone: what pairs share, and a little that they do not."""
    return (trial.seed % 1000) / 1000 * 0.2 + (trial.number % 7) / 7 * 0.02


def better_by(gain: float) -> Score:
    """Every candidate is better than the incumbent by so much, whatever it is."""

    def score(trial: RunTrial) -> float:
        same = trial.hyperparameters == DQN.demo_start()
        return 0.5 + noise(trial) + (0.0 if same else gain)

    return score
