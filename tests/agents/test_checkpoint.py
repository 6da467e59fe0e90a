"""A lane as bytes: what it learns afterwards is what it would have learnt, and bytes that are none are refused."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from tars.agents import checkpoint
from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.checkpoint import BadSnapshot
from tars.agents.environments import RoleEnvironment
from tars.agents.game import Role
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value

torch.set_num_threads(1)
ROLES: tuple[Role, ...] = ("policy", "consensus", "ethical", "resource")
LESS: dict[str, dict[str, Value]] = {
    "dqn": {"batch_size": 8, "buffer_size": 1024, "learning_starts": 32},
    "a2c": {},
    "ppo": {"n_epochs": 2},
    "ddpg": {"batch_size": 8, "buffer_size": 1024, "learning_starts": 32},
}


def population(role: Role, *seeds: int) -> Population:
    name = GAME_ROLES[role]
    values = {**DECLARED[name].game_defaults, **LESS[name]}
    return ALGORITHMS[name](RoleEnvironment(role), [Lane(seed, values) for seed in seeds])


def trained(role: Role, *seeds: int, episodes: int) -> Population:
    found = population(role, *seeds)
    for _ in range(episodes):
        found.episode()
    return found


@pytest.mark.parametrize("role", ["policy", *(pytest.param(role, marks=pytest.mark.slow) for role in ROLES[1:])])
def test_a_lane_that_is_restored_among_strangers_makes_the_same_next_hundred_gradient_steps(role: Role) -> None:
    taken = trained(role, 1, 2, 3, episodes=3)
    data = checkpoint.dump(taken, 1, transitions=True)
    other = trained(role, 7, 8, 9, episodes=2)
    checkpoint.restore(other, 2, data)
    assert other.weights_hash(2) == taken.weights_hash(1)
    assert other.gradient_steps(2) == taken.gradient_steps(1)
    before = taken.gradient_steps(1)
    while taken.gradient_steps(1) < before + 100:
        taken.episode()
        other.episode()
    assert other.weights_hash(2) == taken.weights_hash(1)


@pytest.mark.parametrize("role", ROLES)
def test_the_exported_policy_is_a_plain_network_that_acts_alike(role: Role) -> None:
    learner = trained(role, 1, 2, episodes=2)
    network = learner.policy(1)
    network.load_state_dict(checkpoint.sequential(learner, 1))
    environment = learner.environment
    assert isinstance(environment, RoleEnvironment)
    states = environment.every_state()
    with torch.no_grad():
        plain = network(environment.observe(states)[0])
        ours = learner.greedy(states.expand(2, -1, -1))[1]
    assert torch.allclose(plain, ours, atol=1e-6) if role == "resource" else torch.equal(plain.argmax(-1), ours)


def test_a_snapshot_says_what_it_is_of_and_holds_no_transitions_unless_asked() -> None:
    learner = trained("policy", 1, episodes=1)
    snapshot = checkpoint.parse(checkpoint.dump(learner, 0))
    assert (snapshot.algorithm, snapshot.environment) == ("dqn", "policy")
    assert snapshot.hyperparameters["batch_size"] == 8
    assert "transitions" not in snapshot.tensors
    assert checkpoint.dump(learner, 0) == checkpoint.dump(learner, 0)


def test_another_learners_snapshot_is_refused_and_changes_nothing() -> None:
    data = checkpoint.dump(trained("ethical", 1, episodes=1), 0)
    learner = trained("policy", 1, episodes=1)
    before = learner.weights_hash(0)
    with pytest.raises(BadSnapshot, match="a snapshot of ppo in ethical does not fit dqn in policy"):
        checkpoint.restore(learner, 0, data)
    wide = checkpoint.parse(checkpoint.dump(learner, 0)).tensors
    wide["parameters.online"] = torch.zeros(5)
    about = {"format": checkpoint.FORMAT, "algorithm": "dqn", "environment": "policy", "hyperparameters": {}}
    with pytest.raises(BadSnapshot, match=r"parameters.online is \(5,\), not"):
        checkpoint.restore(learner, 0, save(wide, {"tars": json.dumps(about)}))
    assert learner.weights_hash(0) == before


@given(st.binary(max_size=200))
def test_bytes_that_are_no_snapshot_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(BadSnapshot, match="no snapshot"):
        checkpoint.parse(data)


def about(**changes: object) -> bytes:
    said = {"format": checkpoint.FORMAT, "algorithm": "dqn", "environment": "policy", "hyperparameters": {}, **changes}
    return save({"x": torch.zeros(1)}, {"tars": json.dumps(said)})


@pytest.mark.parametrize(
    "data",
    [
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        save({"x": torch.zeros(1)}, {"tars": "[" * 100_000}),
        about(algorithm=["dqn"]),
        about(environment=None),
    ],
    ids=["deep", "deep within", "a list for a name", "no name"],
)
def test_a_header_that_means_harm_is_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(BadSnapshot, match="no snapshot"):
        checkpoint.parse(data)


def test_a_newer_format_is_refused_by_name() -> None:
    data = save({"x": torch.zeros(1)}, {"tars": json.dumps({"format": "tars.lane.v9"})})
    with pytest.raises(BadSnapshot, match=r"'tars.lane.v9' cannot be read"):
        checkpoint.parse(data)
