"""What each key of a champion is worth on held-out seeds, and the smallest change that keeps the gain."""

from collections.abc import Mapping

import pytest

from played_studies import Measured, Score, noise, play, started
from tars.schemas.evidence import KeyWorth, Verdict
from tars.schemas.hyperparameters import DQN
from tars.schemas.study import StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial

CHANGE = {"learning_rate": 1e-3, "gamma": 0.95, "tau": 0.05}
BEFORE = DQN.demo_start()


def weighed(**changes: object) -> StudyStarted:
    """A study of one given candidate, explained."""
    return started(0, candidates=(CHANGE,), explain=True, **changes)


def worth_of(finished: StudyFinished) -> tuple[KeyWorth, ...]:
    assert finished.evidence is not None
    return finished.evidence.worth


def worth(gains: Mapping[str, float]) -> Score:
    """Each changed key adds what it is worth, whatever the others are."""

    def score(trial: RunTrial) -> float:
        changed = [key for key, value in trial.hyperparameters.items() if value != BEFORE[key]]
        return 0.4 + noise(trial) + sum(gains.get(key, 0.0) for key in changed)

    return score


def test_what_is_proposed_is_the_smallest_change_that_keeps_the_gain() -> None:
    finished, _ = play(weighed(), worth({"learning_rate": 0.2, "gamma": 0.1}))
    assert finished.evidence is not None
    assert finished.champion == {**BEFORE, "learning_rate": 1e-3, "gamma": 0.95}
    assert finished.evidence.candidate == finished.champion
    assert finished.evidence.verdict is Verdict.BETTER


def test_an_update_can_say_what_each_key_is_worth() -> None:
    finished, _ = play(weighed(), worth({"learning_rate": 0.2, "gamma": 0.1}))
    told = {found.key: found for found in worth_of(finished)}
    assert told["learning_rate"].gain == pytest.approx(0.2, abs=0.03)
    assert told["gamma"].gain == pytest.approx(0.1, abs=0.03)
    assert told["tau"].gain == pytest.approx(0.0, abs=0.03)
    assert [key for key, found in told.items() if found.kept] == ["learning_rate", "gamma"]
    assert (told["tau"].before, told["tau"].after) == (BEFORE["tau"], 0.05)
    assert told["gamma"].gain_low <= told["gamma"].gain <= told["gamma"].gain_high


def test_the_smaller_change_is_proven_on_seeds_that_chose_nothing() -> None:
    finished, board = play(weighed(), worth({"learning_rate": 0.2}))
    assert finished.evidence is not None
    deciding = {t.seed for t in board.asked.values() if t.hyperparameters == {**BEFORE, **CHANGE}}
    assert not deciding & {pair.seed for pair in finished.evidence.scores}


def test_a_key_is_put_back_on_the_seeds_that_decided_for_the_champion() -> None:
    _, board = play(weighed(), worth({"learning_rate": 0.2}))
    ablated = [trial for trial in board.asked.values() if trial.phase == "ablation"]
    champions = {t.seed for t in board.asked.values() if t.hyperparameters == {**BEFORE, **CHANGE}}
    assert {trial.seed for trial in ablated} <= champions
    assert all(sum(t.hyperparameters[key] == BEFORE[key] for key in CHANGE) == 1 for t in ablated)


def test_keys_that_only_work_together_stay_together() -> None:
    """Either alone is worth nothing; putting back any one loses all."""

    def both(trial: RunTrial) -> float:
        together = all(trial.hyperparameters[key] == value for key, value in CHANGE.items())
        return 0.4 + noise(trial) + (0.3 if together else 0.0)

    finished, _ = play(weighed(), both)
    assert finished.champion == {**BEFORE, **CHANGE}
    assert all(found.kept for found in worth_of(finished))


def test_a_smaller_change_that_loses_the_gain_on_fresh_seeds_is_not_taken() -> None:
    """Each key can be spared as long as the other is there: dropping both loses everything."""

    def either(trial: RunTrial) -> float:
        some = trial.hyperparameters["gamma"] != BEFORE["gamma"] or trial.hyperparameters["tau"] != BEFORE["tau"]
        fast = trial.hyperparameters["learning_rate"] != BEFORE["learning_rate"]
        return 0.4 + noise(trial) + (0.2 if some and fast else 0.05 if fast else 0.0)

    finished, _ = play(weighed(), either)
    assert finished.champion == {**BEFORE, **CHANGE}
    assert all(found.kept for found in worth_of(finished))


def test_a_key_without_which_nothing_can_be_trained_is_kept() -> None:
    def score(trial: RunTrial) -> Measured:
        broken = trial.phase == "ablation" and trial.hyperparameters["tau"] == BEFORE["tau"]
        return None if broken else worth({"learning_rate": 0.2})(trial)

    finished, _ = play(weighed(), score)
    assert next(found for found in worth_of(finished) if found.key == "tau").kept


def test_a_key_without_which_a_quarter_of_the_trials_fail_is_worth_what_they_lose() -> None:
    def score(trial: RunTrial) -> Measured:
        put_back = trial.phase == "ablation" and trial.hyperparameters["tau"] == BEFORE["tau"]
        return None if put_back and trial.seed % 4 == 0 else worth({"learning_rate": 0.2})(trial)

    finished, board = play(weighed(), score)
    failed = sum(score(trial) is None for trial in board.asked.values())
    tau = next(found for found in worth_of(finished) if found.key == "tau")
    assert tau.gain > 0.5 * failed / tau.seeds > 0
    assert tau.kept


def test_a_champion_that_is_not_better_is_not_explained() -> None:
    finished, board = play(weighed(), worth({}))
    assert worth_of(finished) == ()
    assert not any(trial.phase == "ablation" for trial in board.asked.values())


def test_a_single_key_needs_no_explanation() -> None:
    study = started(0, candidates=({"gamma": 0.95},), explain=True)
    finished, board = play(study, worth({"gamma": 0.2}))
    assert finished.champion == {**BEFORE, "gamma": 0.95}
    assert not any(trial.phase == "ablation" for trial in board.asked.values())


def test_no_two_trials_of_a_study_share_a_number() -> None:
    """Held-out trials of all phases lie side by side behind the search."""
    _, board = play(started(12, explain=True), worth({"learning_rate": 0.2, "gamma": 0.1}))
    _, again = play(started(12, explain=True), worth({"learning_rate": 0.2, "gamma": 0.1}))
    phases = {trial.phase for trial in board.asked.values()}
    assert phases == {"search", "confirmation", "ablation"}
    assert board.asked == again.asked
