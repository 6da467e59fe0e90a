"""Every declared hyperparameter is written, read back and used at its moment, and nothing else changes."""

import functools
from typing import Final

import pytest
import torch

from learners import A2C, DDPG, DQN, NEW, PLAYERS, PPO, Learner, every_player, train
from tars.agents.algorithm import Population
from tars.schemas.hyperparameters import Value, same

torch.set_num_threads(1)
WRITTEN_AT: Final = 2
"""Gradient steps of an episode that are done when a live value is written, in the middle of a PPO rollout."""
UNEVEN: Final[dict[str, dict[str, Value]]] = {"a2c": {"n_steps": 5}, "ppo": {"n_steps": 24}}
"""Rollouts that are in progress when an episode ends."""


def keys(*moments: str) -> pytest.MarkDecorator:
    """Every declared key of every algorithm that takes effect at one of these moments."""
    found = [
        (player, name)
        for player in PLAYERS
        for name in player.names
        if player.kind.DECLARED[name].takes_effect["ours"] in moments
    ]
    ids = [f"{player.algorithm}-{name}" for player, name in found]
    return pytest.mark.parametrize(("player", "name"), found, ids=ids)


def learnt(population: Population) -> dict[str, torch.Tensor]:
    """Parameters and optimisers of a population's only lane."""
    return {n: t for n, t in population.snapshot(0).items() if n.startswith(("parameters", "optimiser"))}


@keys("live", "boundary", "rebuild")
def test_a_written_value_is_read_back_from_its_moment_on_and_what_was_learnt_stays(player: Learner, name: str) -> None:
    population = train(player.population(UNEVEN.get(player.algorithm, {})), 2)
    before, weights, rows = population.read(0, name), learnt(population), population.remembered(0)
    population.write(0, name, NEW[name])
    if population.takes_effect(name) != "live":
        assert same(population.read(0, name), before)
        population.begin()
    assert same(population.read(0, name), NEW[name])
    assert all(torch.equal(tensor, weights[part]) for part, tensor in learnt(population).items())
    assert len(rows) == population.stored(0) if name != "buffer_size" else population.stored(0) == 512 < len(rows)
    assert torch.equal(population.remembered(0), rows[-population.stored(0) :])


@functools.cache
def weights_of_an_episode(player: Learner, name: str | None = None) -> tuple[str, ...]:
    """The hash before each gradient step of a second episode, and after it, if `name` was written in its middle."""
    population, found = train(player.population({}), 1), list[str]()

    def look() -> None:
        found.append(population.weights_hash(0))
        if name is not None and len(found) == WRITTEN_AT + 1:
            population.write(0, name, NEW[name])

    population.between = look
    population.episode()
    return (*found, population.weights_hash(0))


@keys("live")
def test_a_live_value_is_used_by_the_gradient_step_before_which_it_was_written(player: Learner, name: str) -> None:
    without, changed = weights_of_an_episode(player), weights_of_an_episode(player, name)
    assert changed[: WRITTEN_AT + 1] == without[: WRITTEN_AT + 1]
    assert changed[WRITTEN_AT + 1] != without[WRITTEN_AT + 1]


@keys("boundary", "rebuild")
def test_another_value_is_used_in_the_next_episode_and_not_before(player: Learner, name: str) -> None:
    fresh = name.startswith("exploration")  # what it decides is over when exploration has fallen
    changes: dict[str, Value] = {"exploration_fraction": 0.01} if name == "exploration_final_eps" else {}
    hashes = []
    for value in (player.values(**changes)[name], NEW[name]):
        population = player.population(changes)
        population.begin()
        if not fresh:
            population.write(0, name, value)
        while population.step():
            continue
        hashes.append(population.weights_hash(0))
        if fresh:
            population.write(0, name, value)
        hashes.append(train(population, 2).weights_hash(0))
    assert hashes[0] == hashes[2]
    assert hashes[1] != hashes[3]


@pytest.mark.parametrize("player", PLAYERS, ids="-".join)
def test_a_value_takes_effect_when_its_declaration_says(player: Learner) -> None:
    declared = player.kind.DECLARED
    assert {name: player.kind.takes_effect(name) for name in player.names} == {
        hyperparameter.name: hyperparameter.takes_effect["ours"] for hyperparameter in declared.hyperparameters
    }
    assert {name for name in declared.names if declared[name].structural} - {"learning_starts"} == set(
        player.kind.STRUCTURE
    )
    with pytest.raises(KeyError, match="gama"):
        player.population({}).write(0, "gama", 0.9)


@pytest.mark.parametrize(
    ("player", "name"), [(PPO, "target_kl"), (DDPG, "actor_learning_rate"), (DDPG, "critic_learning_rate")]
)
def test_what_may_be_none_is_read_back_as_none_and_computed_with_as_none(player: Learner, name: str) -> None:
    first, other = player.population({name: NEW[name]}), player.population({})
    first.write(0, name, None)
    assert first.read(0, name) is other.read(0, name) is None
    assert train(first, 2).weights_hash(0) == train(other, 2).weights_hash(0)


def test_a_longer_exploration_is_seen_in_what_is_done() -> None:
    """Actions of an episode that differ from the greedy ones of a network that does not learn."""
    shares = []
    for share in (0.0, 0.5, 1.0):
        values: dict[str, Value] = {"exploration_initial_eps": share, "exploration_final_eps": share}
        population = DQN.population({**values, "learning_starts": 0, "learning_rate": 0.0})
        train(population, 1)
        population.begin()
        rows = population.remembered(0)[-512:]
        greedy = population.greedy(rows[None, :, :1])[0]
        shares.append(float((greedy != rows[:, 2].long()).double().mean()))
    assert shares == pytest.approx([0.0, 0.5 * 3 / 4, 3 / 4], abs=0.06)


def test_a_structural_value_of_many_lanes_cannot_be_written() -> None:
    for player in (DQN, A2C, PPO, DDPG):
        population = player.population({}, {})
        for name in player.kind.STRUCTURE:
            with pytest.raises(ValueError, match=f"{name} is shared by all lanes"):
                population.write(0, name, NEW[name])


@pytest.mark.parametrize("player", PLAYERS, ids="-".join)
def test_a_value_that_is_no_number_of_its_type_is_refused_when_it_is_written(player: Learner) -> None:
    population = player.population({})
    whole = player.kind.STRUCTURE[0]
    for name, value in (("gamma", True), ("gamma", None), (whole, True), (whole, None), (whole, 16.5)):
        with pytest.raises(ValueError, match=name):
            population.write(0, name, value)
    population.episode()


@every_player
@pytest.mark.parametrize("member", [-1, 2])
def test_a_value_for_a_lane_that_is_not_there_is_refused_and_spoils_no_later_episode(
    player: Learner, member: int
) -> None:
    population = player.population({}, {})
    for name in ("learning_rate", *(n for n in player.names if player.kind.takes_effect(n) == "boundary")):
        with pytest.raises(IndexError, match=f"no lane {member} among 2"):
            population.write(member, name, NEW[name])
    population.episode()
