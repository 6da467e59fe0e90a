"""Trials trained by Stable-Baselines3: every declared value acts on the model, and the score is the task's."""

import math
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from tars.agents.catalogue import ALGORITHMS
from tars.automl_worker.sb3_training import evaluate, model_of, train, training_environment
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, AlgorithmName, Value
from tars.schemas.trial import RunTrial

torch.set_num_threads(1)


class Lottery(gymnasium.Env[Any, Any]):
    """An episode is 1 step or 100, evenly; each pays 1."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 100 if self.np_random.random() < 0.5 else 1
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


LOTTERY: Any = Lottery  # a class is an entry point, which its type does not say
gymnasium.register("Lottery-v0", LOTTERY)
TASKS = {"dqn": "CartPole-v1", "a2c": "CartPole-v1", "ppo": "CartPole-v1", "ddpg": "Pendulum-v1"}
RANGES = {"CartPole-v1": (0.0, 500.0), "Pendulum-v1": (-1600.0, 0.0)}


def trial(algorithm: AlgorithmName, environment: str | None = None, **changes: Any) -> RunTrial:
    task = environment or TASKS[algorithm]
    values: dict[str, Value] = {**DECLARED[algorithm].game_defaults, **changes.pop("values", {})}
    fields = {
        "study_id": "s", "number": 0, "phase": "search", "algorithm": algorithm, "environment": task,
        "hyperparameters": values, "seed": 2**40 + 7, "train_episodes": 2, "eval_episodes": 2, "trainer": "sb3",
        "score_range": RANGES.get(task), **changes,
    }  # fmt: skip
    return RunTrial.model_validate(fields)


def quiet(episode: int, score: float) -> None:
    assert episode > 0
    assert math.isfinite(score)


READ: dict[str, Callable[[Any], Any]] = {
    "clip_range": lambda model: model.clip_range(1.0),
    "train_freq": lambda model: model.train_freq.frequency,
    "noise_sigma": lambda model: float(model.action_noise.noises[5]._sigma[0]),  # noqa: SLF001
    "n_steps": lambda model: model.rollout_buffer.buffer_size,
    "buffer_size": lambda model: model.replay_buffer.buffer_size * model.n_envs,
    "gae_lambda": lambda model: model.rollout_buffer.gae_lambda,
}
OTHER: dict[str, Value] = {
    "learning_rate": 5e-4, "gamma": 0.9, "exploration_initial_eps": 0.8, "exploration_final_eps": 0.1,
    "exploration_fraction": 0.4, "batch_size": 32, "buffer_size": 1600, "learning_starts": 64,
    "target_update_interval": 48, "tau": 0.5, "train_freq": 2, "gradient_steps": 2, "max_grad_norm": 0.7,
    "gae_lambda": 0.9, "ent_coef": 0.03, "vf_coef": 0.3, "n_steps": 8, "clip_range": 0.3, "target_kl": 0.02,
    "n_epochs": 3, "noise_sigma": 0.4,
}  # fmt: skip


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_every_declared_value_reaches_the_model(algorithm: AlgorithmName) -> None:
    names = [name for name in DECLARED[algorithm].names if name not in {"actor_learning_rate", "critic_learning_rate"}]
    asked = trial(algorithm, values={name: OTHER[name] for name in names})
    with closing(training_environment(asked)) as environment:
        model = model_of(asked, environment)
        for name in names:
            found = READ[name](model) if name in READ else getattr(model, name)
            assert found == pytest.approx(OTHER[name])


def test_actor_and_critic_step_with_learning_rates_of_their_own() -> None:
    asked = trial("ddpg", values={"actor_learning_rate": 2e-4, "critic_learning_rate": 3e-3})
    with closing(training_environment(asked)) as environment:
        model: Any = model_of(asked, environment)
        rates: dict[str, set[float]] = {"actor": set(), "critic": set()}
        for name, seen in rates.items():
            optimiser = getattr(model, name).optimizer
            optimiser.register_step_post_hook(lambda o, *_, seen=seen: seen.add(o.param_groups[0]["lr"]))
        model.learn(800)
    assert rates == {"actor": {2e-4}, "critic": {3e-3}}


def test_the_same_seed_scores_the_same_and_another_seed_another() -> None:
    first, again, other = (train(trial("a2c", seed=seed), quiet) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert 0.01 < first < 1.0


@pytest.mark.slow
@pytest.mark.parametrize(("role", "algorithm"), list(GAME_ROLES.items()))
def test_a_role_of_the_game_is_scored_on_the_games_scale(role: str, algorithm: AlgorithmName) -> None:
    told: list[int] = []
    score = train(trial(algorithm, role, score_range=None), lambda episode, _: told.append(episode))
    assert told == [1, 2]
    assert -6 < score < 1


def test_normalised_observations_are_judged_through_the_statistics_of_training() -> None:
    score = train(trial("ppo", normalize=("observations", "rewards"), train_episodes=1), quiet)
    assert 0.0 < score < 1.0


@pytest.mark.parametrize(("algorithm", "task"), [("dqn", "Pendulum-v1"), ("ddpg", "CartPole-v1")])
def test_an_algorithm_that_cannot_act_there_is_refused_by_name(algorithm: AlgorithmName, task: str) -> None:
    with pytest.raises(ValueError, match=f"{algorithm} cannot act in {task}, whose actions are"):
        train(trial(algorithm, task), quiet)


def test_what_the_report_raises_ends_the_training() -> None:
    def stop(episode: int, score: float) -> None:
        raise InterruptedError(f"at {episode}")

    with pytest.raises(InterruptedError, match="at 1"):
        train(trial("a2c", train_episodes=50), stop)


def test_divergence_is_an_error_not_a_score() -> None:
    with pytest.raises((FloatingPointError, ValueError), match=r"diverged|nan|invalid"):
        train(trial("ppo", values={"learning_rate": 1e30}), quiet)


@pytest.mark.parametrize("episodes", [40, 160])
def test_short_episodes_count_no_more_than_long_ones(episodes: int) -> None:
    asked = trial("dqn", "Lottery-v0", eval_episodes=episodes, score_range=(0.0, 100.0))
    with closing(training_environment(asked)) as environment:
        found = evaluate(asked, model_of(asked, environment), environment)
    assert found == pytest.approx(0.5, abs=0.2)
