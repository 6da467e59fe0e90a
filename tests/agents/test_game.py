"""The coordination game against its published fingerprint, to six digits."""

import pytest
import torch

from tars.agents.environments import RoleEnvironment
from tars.agents.game import HORIZON, ROLES, STATES, Role, coordination_game
from tars.agents.random_streams import RandomStreams

FINGERPRINT: dict[Role, tuple[float, float]] = {
    "policy": (-0.106336, 0.126357),
    "consensus": (-0.102387, 0.094117),
    "ethical": (-0.167183, 0.157421),
    "resource": (-0.136817, 0.170848),
}


@pytest.mark.parametrize("role", ROLES)
def test_best_constant_and_best_response_are_what_they_were_measured_to_be(role: Role) -> None:
    low, high = coordination_game().scales[role]
    assert (low, high) == pytest.approx(FINGERPRINT[role], abs=5e-7)


def test_the_reference_play_has_the_known_nash_conv_conflicts_and_latency() -> None:
    game = coordination_game()
    play = game.assess(game.reference)
    assert play.nash_conv == pytest.approx(0.872597, abs=5e-7)
    assert sum(play.conflicts.values()) == pytest.approx(0.060, abs=5e-4)
    assert play.latency == pytest.approx(0.127, abs=5e-4)


def test_outcomes_are_probabilities_in_every_state_for_every_joint_action() -> None:
    game = coordination_game()
    for adequacy in (0.0, 0.3, 1.0):
        chance = game.outcome.at(torch.tensor(adequacy, dtype=torch.float64))
        assert bool((chance >= -1e-12).all())
        assert torch.allclose(chance.sum(-1), torch.ones_like(chance[..., 0]))


def test_what_is_played_has_the_mean_that_dynamic_programming_says() -> None:
    environment, game = RoleEnvironment("policy", torch.float64), coordination_game()
    copies = 20_000
    chance = RandomStreams([0]).uniform(HORIZON + 1, 2, copies).double()
    demand = game.demand
    state, total = environment.start(chance[-1][:, 0]), torch.zeros(1, dtype=torch.float64)
    for draws in chance[:-1].transpose(1, 2):
        state, reward = environment.step(state, demand[state], draws)
        total += reward.mean(1)
    assert float(total / HORIZON) == pytest.approx(float(game.value("policy", demand[None])), abs=0.004)


def test_all_roles_scores_of_a_reference_play_are_their_exact_scores() -> None:
    environment, game = RoleEnvironment("policy"), coordination_game()
    action = game.reference.policy.argmax(1)
    exact = game.assess(game.reference).scores
    states = torch.arange(STATES)
    played = environment.played(states, action[states])
    assert set(played.scores) == set(exact)
    assert played.conflicts["veto"] >= 0
