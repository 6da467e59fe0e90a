"""A study as Optuna's plots see it, and the page that holds them."""

import re
from datetime import timedelta

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from examples import NOON
from tars.automl_worker.plots import optuna_study, plots
from tars.schemas.evidence import Objective, Weights
from tars.schemas.hyperparameters import DQN
from tars.schemas.views import StudyRow, TrialRow, TrialStage

INCUMBENT = {**DQN.demo_start(), "tau": 1.0}
"""Its tau lies outside of where the game's studies look."""


def study(objective: Objective = "reward") -> StudyRow:
    return StudyRow(
        study_id="s<1>", stage="finished", started_at=NOON, by="ada", algorithm="dqn", environment="policy", trials=12,
        quick=True, incumbent=INCUMBENT, searched=("learning_rate", "gamma", "tau"), objective=objective,
        weights=Weights(conflict=2.0, latency=1.0),
    )  # fmt: skip


def trial(number: int, stage: TrialStage = "completed") -> TrialRow:
    values = {"learning_rate": 10 ** (-4 + number / 10), "gamma": 0.9 + number / 200, "tau": 0.01 + number / 100}
    return TrialRow(
        study_id="s<1>", number=number, phase="search", stage=stage, seed=number, train_episodes=50, episode=20,
        hyperparameters={**INCUMBENT, **values} if number else INCUMBENT, asked_at=NOON + timedelta(seconds=number),
        score=None if stage == "waiting" else number / 10, conflict=0.1, latency=0.2,
    )  # fmt: skip


TRIALS = [*(trial(number) for number in range(10)), trial(10, "pruned"), trial(11, "failed"), trial(12, "waiting")]
HELD_OUT = trial(13).model_copy(update={"phase": "confirmation"})


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_every_trial_of_the_search_is_there_with_what_became_of_it() -> None:
    found = optuna_study(study(), [*TRIALS, HELD_OUT]).trials
    ends = [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [one.state for one in found] == [TrialState.COMPLETE] * 10 + ends
    assert [one.value for one in found[:3]] == [0.0, 0.1, 0.2]
    assert found[10].intermediate_values == {20: 1.0}


def test_a_discount_is_told_as_the_search_looks_along_it_and_an_outsider_as_it_is() -> None:
    first, second = optuna_study(study(), TRIALS).trials[:2]
    assert second.params["1 - gamma"] == pytest.approx(1 - 0.905)
    assert first.params["tau"] == 1.0


def test_a_penalty_is_what_is_left_of_the_score() -> None:
    assert optuna_study(study("penalty"), TRIALS).trials[9].value == pytest.approx(0.9 - 2.0 * 0.1 - 1.0 * 0.2)


def test_a_pareto_study_has_three_aims() -> None:
    found = optuna_study(study("pareto"), TRIALS)
    assert found.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE]
    assert found.trials[9].values == [0.9, 0.1, 0.2]


@pytest.mark.slow
def test_the_page_holds_every_plot_and_may_load_nothing() -> None:
    page = plots(study(), TRIALS)
    assert headings(page) == ["Optimization history", "Slice", "Parallel coordinate", "Importances", "Contours"]
    assert "default-src 'none'" in page
    tags = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)\s*=", tags)
    assert page.count("plotly.js v") == 1
    assert "Study s&lt;1&gt;: dqn in policy" in page


def test_a_pareto_page_has_its_front() -> None:
    assert "Pareto front" in headings(plots(study("pareto"), TRIALS))


def test_what_few_trials_cannot_tell_is_left_out() -> None:
    assert headings(plots(study(), TRIALS[:1])) == ["Optimization history"]
    assert "Importances" not in headings(plots(study(), TRIALS[:4]))
