"""When A2C and PPO make gradient steps, and on which rollouts."""

import math

import pytest
import torch

from learners import A2C, PPO, Learner, train
from tars.agents.algorithm import Lane

torch.set_num_threads(1)


@pytest.mark.parametrize("steps", [5, 24, 48])
@pytest.mark.parametrize("player", [A2C, PPO], ids="-".join)
def test_a_rollout_need_not_end_with_an_episode(player: Learner, steps: int) -> None:
    population = train(player.population({"n_steps": steps}), 3)
    done = 3 * 32 // steps
    per_rollout = 1 if player == A2C else 2 * math.ceil(steps * 16 / 128)
    assert population.gradient_steps(0) == done * per_rollout
    assert population.stored(0) == 3 * 32 % steps * 16


@pytest.mark.parametrize("player", [A2C, PPO], ids="-".join)
def test_a_lane_that_is_refilled_in_the_middle_of_a_rollout_learns_only_from_whole_ones_of_its_own(
    player: Learner,
) -> None:
    population = train(player.population({"n_steps": 24}, {"n_steps": 24}), 1)
    done = population.gradient_steps(0)
    population.refill(1, Lane(9, player.values(n_steps=24)))
    fresh = population.weights_hash(1)
    population.begin()
    for _ in range(16):  # the rollout that the old trial began ends here
        population.step()
    assert (population.gradient_steps(0), population.gradient_steps(1)) == (2 * done, 0)
    assert population.weights_hash(1) == fresh


def test_target_kl_ends_the_gradient_steps_of_one_member_alone() -> None:
    population = train(PPO.population({"target_kl": 1e-6}, {}, {"target_kl": 10.0}), 2)
    assert population.gradient_steps(1) == population.gradient_steps(2) == 16
    assert 0 < population.gradient_steps(0) < 16
    alone = train(PPO.population({"target_kl": 1e-6}), 2)
    assert alone.gradient_steps(0) == population.gradient_steps(0)
