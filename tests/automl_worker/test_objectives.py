"""What a study looks for beside the reward, and which of its trials it weighs."""

import pytest

from played_studies import Score, noise, play, started
from tars.schemas.evidence import Verdict
from tars.schemas.hyperparameters import DQN
from tars.schemas.trial import RunTrial

BEFORE = DQN.demo_start()
FAST, CALM = {"learning_rate": 5e-3}, {"learning_rate": 1e-3}


def measured(fast: tuple[float, float, float], calm: tuple[float, float, float]) -> Score:
    """What a high learning rate brings, and what any other change does; the incumbent: 0.4, 0.2, 0.2."""

    def score(trial: RunTrial) -> tuple[float, float, float]:
        rate = trial.hyperparameters["learning_rate"] or 0.0
        found = (0.4, 0.2, 0.2) if trial.hyperparameters == BEFORE else fast if rate > 2e-3 else calm
        return found[0] + noise(trial), found[1], found[2]

    return score


def test_a_penalty_makes_the_calm_candidate_the_better_one() -> None:
    score = measured(fast=(0.9, 0.9, 0.2), calm=(0.6, 0.1, 0.2))
    by_reward, _ = play(started(0, candidates=(FAST, CALM)), score)
    by_penalty, _ = play(started(0, candidates=(FAST, CALM), objective="penalty"), score)
    assert by_reward.champion == {**BEFORE, **FAST}
    assert by_penalty.champion == {**BEFORE, **CALM}


def test_a_penalised_gain_is_the_gain_less_what_conflict_and_latency_cost() -> None:
    score = measured(fast=(0.9, 0.3, 0.4), calm=(0.9, 0.3, 0.4))
    weights = {"conflict": 2.0, "latency": 0.5}
    finished, _ = play(started(0, candidates=(CALM,), objective="penalty", weights=weights), score)
    assert finished.evidence is not None
    assert finished.evidence.gain == pytest.approx(0.5 - 2.0 * 0.1 - 0.5 * 0.2, abs=0.02)
    assert finished.evidence.conflict_gain == pytest.approx(0.1)
    assert finished.evidence.latency_gain == pytest.approx(0.2)
    assert finished.evidence.weights is not None


def test_the_front_holds_exactly_what_nothing_else_beats_in_everything() -> None:
    score = measured(fast=(0.9, 0.5, 0.2), calm=(0.5, 0.1, 0.2))
    finished, board = play(started(16, objective="pareto"), score)
    points = {
        n: (t.score, -(t.conflict or 0), -(t.latency or 0)) for n in range(16) if (t := board.completed(n)) is not None
    }
    on_it = {point.number for point in finished.front}
    for number, mine in points.items():
        beaten = any(
            other != mine and all(a >= b for a, b in zip(other, mine, strict=True)) for other in points.values()
        )
        assert (number in on_it) != beaten
    assert [point.score for point in finished.front] == sorted((p.score for p in finished.front), reverse=True)


def test_of_a_front_the_best_that_spares_conflict_and_latency_is_weighed() -> None:
    """The fast ones score most, and have more conflicts than the incumbent: a calm one is proposed."""
    finished, _ = play(started(16, objective="pareto"), measured(fast=(0.9, 0.5, 0.2), calm=(0.6, 0.1, 0.2)))
    assert finished.champion is not None
    assert (finished.champion["learning_rate"] or 0) <= 2e-3
    assert finished.evidence is not None
    assert finished.evidence.verdict is Verdict.BETTER
    assert (finished.evidence.conflict_gain or 0) < 0


def test_a_front_on_which_only_the_incumbent_spares_itself_still_has_a_champion() -> None:
    finished, _ = play(started(16, objective="pareto"), measured(fast=(0.9, 0.5, 0.5), calm=(0.6, 0.3, 0.3)))
    assert finished.champion is not None
    assert (finished.champion["learning_rate"] or 0) > 2e-3


def test_with_other_objectives_no_trial_is_pruned_by_its_reward() -> None:
    for objective in ("penalty", "pareto"):
        study = started(8, objective=objective, quick=False, search_episodes=(50, 10))
        _, board = play(study, measured((0.5, 0.1, 0.1), (0.5, 0.1, 0.1)))
        assert all(trial.rungs == () for trial in board.asked.values())


def test_a_trial_that_measured_no_conflict_has_no_penalised_value() -> None:
    finished, _ = play(started(8, objective="penalty"), lambda _: 0.5)
    assert finished.champion is None


def test_each_given_candidate_gets_a_verdict_of_its_own() -> None:
    """The first is better at once; the second is still weighed until it is known to be no better."""
    score = measured(fast=(0.9, 0.2, 0.2), calm=(0.4, 0.2, 0.2))
    finished, board = play(started(0, candidates=(FAST, CALM)), score)
    assert [found.verdict for found in finished.weighed] == [Verdict.BETTER, Verdict.NOT_BETTER]
    assert all(trial.phase == "confirmation" for trial in board.asked.values())
    assert finished.evidence == finished.weighed[0]
    assert finished.evidence is not None
    assert finished.evidence.search_gain is None


def test_champions_of_earlier_studies_are_tried_first() -> None:
    warm = {name: BEFORE[name] for name in DQN.game_search} | {"learning_rate": 3e-3}
    _, board = play(started(8, warm=(warm,)), lambda _: 0.5)
    assert board.asked[0].hyperparameters == BEFORE
    assert board.asked[1].hyperparameters == {**BEFORE, "learning_rate": 3e-3}


def test_when_its_time_is_up_a_search_ends_and_what_it_found_is_weighed() -> None:
    """34 are asked at first, then four at a time: after 40 answers nothing more is."""
    finished, board = play(started(100), lambda trial: 0.5 + noise(trial), seconds=40)
    searched = [trial for trial in board.asked.values() if trial.phase == "search"]
    assert len(searched) == 42
    assert finished.completed == 42
    assert finished.failed == 0
    assert finished.evidence is not None


def test_importances_say_on_which_keys_the_result_hung() -> None:
    def score(trial: RunTrial) -> float:
        return 1 - abs((trial.hyperparameters["gamma"] or 0.0) - 0.95) * 10

    finished, _ = play(started(40), score)
    assert max(finished.importances, key=lambda key: finished.importances[key]) == "gamma"
    assert sum(finished.importances.values()) == pytest.approx(1)
