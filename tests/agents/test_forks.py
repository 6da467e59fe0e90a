"""Lanes that go on from a live agent's snapshot: what they learn, what chance they have, and whom they play with."""

import pytest
import torch
from torch import Tensor

from learners import PLAYERS, Learner, Table, Values, every_player, train
from tars.agents import checkpoint
from tars.agents.algorithm import Lane, Population
from tars.agents.checkpoint import BadSnapshot, Snapshot
from tars.agents.environments import RoleEnvironment
from tars.agents.game import ROLES, STATES, Role, coordination_game

torch.set_num_threads(1)
UNEVEN: dict[str, Values] = {"a2c": {"n_steps": 5}, "ppo": {"n_steps": 24}}
"""Rollouts that are in progress when an episode ends."""


def forked(player: Learner, snapshot: Snapshot, *lanes: Values, seeds: tuple[int, ...]) -> Population:
    """Lanes of these changes that go on from a snapshot, each by its seed."""
    environment = RoleEnvironment(player.role, against=snapshot.partners_of(player.role))
    found = player.kind(environment, [Lane(99 + n, player.values(**changes)) for n, changes in enumerate(lanes)])
    for member, seed in enumerate(seeds):
        checkpoint.fork(found, member, snapshot, seed)
    return found


@every_player
def test_a_lane_with_the_live_agents_chance_makes_its_next_gradient_steps(player: Learner) -> None:
    table = Table()
    table.play(3)
    lane = player.population({}, seeds=(77,))
    checkpoint.restore(lane, 0, table.snapshot(player.role))
    live = table.players[player.role]
    before = live.gradient_steps(0)
    table.play(2, beside=(player.role, lane))
    assert lane.gradient_steps(0) == live.gradient_steps(0) > before
    assert lane.weights_hash(0) == live.weights_hash(0)


@every_player
def test_a_fork_begins_with_all_that_was_learnt_and_with_chance_of_its_seed_alone(player: Learner) -> None:
    table = Table()
    table.play(2)
    live, snapshot = table.players[player.role], checkpoint.parse(table.snapshot(player.role))
    crowd = forked(player, snapshot, {}, {"learning_rate": 1e-6}, {}, seeds=(5, 5, 6))
    assert [crowd.weights_hash(n) for n in range(3)] == [live.weights_hash(0)] * 3
    assert [crowd.gradient_steps(n) for n in range(3)] == [live.gradient_steps(0)] * 3
    assert crowd.read(1, "learning_rate") == pytest.approx(1e-6)
    crowd.begin()
    with torch.no_grad():
        same, other = crowd.act()[1], crowd.act()[2]
        assert torch.equal(crowd.act()[0], same)
    assert not torch.equal(same, other)
    while crowd.step():
        continue
    assert len({crowd.weights_hash(n) for n in range(3)}) == 3


@every_player
def test_a_fork_among_others_learns_what_it_learns_alone(player: Learner) -> None:
    table = Table()
    table.play(2)
    snapshot = checkpoint.parse(table.snapshot(player.role))
    crowd = train(forked(player, snapshot, {"gamma": 0.9}, {}, {"gamma": 0.8}, seeds=(5, 6, 7)), 2)
    alone = train(forked(player, snapshot, {}, seeds=(6,)), 2)
    for name, tensor in crowd.snapshot(1).items():
        if name.startswith("parameters"):
            assert torch.allclose(tensor, alone.snapshot(0)[name], atol=1e-5), name


@every_player
def test_a_fork_of_another_shape_of_training_goes_on_with_the_newest_transitions_that_fit(player: Learner) -> None:
    table = Table(UNEVEN)
    table.play(2)
    live, snapshot = table.players[player.role], checkpoint.parse(table.snapshot(player.role))
    changes: dict[str, Values] = {
        "dqn": {"batch_size": 16, "buffer_size": 512},
        "a2c": {"n_steps": 16},
        "ppo": {"n_steps": 8, "batch_size": 64},
        "ddpg": {"batch_size": 16, "buffer_size": 512},
    }
    assert live.stored(0) > 0
    crowd = forked(player, snapshot, *[changes[player.algorithm]] * 2, seeds=(1, 2))
    kept = 512 if player.kind.REPLAYS else 0
    assert crowd.stored(1) == kept
    assert torch.equal(crowd.remembered(1).flatten(), live.remembered(0)[live.stored(0) - kept :].flatten())
    before = crowd.gradient_steps(1)
    crowd.episode()
    assert crowd.gradient_steps(1) > before
    assert bool(crowd.finite().all())


def test_partners_do_what_they_did_when_the_snapshot_was_taken() -> None:
    table, game = Table(), coordination_game()
    table.play(2)
    for role in ROLES:
        wanted = game.joint(table.greedy())
        found = checkpoint.parse(table.snapshot(role)).partners_of(role)
        for other in ROLES:
            assert other == role or torch.equal(found[ROLES.index(other)], wanted[ROLES.index(other)])


@pytest.mark.parametrize(
    ("partners", "why"),
    [
        ({}, "does not say what those beside policy do"),
        ({"consensus": torch.zeros(STATES)}, "does not say what those beside policy do"),
        ({role: torch.zeros(7) for role in ROLES}, "does not say what those beside policy do"),
        ({role: torch.full((STATES,), 9) for role in ROLES}, "actions of partners that the game does not have"),
    ],
    ids=["none", "one", "of another game", "out of range"],
)
def test_partners_that_are_none_are_refused_with_the_reason(partners: dict[Role, Tensor], why: str) -> None:
    learner = PLAYERS[0].population({})
    snapshot = checkpoint.parse(checkpoint.dump(learner, 0, partners=partners))
    with pytest.raises(BadSnapshot, match=why):
        snapshot.partners_of("policy")


def test_transitions_of_another_learner_are_refused() -> None:
    learner = PLAYERS[0].population({})
    snapshot = checkpoint.parse(checkpoint.dump(learner, 0))
    snapshot.tensors["transitions"] = torch.zeros(5, 99)
    with pytest.raises(BadSnapshot, match=r"transitions of \(5, 99\) do not fit rows of 5 numbers"):
        checkpoint.fork(learner, 0, snapshot, 1)
