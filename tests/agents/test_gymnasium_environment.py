"""Gymnasium environments under a population: ends told apart, lanes apart, what is not supported refused by name."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space

from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import Continuous
from tars.agents.environments import Discrete as DiscreteActions
from tars.agents.gymnasium_environment import GymnasiumEnvironment, Statistics
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import Value

torch.set_num_threads(1)
NUMBER = Box(-np.inf, np.inf, (2,), np.float32)


class Clock(gymnasium.Env[Any, Any]):
    """Ends by its task after 3 steps where the first action of the episode was 1, else by a time limit after 5."""

    def __init__(self, observations: Space[Any] = NUMBER, actions: Space[Any] | None = None) -> None:
        self.observation_space, self.action_space = observations, actions or Discrete(2, start=10)
        self.at, self.ends, self.seed = 0, False, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at, self.seed = 0, seed if seed is not None else self.seed
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in (10, 11), "the space's own numbers"
        self.ends = action == 11 if self.at == 0 else self.ends
        self.at += 1
        return self._seen(), float(self.at), self.ends and self.at == 3, self.at == 5, {}

    def _seen(self) -> Any:
        return np.array([self.at, self.seed % 1000], np.float32)


class Shaped(gymnasium.Env[Any, Any]):
    """Has spaces only."""

    def __init__(self, observations: Space[Any], actions: Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions


def known(name: str, entry_point: Any, **kwargs: Any) -> str:
    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point, kwargs=kwargs)
    return name


def test_an_end_by_the_task_is_told_from_a_time_limit_and_the_last_state_from_the_first_of_the_next() -> None:
    environment = GymnasiumEnvironment(known("Clock-v0", Clock), copies=2)
    environment.open([7])
    state = environment.begin()
    assert state[0, :, 0].tolist() == [0.0, 0.0]
    action = torch.tensor([[0, 1]])
    found = [environment.step(action) for _ in range(5)]
    assert [step.cut is not None for step in found] == [False, False, True, False, True]
    assert found[2].terminated.tolist() == [[0.0, 1.0]]
    assert found[2].after[0, :, 0].tolist() == [3.0, 3.0]
    assert found[2].state[0, :, 0].tolist() == [3.0, 0.0]
    assert found[4].terminated.tolist() == [[0.0, 0.0]]
    assert found[4].after[0, :, 0].tolist() == [5.0, 2.0]
    assert environment.behaviour().tolist() == [(1 + 2 + 3 + 4 + 5 + 1 + 2 + 3) / 2]


def test_a_behaviour_score_is_of_the_episodes_that_ended_since_and_of_nothing_before() -> None:
    environment = GymnasiumEnvironment(known("Clock-v0", Clock), copies=1)
    environment.open([7])
    found = []
    for _ in range(3):
        environment.begin()
        for _ in range(3):
            environment.step(torch.ones(1, 1, dtype=torch.long))
        found += environment.behaviour().tolist()
    environment.begin()
    environment.step(torch.ones(1, 1, dtype=torch.long))
    assert [*found, *environment.behaviour().tolist()] == [1 + 2 + 3] * 4


def test_no_lane_shares_chance_with_another_and_a_seed_repeats() -> None:
    def seeds(*numbers: int) -> torch.Tensor:
        environment = GymnasiumEnvironment(known("Clock-v0", Clock), copies=4)
        environment.open(numbers)
        return environment.begin()[..., 1]

    first, again, other = seeds(1, 2), seeds(1, 2), seeds(2)
    assert torch.equal(first, again)
    assert torch.equal(first[1], other[0])
    assert len({float(number) for number in first.flatten()}) == 8


def test_a_score_is_a_return_on_the_range_that_was_named() -> None:
    environment = GymnasiumEnvironment(known("Clock-v0", Clock), score_range=(5.0, 25.0))
    environment.open([1, 2])
    never = environment.evaluate(lambda state: torch.zeros(state.shape[:2], dtype=torch.long), 3, [1, 2])
    always = environment.evaluate(lambda state: torch.ones(state.shape[:2], dtype=torch.long), 3, [1, 2])
    assert never.score.tolist() == [0.5, 0.5]
    assert always.score.tolist() == pytest.approx([0.05, 0.05])
    assert never.conflict is never.latency is None
    assert environment.behaviour().isnan().all()


def test_observations_and_rewards_are_normalised_by_what_each_lane_has_seen() -> None:
    environment = GymnasiumEnvironment(known("Clock-v0", Clock), normalize=("observations", "rewards"))
    environment.open([1, 2])
    seen = [environment.begin()]
    seen += [environment.step(torch.zeros(2, 16, dtype=torch.long)).state for _ in range(40)]
    state = environment.begin()
    whole = torch.stack(seen, 1)[1].reshape(-1, 2)
    expected = (state[1] - whole.mean(0)) / (whole.var(0, correction=0) + 1e-8).sqrt()
    assert torch.allclose(environment.observe(state)[1], expected.clamp(-10, 10), atol=1e-3)
    reward = environment.step(torch.zeros(2, 16, dtype=torch.long)).reward
    assert 0.1 < float(reward.mean()) < 1.0


def test_running_statistics_are_those_of_all_values_together() -> None:
    values = torch.randn(6, 2, 5, 3, dtype=torch.float64) * 3 + 1
    running = Statistics(2, 3, torch.float64, torch.device("cpu"))
    for block in values:
        running.add(block, None)
    running.use()
    flat = values.movedim(0, 1).reshape(2, 30, 3)
    assert torch.allclose(running.mean, flat.mean(1), atol=1e-12)
    assert torch.allclose(running.deviation, (flat.var(1, correction=0) + 1e-8).sqrt(), atol=1e-12)


@pytest.mark.parametrize(
    ("observations", "actions", "why"),
    [
        (Dict({"x": NUMBER}), Discrete(2), "observations must be Discrete or a Box of up to two axes, not Dict"),
        (Box(0, 255, (8, 8, 3), np.uint8), Discrete(2), "not images"),
        (NUMBER, MultiDiscrete([2, 2]), "actions must be Discrete or a bounded Box, not MultiDiscrete"),
        (NUMBER, Box(-np.inf, np.inf, (1,)), "not an unbounded Box"),
        (NUMBER, Box(-1, 1, (0,)), "not an empty Box"),
        (Box(-1, 1, (0,)), Discrete(2), r"not nothing \(0,\)"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(observations: Space[Any], actions: Space[Any], why: str) -> None:
    name = known("Shaped-v0", Shaped, observations=observations, actions=actions)
    with pytest.raises(ValueError, match=f"Shaped-v0: .*{why}"):
        GymnasiumEnvironment(name)


def test_an_unknown_environment_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="NoSuchTask-v0: ") as refused:
        GymnasiumEnvironment("NoSuchTask-v0")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("algorithm", ["dqn", "a2c", "ppo"])
def test_states_that_are_numbers_are_seen_one_hot(algorithm: str) -> None:
    environment = GymnasiumEnvironment("FrozenLake-v1", score_range=(0.0, 1.0))
    values: dict[str, Value] = {**DECLARED[algorithm].game_defaults, "learning_starts": 64}
    wanted = {name: values[name] for name in DECLARED[algorithm].names}
    learner = ALGORITHMS[algorithm](environment, [Lane(1, wanted), Lane(2, wanted)])
    learner.episode()
    assert environment.features == 16
    assert environment.actions == DiscreteActions(4)
    assert learner.finite().all()


def test_numbers_beyond_the_bounds_are_brought_to_the_spaces_own_range() -> None:
    environment = GymnasiumEnvironment("Pendulum-v1", copies=2)
    assert environment.actions == Continuous(1)
    space = environment._as_space(torch.tensor([[[-9.0], [0.5]]]))  # noqa: SLF001
    assert space.dtype == np.float32
    assert space[0].tolist() == [[-2.0], [1.0]]


@pytest.mark.parametrize(
    ("task", "algorithm"), [("CartPole-v1", "a2c"), ("Pendulum-v1", "ddpg"), ("Pendulum-v1", "ppo")]
)
def test_a_lane_in_a_crowd_learns_there_what_it_learns_alone(task: str, algorithm: str) -> None:
    values: dict[str, Value] = {**DECLARED[algorithm].game_defaults}

    def trained(*seeds: int) -> dict[str, torch.Tensor]:
        environment = GymnasiumEnvironment(task, normalize=("observations", "rewards"))
        learner = ALGORITHMS[algorithm](environment, [Lane(seed, values) for seed in seeds])
        for _ in range(2):
            learner.episode()
        return learner.snapshot(len(seeds) - 1)

    alone, crowd = trained(3), trained(1, 2, 3)
    for name, tensor in alone.items():
        if name.startswith("parameters"):
            assert torch.allclose(tensor, crowd[name], atol=1e-5)
    assert math.isfinite(float(alone["environment.observations.count"]))


@pytest.mark.parametrize(("task", "algorithm"), [("CartPole-v1", "a2c"), ("Pendulum-v1", "ddpg")])
def test_a_lane_that_diverged_there_spoils_no_other_and_is_refilled_as_new(task: str, algorithm: str) -> None:
    sound: dict[str, Value] = {**DECLARED[algorithm].game_defaults}
    fast = {**sound, **{name: 1e30 for name in sound if name.endswith("learning_rate")}}

    def trained(seed: int, values: dict[str, Value], episodes: int) -> Population:
        environment = GymnasiumEnvironment(task, normalize=("observations", "rewards"))
        lanes = [Lane(0, sound), Lane(seed, values), Lane(2, sound)]
        learner = ALGORITHMS[algorithm](environment, lanes)
        for _ in range(episodes):
            learner.episode()
        return learner

    diverged, beside, fresh = trained(1, fast, 3), trained(1, sound, 3), trained(9, sound, 3)
    assert diverged.finite().tolist() == [True, False, True]
    assert diverged.weights_hash(0) == beside.weights_hash(0)
    diverged.refill(1, Lane(9, sound))
    for _ in range(3):
        diverged.episode()
    assert diverged.weights_hash(1) == fresh.weights_hash(1)
