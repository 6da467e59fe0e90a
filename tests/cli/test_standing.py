"""How far a study has come, from the rows that its messages make."""

from datetime import timedelta

import pytest

from examples import NOON
from played_studies import Measured, answer, better_by, play, started
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import plan
from tars.automl_worker.steps import Ask
from tars.cli.standing import Pace, Standing, standing
from tars.consumers.trial_board import Tally, study_row, tally, trial_row
from tars.schemas.evidence import Verdict
from tars.schemas.study import StudyStarted
from tars.schemas.trial import RunTrial
from tars.schemas.views import StudyRow, TrialRow

MINUTE = timedelta(minutes=1)


def rows(study: StudyStarted, board: Board) -> tuple[StudyRow, list[TrialRow]]:
    """What the consumers make of a study's messages."""
    found: list[TrialRow] = []
    counts = Tally()
    for number, run in sorted(board.asked.items()):
        asked = trial_row(run, None, NOON)
        assert asked is not None
        counts = tally(counts, None, asked)
        row = trial_row(outcome, asked, NOON) if (outcome := board.outcomes.get(number)) else asked
        assert row is not None
        counts, found = tally(counts, asked, row), [*found, row]
    study_as_row = study_row(study, None, NOON)
    assert study_as_row is not None
    return study_as_row.model_copy(update=dict(counts)), found


def at(study: StudyStarted, board: Board, per_minute: float | None = None) -> Standing:
    return standing(*rows(study, board), per_minute, NOON + MINUTE)


def asked_next(study: StudyStarted, board: Board) -> tuple[RunTrial, ...]:
    step = plan(study, board)
    assert isinstance(step, Ask)
    return step.trials


def test_a_search_says_what_is_done_and_how_long_the_rest_takes() -> None:
    study, board = started(12), Board()
    answer(board, asked_next(study, board), better_by(0.2))
    now = at(study, board, per_minute=4.0)
    assert (now.phase, now.done, now.trials) == ("search", 4, 12)
    assert now.seconds_left == pytest.approx(120)
    assert now.best == max(outcome.score for outcome in board.outcomes.values())


def test_a_search_is_over_when_its_time_is() -> None:
    study, board = started(12, wall_seconds=90.0), Board()
    answer(board, asked_next(study, board), better_by(0.2))
    assert at(study, board, per_minute=1.0).seconds_left == pytest.approx(30)
    assert at(study, board).seconds_left == pytest.approx(30)


def test_the_best_of_a_penalty_is_what_is_left_of_the_score() -> None:
    study, board = started(4, objective="penalty", weights={"conflict": 2.0, "latency": 0.0}), Board()
    answer(board, asked_next(study, board), lambda trial: (0.9, 0.1 * trial.number, 0.5))
    row, trials = rows(study, board)
    assert standing(row, trials[2:], None, NOON).best == pytest.approx(0.9 - 2.0 * 0.2)


def held_out(gain: float, candidates: tuple[dict[str, float], ...]) -> tuple[StudyStarted, Board]:
    """A study of given candidates whose first look is asked and half of it answered."""
    study, board = started(0, candidates=candidates, explain=False), Board()
    first = asked_next(study, board)
    answer(board, first[: len(first) // 2], better_by(gain))
    for trial in first[len(first) // 2 :]:
        board.asked[trial.number] = trial
    return study, board


def test_before_a_look_pairs_are_counted_and_no_verdict_is_told() -> None:
    now = at(*held_out(0.5, ({"learning_rate": 5e-4}, {"gamma": 0.95})))
    assert (now.phase, now.trials, now.pairs, now.pairs_asked) == ("confirmation", 0, 4, 8)
    assert [(one.change, one.verdict) for one in now.weighed] == [
        ({"learning_rate": 5e-4}, None), ({"gamma": 0.95}, None),
    ]  # fmt: skip
    assert all(one.gain == pytest.approx(0.5, abs=0.05) for one in now.weighed)


@pytest.mark.parametrize(("gain", "verdict"), [(0.5, Verdict.BETTER), (-0.5, Verdict.NOT_BETTER)])
def test_after_a_look_its_verdict_is_the_studys_own(gain: float, verdict: Verdict) -> None:
    study = started(0, candidates=({"learning_rate": 5e-4}, {"gamma": 0.95}), explain=False)
    finished, board = play(study, better_by(gain))
    told = at(study, board).weighed
    assert [(one.verdict, one.pairs) for one in told] == [(e.verdict, len(e.scores)) for e in finished.weighed]
    assert [one.gain for one in told] == pytest.approx([found.gain for found in finished.weighed])
    assert {found.verdict for found in finished.weighed} == {verdict}


def test_a_candidate_that_fails_on_some_seeds_is_told_as_the_study_weighs_it() -> None:
    def score(trial: RunTrial) -> Measured:
        changed = trial.hyperparameters != started().incumbent
        return None if changed and trial.seed % 4 == 0 else better_by(0.5)(trial)

    study = started(0, candidates=({"gamma": 0.95},), explain=False)
    finished, board = play(study, score)
    (one,), (weighed,) = at(study, board).weighed, finished.weighed
    assert weighed.failed
    assert (one.verdict or Verdict.INCONCLUSIVE) is weighed.verdict
    assert one.gain == pytest.approx(weighed.gain)


def test_keys_put_back_and_the_smaller_change_are_told_apart_from_the_candidates() -> None:
    def score(trial: RunTrial) -> float:
        """Only the learning rate matters."""
        return 0.5 + (trial.seed % 97) / 970 + (0.3 if trial.hyperparameters["learning_rate"] == 5e-4 else 0.0)

    study = started(0, candidates=({"learning_rate": 5e-4, "gamma": 0.95},), explain=True)
    finished, board = play(study, score)
    now = at(study, board)
    assert finished.evidence is not None
    assert {key.key: key.kept for key in finished.evidence.worth} == {"learning_rate": True, "gamma": False}
    assert (now.phase, now.put_back) == ("ablation", now.put_back_asked)
    assert [one.change for one in now.weighed] == [{"learning_rate": 5e-4, "gamma": 0.95}, {"learning_rate": 5e-4}]
    assert [one.verdict for one in now.weighed] == [Verdict.BETTER, Verdict.BETTER]


def test_failed_trials_count_as_done_and_are_no_gain() -> None:
    study, board = started(0, candidates=({"gamma": 0.95},), explain=False), Board()
    answer(board, asked_next(study, board), lambda _: None)
    (one,) = at(study, board).weighed
    assert (one.pairs, one.gain, one.verdict) == (8, None, Verdict.INCONCLUSIVE)


def test_the_pace_is_that_of_the_whole_study_and_later_of_the_last_minute() -> None:
    pace = Pace()
    assert pace.see(0, NOON, NOON + MINUTE) is None
    assert pace.see(20, NOON, NOON + 2 * MINUTE) == pytest.approx(20)
    assert pace.see(22, NOON, NOON + 3 * MINUTE) == pytest.approx(2)


def test_whoever_looks_late_sees_the_pace_since_the_beginning() -> None:
    assert Pace().see(30, NOON, NOON + 10 * MINUTE) == pytest.approx(3)


def test_time_alone_is_nothing_new() -> None:
    study, board = started(12), Board()
    answer(board, asked_next(study, board), better_by(0.2))
    early, late = at(study, board, per_minute=4.0), at(study, board, per_minute=3.0)
    assert early.has_moved(None)
    assert not late.has_moved(early)
    answer(board, asked_next(study, board), better_by(0.2))
    assert at(study, board).has_moved(late)
