"""What holds for every algorithm: each lane its own, every hyperparameter acts, and nothing crosses members."""

import math
from itertools import product
from typing import Final

import pytest
import torch
from torch import Tensor

from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import RoleEnvironment
from tars.agents.game import ROLES, Role
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value

torch.set_num_threads(1)
Values = dict[str, Value]
LESS: Final[dict[str, Values]] = {
    "dqn": {"batch_size": 8, "buffer_size": 1024, "learning_starts": 32},
    "a2c": {},
    "ppo": {"n_epochs": 2},
    "ddpg": {"batch_size": 8, "buffer_size": 1024, "learning_starts": 32},
}
"""Less work than the game's values."""
NEW: Final[Values] = {
    "learning_rate": 5e-4, "gamma": 0.9, "tau": 0.5, "target_update_interval": 64, "max_grad_norm": 0.05,
    "exploration_initial_eps": 0.8, "exploration_final_eps": 0.1, "exploration_fraction": 0.4, "learning_starts": 4096,
    "batch_size": 16, "buffer_size": 512, "train_freq": 2, "gradient_steps": 2, "gae_lambda": 0.5, "ent_coef": 0.1,
    "vf_coef": 0.1, "n_steps": 8, "clip_range": 0.01, "target_kl": 1e-4, "n_epochs": 3, "noise_sigma": 0.6,
    "actor_learning_rate": 1e-4, "critic_learning_rate": 5e-3,
}  # fmt: skip
"""Of every key, another value than the game's."""
EVERY_KEY: Final = [(role, name) for role in ROLES for name in DECLARED[GAME_ROLES[role]].names]
every_role = pytest.mark.parametrize("role", ROLES)


def start(role: Role, **changes: Value) -> Values:
    name = GAME_ROLES[role]
    return {**DECLARED[name].game_defaults, **LESS[name], **changes}


def population(role: Role, *lanes: Values, seeds: tuple[int, ...] = ()) -> Population:
    numbers = seeds or tuple(range(len(lanes)))
    made = [Lane(seed, {**start(role), **values}) for seed, values in zip(numbers, lanes, strict=True)]
    return ALGORITHMS[GAME_ROLES[role]](RoleEnvironment(role), made)


def train(learner: Population, episodes: int) -> Population:
    for _ in range(episodes):
        learner.episode()
    return learner


def weights(learner: Population, member: int) -> Tensor:
    found = learner.snapshot(member)
    return torch.cat([tensor for name, tensor in found.items() if name.startswith("parameters.")])


@every_role
def test_a_lane_in_a_crowd_learns_what_it_learns_alone(role: Role) -> None:
    lanes: list[Values] = [{"learning_rate": rate, "gamma": gamma} for rate, gamma in product((1e-4, 1e-3, 2e-3), (0.9, 0.97))]
    crowd = train(population(role, *lanes, {}), 3)
    for member in (0, 5):
        alone = train(population(role, lanes[member], seeds=(member,)), 3)
        assert torch.allclose(weights(alone, 0), weights(crowd, member), atol=1e-6)


@every_role
def test_other_lanes_change_nothing_to_the_last_bit_not_even_by_diverging(role: Role) -> None:
    calm = train(population(role, {}, {}, {}), 3)
    wild = train(population(role, {}, {"learning_rate": math.inf}, {"gamma": 0.9}), 3)
    assert wild.finite().tolist() == [True, False, True]
    assert calm.weights_hash(0) == wild.weights_hash(0)
    assert calm.weights_hash(2) != wild.weights_hash(2)


@every_role
def test_a_refilled_lane_is_a_fresh_one_even_after_divergence(role: Role) -> None:
    fresh = train(population(role, {}, {"gamma": 0.9}, seeds=(1, 99)), 2)
    used = train(population(role, {}, {"learning_rate": math.inf}, seeds=(1, 5)), 2)
    used.refill(1, Lane(99, start(role, gamma=0.9)))
    train(used, 2)
    assert fresh.weights_hash(1) == used.weights_hash(1)
    assert used.gradient_steps(1) == fresh.gradient_steps(1)


@every_role
def test_lanes_of_unlike_structure_are_refused_by_name(role: Role) -> None:
    kind = ALGORITHMS[GAME_ROLES[role]]
    for name in kind.STRUCTURE:
        with pytest.raises(ValueError, match=f"must share {', '.join(kind.STRUCTURE)}"):
            population(role, {}, {name: NEW[name]})
        with pytest.raises(ValueError, match=f"{name} is shared"):
            population(role, {}, {}).write(0, name, NEW[name])


@every_role
def test_a_set_that_lacks_a_key_is_refused_by_its_name(role: Role) -> None:
    values = start(role)
    del values["gamma"]
    with pytest.raises(KeyError, match="gamma"):
        ALGORITHMS[GAME_ROLES[role]](RoleEnvironment(role), [Lane(0, values)])


@pytest.mark.parametrize(("role", "name"), EVERY_KEY)
def test_a_written_value_is_in_use_from_its_moment_on_and_weights_and_transitions_stay(role: Role, name: str) -> None:
    learner = train(population(role, {}), 2)
    before, stored = learner.weights_hash(0), learner.stored(0)
    learner.write(0, name, NEW[name])
    if learner.takes_effect(name) != "live":
        assert learner.read(0, name) == pytest.approx(start(role)[name])
        learner.begin()
    assert learner.read(0, name) == pytest.approx(NEW[name])
    assert learner.weights_hash(0) == before
    assert learner.stored(0) == (512 if name == "buffer_size" else stored)


@pytest.mark.parametrize(("role", "name"), EVERY_KEY)
def test_a_written_value_changes_what_is_done_next(role: Role, name: str) -> None:
    done = []
    for value in (start(role)[name], NEW[name]):
        short: Values = {"exploration_fraction": 0.02} if name == "exploration_final_eps" else {}
        learner = train(population(role, short), 0 if name.startswith("exploration") else 2)
        if name == "buffer_size":
            train(learner, 1)
        learner.write(0, name, value)
        train(learner, 2 if name == "gae_lambda" else 1)
        done.append(learner.weights_hash(0))
    assert done[0] != done[1]


@pytest.mark.parametrize(("role", "name"), [("ethical", "target_kl"), ("resource", "actor_learning_rate")])
def test_what_may_be_none_is_read_back_as_none(role: Role, name: str) -> None:
    learner = population(role, {name: NEW[name]})
    learner.write(0, name, None)
    assert learner.read(0, name) is None


@every_role
def test_an_evaluation_repeats_and_estimates_the_exact_score(role: Role) -> None:
    learner = train(population(role, {}, {}), 3)
    assert torch.equal(learner.evaluate(5, [7, 8]), learner.evaluate(5, [7, 8]))
    exact = learner.exact_score()
    assert exact is not None
    assert torch.allclose(learner.evaluate(300, [1, 2]).double(), exact.double(), atol=0.15)


@every_role
def test_the_behaviour_of_an_episode_is_scored_on_the_same_scale(role: Role) -> None:
    learner = population(role, *[{"learning_rate": 1e-6}] * 8)
    found = torch.stack([learner.episode() for _ in range(3)])
    assert found.shape == (3, 8)
    assert float(found.max()) < 1.0
    assert float(found.min()) > -8.0


def test_a_game_role_cannot_be_played_by_an_algorithm_of_other_actions() -> None:
    with pytest.raises(ValueError, match=r"ddpg learns Continuous actions; policy has Discrete\(n=4\)"):
        ALGORITHMS["ddpg"](RoleEnvironment("policy"), [Lane(0, dict(DECLARED["ddpg"].game_defaults))])


@pytest.mark.slow
def test_an_actor_critic_also_learns_to_choose_numbers() -> None:
    values: Values = {**DECLARED["ppo"].game_defaults, "ent_coef": 0.0}
    learner = ALGORITHMS["ppo"](RoleEnvironment("resource"), [Lane(seed, values) for seed in range(4)])
    before = learner.exact_score()
    train(learner, 60)
    after = learner.exact_score()
    assert before is not None
    assert after is not None
    assert float((after - before).min()) > 0.3


@pytest.mark.parametrize("steps", [5, 24, 48])
@pytest.mark.parametrize("role", ["consensus", "ethical"])
def test_a_rollout_need_not_end_with_an_episode(role: Role, steps: int) -> None:
    learner = train(population(role, {"n_steps": steps}), 3)
    done = 3 * 32 // steps
    per_rollout = 1 if role == "consensus" else 2 * math.ceil(steps * 16 / 128)
    assert learner.gradient_steps(0) == done * per_rollout
    assert learner.stored(0) == 3 * 32 % steps * 16


def test_a_lane_that_is_refilled_in_the_middle_of_a_rollout_learns_only_from_whole_ones_of_its_own() -> None:
    learner = train(population("consensus", {"n_steps": 24}, {"n_steps": 24}), 1)
    learner.refill(1, Lane(9, start("consensus", n_steps=24)))
    fresh = learner.weights_hash(1)
    learner.begin()
    for _ in range(16):  # the rollout that the old trial began ends here
        learner.step()
    assert learner.gradient_steps(0) == 2
    assert learner.weights_hash(1) == fresh


def test_target_kl_ends_the_gradient_steps_of_one_member_alone() -> None:
    learner = train(population("ethical", {"target_kl": 1e-6}, {}, {"target_kl": 10.0}), 2)
    assert learner.gradient_steps(1) == learner.gradient_steps(2) == 16
    assert 0 < learner.gradient_steps(0) < 16


def test_no_gradient_step_is_made_before_learning_starts() -> None:
    for role in ("policy", "resource"):
        learner = train(population(role, {"learning_starts": 33 * 16}), 1)
        assert learner.gradient_steps(0) == 0
        learner.episode()
        assert learner.gradient_steps(0) == 31


def test_rounds_of_gradient_steps_are_as_many_and_as_far_apart_as_asked() -> None:
    for role in ("policy", "resource"):
        counts = []
        for values in ({"train_freq": 2}, {"gradient_steps": 3}, {"train_freq": 5}):
            learner = train(population(role, values), 1)
            before = learner.gradient_steps(0)
            learner.episode()
            counts.append(learner.gradient_steps(0) - before)
        assert counts == [16, 96, 6]


@every_role
def test_single_precision_follows_double_precision(role: Role) -> None:
    kind, lanes = ALGORITHMS[GAME_ROLES[role]], [Lane(3, start(role))]
    single = kind(RoleEnvironment(role), lanes)
    double = kind(RoleEnvironment(role, torch.float64), lanes)
    train(single, 1)
    train(double, 1)
    assert torch.allclose(weights(single, 0).double(), weights(double, 0), atol=1e-4)


@pytest.mark.slow
@every_role
def test_it_learns_with_the_games_defaults_and_not_with_a_bad_learning_rate(role: Role) -> None:
    game: Values = dict(DECLARED[GAME_ROLES[role]].game_defaults)
    lanes = [Lane(seed, game) for seed in range(10)] + [Lane(seed, {**game, "learning_rate": 1e-6}) for seed in range(5)]
    score = train(ALGORITHMS[GAME_ROLES[role]](RoleEnvironment(role), lanes), 50).exact_score()
    assert score is not None
    assert float((score[:10] >= 0.5).double().mean()) >= 0.8
    assert float(score[10:].median()) < 0.2

