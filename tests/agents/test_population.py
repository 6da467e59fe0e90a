"""What holds for every algorithm: each lane its own, to the last bit, and nothing of another learner gets in."""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Final

import pytest
import torch
from torch import Tensor

from learners import A2C, DDPG, LEARNERS, NEW, PLAYERS, PPO, Learner, Values, every_learner, every_player, train
from tars.agents.algorithm import Lane, Population
from tars.agents.environments import RoleEnvironment
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED

torch.set_num_threads(1)
CROWD: Final[tuple[Values, ...]] = tuple(
    {"learning_rate": rate, "gamma": gamma} for rate in (1e-4, 1e-3, 2e-3) for gamma in (0.9, 0.97)
)
STRANGERS: Final = sorted({pair for like in (PLAYERS, LEARNERS[3:]) for pair in permutations(like, 2)})
"""Pairs of a learner and another, of another role or of the same."""


def weights(population: Population, member: int) -> Tensor:
    found = population.snapshot(member)
    return torch.cat([tensor for name, tensor in found.items() if name.startswith("parameters.")])


def exact(population: Population) -> Tensor:
    score = population.exact_score()
    assert score is not None  # the game is finite
    return score


def other_values(learner: Learner) -> Values:
    """Another value of every key that lanes of one population need not share."""
    return {name: NEW[name] for name in learner.names if name not in learner.kind.STRUCTURE}


def evaluated(population: Population, episodes: int, seeds: Sequence[int]) -> Tensor:
    """Score, conflict and latency [3, P] of an evaluation."""
    return torch.stack([each for each in population.evaluate(episodes, seeds) if each is not None])


@every_learner
def test_a_lane_in_a_crowd_learns_what_it_learns_alone(learner: Learner) -> None:
    crowd = train(learner.population(*CROWD, other_values(learner)), 3)
    for member in (0, 5):
        alone = train(learner.population(CROWD[member], seeds=(member,)), 3)
        assert torch.allclose(weights(alone, 0), weights(crowd, member), rtol=0, atol=1e-6)


@every_learner
def test_other_lanes_change_nothing_to_the_last_bit_not_even_by_diverging(learner: Learner) -> None:
    calm = learner.population({}, {}, {}, {})
    wild = learner.population({}, {"learning_rate": math.inf}, {}, other_values(learner))
    for _ in range(3):
        assert torch.equal(calm.episode()[::2], wild.episode()[::2])
    assert wild.finite().tolist() == [True, False, True, True]
    assert [wild.weights_hash(m) == calm.weights_hash(m) for m in range(4)] == [True, False, True, False]
    assert torch.equal(exact(calm)[::2], exact(wild)[::2])
    assert torch.equal(evaluated(calm, 2, range(4))[:, ::2], evaluated(wild, 2, range(4))[:, ::2])


@every_learner
def test_a_refilled_lane_is_a_fresh_one_even_after_divergence(learner: Learner) -> None:
    fresh = train(learner.population({}, {"gamma": 0.9}, seeds=(1, 99)), 2)
    used = train(learner.population({}, {"learning_rate": math.inf}, seeds=(1, 5)), 2)
    used.write(1, "noise_sigma" if learner == DDPG else "gamma", 0.5)  # what waits for the boundary goes, too
    used.refill(1, Lane(99, learner.values(gamma=0.9)))
    train(used, 2)
    assert fresh.weights_hash(1) == used.weights_hash(1)
    assert used.gradient_steps(1) == fresh.gradient_steps(1)
    assert used.finite().tolist() == [True, True]


@every_player
def test_lanes_of_unlike_structure_are_refused_by_name(player: Learner) -> None:
    for name in player.kind.STRUCTURE:
        with pytest.raises(ValueError, match=f"must share {', '.join(player.kind.STRUCTURE)}"):
            player.population({}, {name: NEW[name]})


@every_player
def test_a_lane_is_not_refilled_with_an_unlike_structure(player: Learner) -> None:
    name = player.kind.STRUCTURE[0]
    population, other = player.population({}, {}), player.population({}, {})
    with pytest.raises(ValueError, match=name):
        population.refill(1, Lane(9, player.values(**{name: NEW[name]})))
    assert train(population, 1).weights_hash(1) == train(other, 1).weights_hash(1)


@every_player
def test_a_set_that_lacks_a_key_is_refused_by_its_name(player: Learner) -> None:
    values = player.values()
    del values["gamma"]
    with pytest.raises(KeyError, match="gamma"):
        player.kind(RoleEnvironment(player.role), [Lane(0, values)])


@every_player
def test_a_refill_with_a_set_that_lacks_a_key_changes_nothing(player: Learner) -> None:
    values = player.values()
    del values["gamma"]
    population, other = player.population({}, {}), player.population({}, {})
    with pytest.raises(KeyError, match="gamma"):
        population.refill(1, Lane(9, values))
    assert train(population, 1).weights_hash(1) == train(other, 1).weights_hash(1)


@every_player
def test_a_key_that_the_algorithm_does_not_have_is_refused_by_its_name(player: Learner) -> None:
    with pytest.raises((KeyError, ValueError), match="gama"):
        player.population({"gama": 0.9})


def test_a_game_role_cannot_be_played_by_an_algorithm_of_other_actions() -> None:
    with pytest.raises(ValueError, match=r"ddpg learns Continuous actions; policy has Discrete\(n=4\)"):
        DDPG._replace(role="policy").population({})


@pytest.mark.parametrize(("learner", "given"), STRANGERS)
def test_a_snapshot_of_another_learner_is_refused_in_one_line_and_changes_nothing(
    learner: Learner, given: Learner
) -> None:
    snapshot, population = given.population({}).snapshot(0), learner.population({}, {})
    before = population.snapshot(1)
    with pytest.raises(ValueError, match=rf"\Ano snapshot of {learner.algorithm} in {learner.role}: [^\n]+\Z"):
        population.restore(1, snapshot)
    assert all(torch.equal(tensor, before[name]) for name, tensor in population.snapshot(1).items())


@every_player
def test_a_snapshot_without_its_random_numbers_is_refused_and_changes_nothing(player: Learner) -> None:
    snapshot, population = train(player.population({}), 1).snapshot(0), player.population({})
    before = population.weights_hash(0)
    for damage in ({}, {"random": torch.zeros(3, dtype=torch.uint8)}):
        rest = {name: tensor for name, tensor in snapshot.items() if name != "random"}
        with pytest.raises(ValueError, match="random"):
            population.restore(0, {**rest, **damage})
        assert population.weights_hash(0) == before


@every_learner
def test_a_lane_that_is_restored_in_the_middle_of_a_rollout_goes_on(learner: Learner) -> None:
    uneven: Values = {"n_steps": 24} if "n_steps" in learner.names else {}
    taken = train(learner.population(uneven, seeds=(1,)), 1)
    other = train(learner.population(uneven, seeds=(2,)), 2)
    other.restore(0, taken.snapshot(0))
    other.remember(0, taken.remembered(0))
    assert other.stored(0) == taken.stored(0) > 0
    assert train(other, 3).weights_hash(0) == train(taken, 3).weights_hash(0)
    assert other.gradient_steps(0) == taken.gradient_steps(0) > 0


@pytest.mark.parametrize("learner", [A2C, PPO])
def test_a_lane_that_is_restored_from_between_two_rollouts_begins_one(learner: Learner) -> None:
    fresh, other = learner.population({"n_steps": 24}), train(learner.population({"n_steps": 24}), 1)
    other.restore(0, fresh.snapshot(0))
    other.remember(0, fresh.remembered(0))
    assert train(other, 3).weights_hash(0) == train(fresh, 3).weights_hash(0)


@every_player
def test_an_evaluation_repeats_and_estimates_the_exact_score(player: Learner) -> None:
    population = train(player.population({}, {}), 2)
    first, again, other = (evaluated(population, 5, seeds) for seeds in ([7, 8], [7, 8], [7, 9]))
    assert torch.equal(first, again)
    assert torch.equal(first[:, 0], other[:, 0])
    assert bool((first[:, 1] != other[:, 1]).all())
    found = population.evaluate(150, [1, 2]).score.double()
    assert torch.allclose(found, exact(population).double(), atol=0.15)


@every_player
def test_an_evaluation_leaves_no_trace_in_what_is_learnt(player: Learner) -> None:
    watched, other = player.population({}), player.population({})
    for _ in range(2):
        watched.episode()
        watched.evaluate(2, [3])
        exact(watched)
        other.episode()
    assert watched.weights_hash(0) == other.weights_hash(0)


@every_player
def test_the_behaviour_of_an_episode_is_scored_on_the_same_scale(player: Learner) -> None:
    """A lane that hardly learns, does on average what its policy with exploration is worth: between the extremes."""
    slow: Values = {"learning_rate": 1e-6}
    population = player.population(*[slow] * 8)
    found = torch.stack([population.episode() for _ in range(3)])
    assert found.shape == (3, 8)
    assert -8.0 < float(found.min()) <= float(found.max()) < 1.0


@every_player
def test_the_exported_policy_is_a_plain_network_that_acts_alike(player: Learner) -> None:
    population = train(player.population({}, {}), 1)
    environment = RoleEnvironment(player.role)
    environment.open([0])
    states = environment.every_state()
    with torch.no_grad():
        plain = population.policy(1)(environment.observe(states)[0])
        ours = population.greedy(states.expand(2, -1, -1))[1]
    assert torch.allclose(plain if player == DDPG else plain.argmax(-1), ours, atol=1e-6)


@every_learner
def test_single_precision_follows_double_precision(learner: Learner) -> None:
    single = train(learner.population({}), 1)
    double = learner.kind(RoleEnvironment(learner.role, torch.float64), [Lane(0, learner.values())])
    assert torch.allclose(weights(single, 0).double(), weights(train(double, 1), 0), atol=1e-4)


@pytest.mark.slow
@every_player
def test_it_learns_with_the_games_defaults_and_not_with_a_bad_learning_rate(player: Learner) -> None:
    game: Values = dict(DECLARED[player.algorithm].game_defaults)
    lanes = [Lane(seed, {**game, **bad}) for bad in ({}, {"learning_rate": 1e-6}) for seed in range(10)]
    score = exact(train(player.kind(RoleEnvironment(player.role), lanes), 50))
    assert float((score[:10] >= 0.5).double().mean()) >= 0.8
    assert float(score[10:].median()) < 0.2


@pytest.mark.slow
def test_an_actor_critic_also_learns_to_choose_numbers() -> None:
    values: Values = {**DECLARED["ppo"].game_defaults, "ent_coef": 0.0}
    population = PPO.kind(RoleEnvironment("resource"), [Lane(seed, values) for seed in range(4)])
    before = exact(population)
    assert float((exact(train(population, 60)) - before).min()) > 0.3
