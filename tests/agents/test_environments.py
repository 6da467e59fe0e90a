"""The environment samples what the game computes exactly."""

import pytest
import torch
from torch import Tensor

from tars.agents.environments import DRAWS, RoleEnvironment
from tars.agents.game import ACTIONS, ROLES, STATES, Role, coordination_game

LANES, COPIES = 2, 10_000
"""The mean reward per step spreads by 0.32 in one copy, so by 0.0022 in all: tolerances are four times that."""


def _play(environment: RoleEnvironment, actions: Tensor) -> tuple[Tensor, Tensor, float]:
    """An episode of a policy [S] in many copies: states and actions visited, and the mean reward per step."""
    generator = torch.Generator().manual_seed(7)
    state = environment.start(torch.rand(LANES, COPIES, generator=generator))
    states, taken, total = [], [], 0.0
    for _ in range(environment.horizon):
        action = actions[state]
        states.append(state)
        taken.append(action)
        state, reward = environment.step(state, action, torch.rand(DRAWS, LANES, COPIES, generator=generator))
        total += float(reward.mean())
    return torch.stack(states), torch.stack(taken), total / environment.horizon


@pytest.mark.parametrize("role", ACTIONS)
def test_sampled_episodes_are_worth_what_dynamic_programming_says(role: Role) -> None:
    actions = coordination_game().reference[ROLES.index(role)].argmax(1)
    _, _, found = _play(RoleEnvironment(role), actions)
    assert found == pytest.approx(float(coordination_game().value(role, actions[None])[0]), abs=0.009)


def test_what_an_episode_amounted_to_is_told_for_all_four_roles() -> None:
    environment, game = RoleEnvironment("policy"), coordination_game()
    actions = game.reference.policy.argmax(1)
    states, taken, _ = _play(environment, actions)
    played, exact = environment.played(states, taken), game.assess(game.reference)
    assert played.scores == pytest.approx(dict(exact.scores), abs=0.04)
    assert played.conflicts == pytest.approx(dict(exact.conflicts), abs=0.003)
    assert played.latency == pytest.approx(exact.latency, abs=0.005)


def test_an_observation_shows_the_four_coordinates_of_a_state() -> None:
    environment = RoleEnvironment("policy")
    seen = environment.observe(environment.every_state())[0]
    assert seen.shape == (STATES, environment.features)
    assert seen.sum(1).tolist() == [4.0] * STATES
    assert len({tuple(row) for row in seen.tolist()}) == STATES


def test_a_role_without_discrete_actions_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="resource has no discrete actions"):
        RoleEnvironment("resource")
