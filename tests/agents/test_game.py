"""The coordination game against its published fingerprint, to six digits."""

import pytest
import torch

from tars.agents.game import ROLES, Role, coordination_game

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
