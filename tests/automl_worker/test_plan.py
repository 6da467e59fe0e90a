"""What a study does next is a function of its messages: played out here without a server, with made-up scores."""

import pytest

from played_studies import Measured, better_by, noise, outcome, play, started
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import plan
from tars.automl_worker.evidence import LOOKS
from tars.automl_worker.pace import Pace
from tars.automl_worker.plan import CANDIDATES
from tars.automl_worker.steps import Ask, Wait
from tars.automl_worker.trials import CONFIRMATION, held_out_seed
from tars.schemas.evidence import Verdict
from tars.schemas.hyperparameters import DQN, Value
from tars.schemas.study import StudyStarted
from tars.schemas.trial import RunTrial


def test_the_first_trial_is_the_incumbent_and_each_key_that_is_not_searched_stays_its_own() -> None:
    _, board = play(started(), better_by(0.2))
    incumbent = DQN.demo_start()
    assert board.asked[0].hyperparameters == incumbent
    for number in range(1, 12):
        changed = {key for key, value in board.asked[number].hyperparameters.items() if value != incumbent[key]}
        assert changed <= set(DQN.game_search)


SEVEN = Pace(1, 7)
"""In flight."""


def asked_at(board: Board, study: StudyStarted, pace: Pace = SEVEN) -> list[RunTrial]:
    """What is asked where the board stands, batch by batch until there is something to wait for."""
    found: list[RunTrial] = []
    while isinstance(step := plan(study, board, pace=pace), Ask):
        board.asked.update({trial.number: trial for trial in step.trials})
        found += step.trials
    assert isinstance(step, Wait)
    return found


def test_whenever_there_is_room_the_next_is_asked() -> None:
    study, board = started(20), Board()
    assert [trial.number for trial in asked_at(board, study)] == list(range(7))
    for number in range(13):
        board.outcomes[number] = outcome(board.asked[number], 0.5)
        assert [trial.number for trial in asked_at(board, study)] == [number + 7]


def test_nothing_is_weighed_while_answers_of_the_search_are_missing() -> None:
    study = started(8)
    _, board = play(study, better_by(0.2))
    board.asked = {number: trial for number, trial in board.asked.items() if trial.phase == "search"}
    board.outcomes = {number: found for number, found in board.outcomes.items() if number in range(7)}
    assert isinstance(plan(study, board), Wait)


def test_the_order_of_the_answers_decides_what_is_asked_and_not_when_they_are_seen() -> None:
    """One coordinator looks after each answer, the other was away and sees them all at once."""
    study, often, once = started(40), Board(), Board()
    asked_at(often, study)
    asked_at(once, study)
    for number in (place ^ 1 for place in range(30)):
        often.outcomes[number] = outcome(often.asked[number], noise(often.asked[number]))
        asked_at(often, study)
    once.outcomes = dict(often.outcomes)
    asked_at(once, study)
    assert often.asked == once.asked
    assert len(once.asked) == 37


def test_another_order_of_the_answers_leads_elsewhere() -> None:
    boards = []
    for order in (range(10), range(10, 20)):
        study, board = started(40), Board()
        asked_at(board, study, Pace(1, 20))
        board.outcomes = {number: outcome(board.asked[number], number / 10) for number in order}
        asked_at(board, study, Pace(1, 20))
        boards.append(board)
    assert boards[0].asked != boards[1].asked


def test_search_trials_are_quick_and_evidence_is_full_length_on_seeds_the_search_never_saw() -> None:
    finished, board = play(started(), better_by(0.2))
    search = [trial for trial in board.asked.values() if trial.phase == "search"]
    held_out = [trial for trial in board.asked.values() if trial.phase == "confirmation"]
    assert {(t.train_episodes, t.eval_episodes) for t in search} == {(10, 5)}
    assert {(t.train_episodes, t.eval_episodes) for t in held_out} == {(50, 10)}
    assert not {t.seed for t in search} & {t.seed for t in held_out}
    assert finished.evidence is not None
    assert {pair.seed for pair in finished.evidence.scores} <= {t.seed for t in held_out}


def test_every_held_out_seed_is_trained_by_the_incumbent_and_by_each_open_candidate() -> None:
    study = started()
    _, board = play(study, better_by(0.2))
    first = [board.asked[study.trials + slot] for slot in range(CONFIRMATION.slots)]
    assert {trial.seed for trial in first} == {held_out_seed(study, 0)}
    assert first[0].hyperparameters == study.incumbent
    assert len({tuple(sorted(t.hyperparameters.items())) for t in first}) == CANDIDATES + 1


def test_a_candidate_that_is_clearly_better_is_found_better() -> None:
    finished, _ = play(started(), better_by(0.2))
    assert finished.evidence is not None
    assert finished.evidence.verdict is Verdict.BETTER
    assert finished.evidence.gain == pytest.approx(0.2, abs=0.02)
    assert finished.evidence.candidate == finished.champion


def test_candidates_that_are_no_better_end_early_as_not_better() -> None:
    finished, board = play(started(), better_by(0.0))
    assert finished.evidence is not None
    assert finished.evidence.verdict is Verdict.NOT_BETTER
    assert len(board.asked) == 12 + CONFIRMATION.slots * LOOKS[0]


def test_failed_trials_are_counted_and_never_become_the_champion() -> None:
    def score(trial: RunTrial) -> Measured:
        return None if trial.phase == "search" and trial.number % 2 else better_by(0.2)(trial)

    finished, board = play(started(), score)
    assert (finished.completed, finished.failed) == (6, 6)
    failed = [board.asked[n].hyperparameters for n in range(1, 12, 2)]
    assert finished.champion not in failed


def test_a_candidate_whose_held_out_trials_fail_is_not_better() -> None:
    def score(trial: RunTrial) -> Measured:
        incumbent = trial.hyperparameters == DQN.demo_start()
        return None if trial.phase == "confirmation" and not incumbent else better_by(0.5)(trial)

    finished, _ = play(started(), score)
    assert finished.evidence is not None
    assert finished.evidence.verdict is not Verdict.BETTER


def test_a_candidate_that_diverges_on_some_held_out_seeds_is_not_better_and_its_evidence_says_it() -> None:
    def score(trial: RunTrial) -> Measured:
        diverges = trial.hyperparameters != DQN.demo_start() and trial.seed % 4 == 0
        return None if trial.phase == "confirmation" and diverges else better_by(0.1)(trial)

    finished, board = play(started(), score)
    assert finished.evidence is not None
    assert finished.evidence.verdict is not Verdict.BETTER
    assert finished.evidence.failed == sum(pair.seed % 4 == 0 for pair in finished.evidence.scores) > 0
    assert plan(started(), board) == finished


def test_a_study_whose_every_trial_fails_finishes_without_a_champion() -> None:
    finished, _ = play(started(), lambda _: None)
    assert (finished.champion, finished.evidence, finished.failed) == (None, None, 12)


def test_the_same_messages_lead_to_the_same_study() -> None:
    one, first = play(started(), better_by(0.1))
    other, second = play(started(), better_by(0.1))
    assert one == other
    assert first.asked == second.asked


def test_another_seed_searches_elsewhere() -> None:
    points = [
        [trial.hyperparameters for trial in play(started(seed=seed), better_by(0.1))[1].asked.values()][1:12]
        for seed in (1, 2)
    ]
    assert points[0] != points[1]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_every_point_lies_inside_where_the_study_looks(sampler: str) -> None:
    _, board = play(started(sampler=sampler), better_by(0.1))
    for number in range(1, 12):
        values: dict[str, Value] = board.asked[number].hyperparameters
        for name in DQN.game_search:
            low, high = DQN[name].medium
            assert low <= (values[name] or 0) <= high
