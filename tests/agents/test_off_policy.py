"""When DQN and DDPG make gradient steps."""

import pytest
import torch

from learners import DDPG, DQN, Learner, Values, train
from tars.agents.algorithm import Lane

torch.set_num_threads(1)
OWN = ("actor_learning_rate", "critic_learning_rate")
both = pytest.mark.parametrize("player", [DQN, DDPG], ids="-".join)


@both
def test_no_gradient_step_is_made_before_learning_starts_whatever_a_neighbour_does(player: Learner) -> None:
    each_step: Values = {"train_freq": 1}
    population = train(player.population({**each_step, "learning_starts": 33 * 16}, each_step), 1)
    assert population.gradient_steps(0) == 0
    assert population.gradient_steps(1) == 30
    assert population.weights_hash(0) == player.population({}).weights_hash(0)
    population.episode()
    assert population.gradient_steps(0) == 31


@both
@pytest.mark.parametrize(
    ("rounds", "steps"), [({"train_freq": 1}, 32), ({"train_freq": 5}, 6), ({"gradient_steps": 3}, 24)]
)
def test_rounds_of_gradient_steps_are_as_many_and_as_far_apart_as_asked(
    player: Learner, rounds: Values, steps: int
) -> None:
    population = train(player.population(rounds), 1)
    before = population.gradient_steps(0)
    population.episode()
    assert population.gradient_steps(0) - before == steps


@both
def test_a_lane_out_of_step_with_its_neighbours_learns_as_a_fresh_one(player: Learner) -> None:
    rounds: Values = {"train_freq": 5}  # 32 is no multiple: rounds of an older lane come at other steps
    fresh = train(player.population(rounds, rounds, seeds=(1, 9)), 3)
    used = train(player.population(rounds, rounds, seeds=(1, 2)), 1)
    used.refill(1, Lane(9, player.values(**rounds)))
    assert train(used, 3).weights_hash(1) == fresh.weights_hash(1)


def test_every_action_is_drawn_evenly_before_learning_starts() -> None:
    late: Values = {"learning_starts": 512}
    quiet: Values = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}
    taken = train(DQN.population({**late, **quiet}), 1).remembered(0)[:, 2]
    assert torch.bincount(taken.long()).tolist() == pytest.approx([128] * 4, abs=40)
    taken = train(DDPG.population({**late, "noise_sigma": 0.0}), 1).remembered(0)[:, 2]
    assert torch.histc(taken, 4, -1, 1).tolist() == pytest.approx([128] * 4, abs=40)


def test_actor_and_critic_have_learning_rates_of_their_own() -> None:
    values: Values = {"actor_learning_rate": 0.0, "critic_learning_rate": 1e-3}
    population = DDPG.population(values, {**values, "learning_rate": 1e-2})
    before = population.snapshot(0)
    after = train(population, 1).snapshot(0)
    assert torch.equal(before["parameters.actor"], after["parameters.actor"])
    assert not torch.equal(before["parameters.critic"], after["parameters.critic"])
    same = DDPG.population({"learning_rate": 1e-3}, {"learning_rate": 1.0, **dict.fromkeys(OWN, 1e-3)}, seeds=(4, 4))
    assert train(same, 1).weights_hash(0) == same.weights_hash(1)


@both
def test_a_lane_that_is_given_other_transitions_in_mid_episode_goes_on_behind_them(player: Learner) -> None:
    given, plain = (train(player.population({"learning_starts": 10_000}), 1) for _ in range(2))
    kept = plain.remembered(0)[:40]
    for learner in (given, plain):
        learner.begin()
        for _ in range(8):
            learner.step()
    given.remember(0, kept)
    for learner in (given, plain):
        learner.step()
    assert torch.equal(given.remembered(0), torch.cat([kept, plain.remembered(0)[-16:]]))
