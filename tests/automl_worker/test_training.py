"""Trials as lanes: together, pruned at rungs, refilled from what waits; one bad trial fails alone."""

import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from typing import Any

import pytest
import torch

from learners import Table
from tars.agents import checkpoint
from tars.agents.algorithm import Lane
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import Evaluation, Policy, RoleEnvironment
from tars.automl_worker import training
from tars.automl_worker.halving import FEWEST, falls_behind, rungs
from tars.automl_worker.single_trainer import NoTrainer, resolve
from tars.automl_worker.training import EVALUATION, Result, group_of, run_group
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, AlgorithmName, Value
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.trial import RunTrial

torch.set_num_threads(1)


def trial(number: int, algorithm: AlgorithmName = "a2c", **changes: Any) -> RunTrial:
    role = next(role for role, name in GAME_ROLES.items() if name == algorithm)
    values: dict[str, Value] = dict(DECLARED[algorithm].game_defaults)
    fields = {
        "study_id": "s", "number": number, "phase": "search", "algorithm": algorithm, "environment": role,
        "hyperparameters": values, "seed": 100 + number, "train_episodes": 2, "eval_episodes": 1, **changes,
    }  # fmt: skip
    return RunTrial.model_validate(fields)


def with_rate(number: int, rate: float, **changes: Any) -> RunTrial:
    return trial(number, hyperparameters={**DECLARED["a2c"].game_defaults, "learning_rate": rate}, **changes)


def in_a_thread(work: Callable[[], list[Result]]) -> list[Result]:
    """As a trainer does: what a training thread sets for itself must not reach the other tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def run(
    *trials: RunTrial, waiting: Sequence[RunTrial] = (), allowed: Sequence[str] = (), snapshot: bytes | None = None
) -> dict[int, Result]:
    queue = list(waiting)

    def more(like: RunTrial, count: int) -> list[RunTrial]:
        assert group_of(like) == group_of(trials[0])
        taken = queue[:count]
        del queue[:count]
        return taken

    results = in_a_thread(lambda: list(run_group(trials, lambda *_: None, more, allowed, snapshot)))
    assert len({result.trial.number for result in results}) == len(results)
    return {result.trial.number: result for result in results}


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_a_trials_score_is_that_of_its_own_lane(algorithm: AlgorithmName) -> None:
    asked = [trial(number, algorithm) for number in range(3)]
    found = run(*asked)
    population = ALGORITHMS[algorithm](
        RoleEnvironment(asked[0].environment),  # type: ignore[arg-type] # a role
        [Lane(t.seed, t.hyperparameters) for t in asked],
    )
    for _ in range(2):
        population.episode()
    score, conflict, latency = population.evaluate(1, [t.seed ^ EVALUATION for t in asked])
    assert conflict is not None
    assert latency is not None
    assert [found[number].score for number in range(3)] == score.tolist()
    assert [found[number].conflict for number in range(3)] == conflict.tolist()
    assert [found[number].latency for number in range(3)] == latency.tolist()


def test_a_pruned_trials_lane_goes_to_one_that_waits_which_learns_what_it_would_have_learnt_anyway() -> None:
    rates = (2e-3, 2e-3, 2e-3, 1e-6, 1e-6, 1e-6)
    asked = [with_rate(n, rate, train_episodes=8, rungs=(4,)) for n, rate in enumerate(rates)]
    late = trial(9, train_episodes=8, rungs=(4,))
    found = run(*asked, waiting=[late])
    pruned = {number for number, result in found.items() if result.pruned_at == 4}
    assert len(pruned) >= 2
    assert set(found) == {0, 1, 2, 3, 4, 5, 9}
    alone = run(*[late, *asked[1:]])[9]
    assert alone.score is not None
    assert found[9].pruned_at == 4 or found[9].score == pytest.approx(alone.score, abs=1e-4)


def test_a_trial_that_is_named_twice_is_trained_once_and_no_other_fails_for_it() -> None:
    twice = [trial(0), trial(0), trial(1)]
    assert [result.error for result in run(*twice).values()] == [None, None]
    rates = (2e-3, 2e-3, 2e-3, 1e-6, 1e-6, 1e-6)
    asked = [with_rate(n, rate, train_episodes=8, rungs=(4,)) for n, rate in enumerate(rates)]
    again = [trial for trial in asked if trial.hyperparameters["learning_rate"] == 2e-3]
    found = run(*asked, waiting=again)
    assert {number: result.error for number, result in found.items()} == dict.fromkeys(range(6))


@pytest.fixture(scope="module")
def played() -> bytes:
    """What an A2C agent that has played ten episodes with three others had learnt."""
    table = Table()
    table.play(10)
    return table.snapshot("consensus")


REF = SnapshotRef(name="consensus-0.r.10", agent_id="consensus-0", sha256="0" * 64, episode=10, step=80, version=0)


def test_trials_from_a_snapshot_go_on_from_what_was_learnt_with_values_and_chance_of_their_own(played: bytes) -> None:
    seeds, rates = (1, 1, 1, 2), (2e-3, 2e-3, 1e-9, 2e-3)
    asked = [
        with_rate(n, rate, seed=seed, snapshot=REF) for n, (seed, rate) in enumerate(zip(seeds, rates, strict=True))
    ]
    found = run(*asked, snapshot=played)
    fresh = run(with_rate(2, 1e-9, seed=1))
    scores = [found[number].exact_score for number in range(4)]
    assert scores[0] == scores[1]
    assert len(set(scores)) == 3
    assert fresh[2].exact_score is not None
    assert scores[2] != pytest.approx(fresh[2].exact_score, abs=0.05)


def test_a_trial_from_a_snapshot_is_scored_against_the_partners_of_its_moment(played: bytes) -> None:
    asked = trial(0, snapshot=REF)
    snapshot = checkpoint.parse(played)
    environment = RoleEnvironment("consensus", against=snapshot.partners_of("consensus"))
    population = ALGORITHMS["a2c"](environment, [Lane(1, asked.hyperparameters)])
    checkpoint.fork(population, 0, snapshot, asked.seed)
    behaved = [population.episode().item() for _ in range(2)]
    found = run(asked, snapshot=played)[0]
    assert found.score == fmean(behaved)
    exact = population.exact_score()
    assert exact is not None
    assert found.exact_score == exact.item()


def test_what_exploring_costs_counts_in_a_trial_that_goes_on_from_a_live_agent_and_in_no_other() -> None:
    table = Table()
    table.play(10)
    ref = REF.model_copy(update={"name": "policy-0.r.10", "agent_id": "policy-0"})
    idle = {**DECLARED["dqn"].game_defaults, "learning_rate": 1e-9, "exploration_initial_eps": 1.0}
    values = [{**idle, "exploration_final_eps": share} for share in (0.01, 1.0)]

    def gap(snapshot: bytes | None) -> float:
        asked = [
            trial(n, "dqn", seed=1, train_episodes=30, eval_episodes=5, hyperparameters=v, snapshot=snapshot and ref)
            for n, v in enumerate(values)
        ]
        found = run(*asked, snapshot=snapshot)
        return (found[0].score or 0.0) - (found[1].score or 0.0)

    assert gap(None) == pytest.approx(0.0, abs=1e-3)
    assert abs(gap(table.snapshot("policy"))) > 0.1


def test_a_lane_that_is_refilled_goes_on_from_the_snapshot_as_it_would_alone(played: bytes) -> None:
    rates = (2e-3, 2e-3, 2e-3, 1e-6, 1e-6, 1e-6)
    asked = [with_rate(n, rate, train_episodes=8, rungs=(4,), snapshot=REF) for n, rate in enumerate(rates)]
    late = trial(9, study_id="other", train_episodes=8, rungs=(4,), snapshot=REF)  # of one study nobody is behind
    found = run(*asked, waiting=[late], snapshot=played)
    (alone,) = run(late, snapshot=played).values()
    assert any(result.pruned_at == 4 for result in found.values())
    assert found[9].exact_score is not None
    assert found[9].exact_score == pytest.approx(alone.exact_score, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "data", "why"),
    [
        ({}, b"no bytes of any lane", "these bytes are no snapshot of a lane"),
        ({"environment": "policy"}, None, "a snapshot of a2c in consensus does not fit a2c in policy"),
        ({"trainer": "sb3"}, None, "only the population goes on from a snapshot"),
        ({"training": "surrogate"}, None, "only the population goes on from a snapshot"),
    ],
    ids=["garbage", "another role", "another trainer", "surrogate"],
)
def test_a_snapshot_that_does_not_fit_fails_each_trial_with_the_reason(
    played: bytes, changes: dict[str, Any], data: bytes | None, why: str
) -> None:
    found = run(*(trial(n, snapshot=REF, **changes) for n in range(2)), snapshot=data or played)
    assert [result.score for result in found.values()] == [None, None]
    assert all(why in (result.error or "") for result in found.values())


def test_a_trial_that_diverges_fails_alone() -> None:
    found = run(with_rate(0, 2e-3), with_rate(1, 1e30), with_rate(2, 2e-3))
    assert found[1].score is None
    assert "diverged" in (found[1].error or "")
    assert found[0].score is not None
    assert found[2].score is not None


@pytest.mark.parametrize("name", Evaluation._fields)
def test_a_trial_of_which_something_measured_is_not_finite_has_diverged(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(RoleEnvironment):
        """Its first lane's evaluation ends in something infinite."""

        def evaluate(self, policy: Policy, episodes: int, seeds: Sequence[int]) -> Evaluation:
            found = super().evaluate(policy, episodes, seeds)
            getattr(found, name)[0] = math.inf
            return found

    monkeypatch.setattr(training, "environment_of", lambda *_: Broken("consensus"))
    found = run(trial(0), trial(1))
    assert found[0].score is found[0].conflict is found[0].latency is None
    assert f"{name} inf" in (found[0].error or "")
    assert (found[0].error or "").startswith("diverged: ")
    assert found[1].error is None
    assert found[1].conflict is not None


def test_a_surrogate_and_somebodys_function_tell_of_no_conflicts() -> None:
    for found in (
        run(trial(0, training="surrogate")),
        run(trial(0, trainer="foreign:scored"), allowed=["foreign:scored"]),
    ):
        assert found[0].score is not None
        assert found[0].conflict is found[0].latency is None


def test_a_trial_that_cannot_begin_fails_with_the_reason_and_the_others_are_trained() -> None:
    broken = trial(1, hyperparameters={**DECLARED["a2c"].game_defaults, "vf_coef": None})
    lacking = trial(2, hyperparameters={"n_steps": 4})
    found = run(trial(0), broken, lacking)
    assert found[0].score is not None
    assert found[2].error == "KeyError: 'learning_rate'"


def test_dqn_does_not_act_where_actions_are_numbers() -> None:
    found = run(trial(0, "dqn", environment="resource"))
    assert "dqn learns Discrete actions; resource has Continuous" in (found[0].error or "")


def test_an_unknown_environment_fails_the_trial_by_name() -> None:
    found = run(trial(0, environment="NoSuchTask-v0", score_range=(0.0, 1.0)))
    assert "NoSuchTask" in (found[0].error or "")


def test_a_gymnasium_environment_is_trained_in_and_scored_by_its_range() -> None:
    found = run(
        trial(0, environment="CartPole-v1", score_range=(0.0, 500.0)),
        trial(1, environment="CartPole-v1", score_range=(0.0, 500.0)),
    )
    for result in found.values():
        assert result.error is None
        assert 0.01 < (result.score or 0.0) < 1.0
        assert result.exact_score is result.conflict is result.latency is None


def test_only_alike_trials_share_a_population() -> None:
    base = group_of(trial(0))
    assert group_of(with_rate(1, 5e-4)) == base
    assert group_of(trial(1, hyperparameters={**DECLARED["a2c"].game_defaults, "n_steps": 8})) != base
    assert group_of(trial(1, environment="policy")) != base
    assert group_of(trial(1, train_episodes=3)) != base
    assert group_of(trial(1, trainer="sb3")) != group_of(trial(2, trainer="sb3"))
    assert group_of(trial(1, hyperparameters={})) == "s.1"
    snapshots = [group_of(trial(n, snapshot=REF)) for n in range(2)]
    assert snapshots[0] == snapshots[1] != base
    assert group_of(trial(1, snapshot=REF.model_copy(update={"sha256": "1" * 64}))) != snapshots[0]


def test_the_worse_half_falls_behind_and_few_or_equal_ones_do_not() -> None:
    assert [falls_behind(score, [0.1, 0.2, 0.3, 0.4]) for score in (0.1, 0.2, 0.3, 0.4)] == [True, True, False, False]
    assert not any(falls_behind(score, [0.1, 0.2, 0.3][: FEWEST - 1]) for score in (0.1, 0.2))
    assert not falls_behind(0.5, [0.5] * 8)
    assert not falls_behind(0.1, [math.nan, 0.1, 0.2, 0.3])
    assert falls_behind(0.1, [math.nan, 0.1, 0.2, 0.3, 0.4])
    assert not falls_behind(math.nan, [math.nan, 0.1, 0.2, 0.3, 0.4])
    assert rungs(50) == (20, 40)
    assert rungs(10) == ()


def test_a_function_trains_where_the_trainer_allows_it_by_name() -> None:
    found = run(trial(0, trainer="foreign:scored"), allowed=["foreign:scored"])
    assert found[0].score == pytest.approx(2e-3 + 100)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("os:system", "os:system may not be called here: whoever runs this trainer allows it by TRAINERS=os:system"),
        ("foreign:missing", "foreign:missing cannot be imported"),
        ("no_such_module:train", "no_such_module:train cannot be imported"),
        ("foreign:NUMBER", "foreign:NUMBER is no function"),
        ("foreign:nan", "foreign:nan returned nan: a score is a finite number"),
        ("foreign:breaks", "ZeroDivisionError"),
    ],
)
def test_a_function_that_cannot_train_fails_its_trial_with_the_reason(name: str, why: str) -> None:
    allowed = [] if name == "os:system" else [name]
    found = run(trial(0, trainer=name), allowed=allowed)
    assert why in (found[0].error or "")


def test_progress_that_raises_ends_a_foreign_training() -> None:
    def stop(trial: RunTrial, episode: int, score: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_a_thread(
            lambda: list(run_group([trial(0, trainer="foreign:scored")], stop, lambda *_: (), ["foreign:scored"]))
        )


def test_a_trainer_is_refused_without_being_imported_where_it_is_not_allowed() -> None:
    with pytest.raises(NoTrainer, match="may not be called here"):
        resolve("antigravity:fly_geohash", ["foreign:scored"])
    assert "antigravity" not in sys.modules


def test_trials_whose_episodes_are_longer_than_a_rung_are_not_pruned_for_it() -> None:
    asked = [
        trial(n, "ppo", environment="Pendulum-v1", score_range=(-1600.0, 0.0), train_episodes=4, rungs=(2,))
        for n in range(5)
    ]  # 200 steps are an episode there, and 4 of ours are 128
    for result in run(*asked).values():
        assert result.pruned_at is None
        assert result.error is None
