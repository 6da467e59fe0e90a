"""The coordination game against its published fingerprint, to six digits."""

import pytest
import torch
from torch import Tensor

from tars.agents.game import (
    ACTIONS,
    HORIZON,
    OUTCOMES,
    ROLES,
    STATES,
    TICKS,
    Joint,
    Role,
    adequacy,
    coordination_game,
)

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
    for m in (0.0, 0.3, 1.0):
        chance = game.outcome.at(torch.tensor(m, dtype=torch.float64))
        assert bool((chance >= -1e-12).all())
        assert torch.allclose(chance.sum(-1), torch.ones_like(chance[..., 0]))


def any_joint(seed: int) -> Joint:
    """Four stochastic policies, and a capacity for each state."""
    random = torch.Generator().manual_seed(seed)
    chances = [torch.rand(STATES, n, generator=random, dtype=torch.float64).pow(3) for n in ACTIONS.values()]
    policy, consensus, ethical = (chance / chance.sum(1, keepdim=True) for chance in chances)
    return Joint(policy, consensus, ethical, torch.rand(STATES, generator=random, dtype=torch.float64))


def occupancy(joint: Joint) -> Tensor:
    """[S]: the share of an episode spent in each state, followed forward from where episodes start."""
    game = coordination_game()
    outcomes, _ = game.faced("policy", joint)
    outcome = torch.einsum("sa,sao->os", joint.policy, outcomes)
    now = torch.bincount(game.start, minlength=STATES).double() / len(game.start)
    spent = torch.zeros_like(now)
    for _ in range(HORIZON):
        spent += now / HORIZON
        moved = (now * outcome)[..., None].expand(len(OUTCOMES), STATES, TICKS) / TICKS
        now = torch.zeros_like(now).index_add(0, game.successor.reshape(-1), moved.reshape(-1))
    return spent


def costs_of(role: Role, joint: Joint) -> Tensor:
    """Mean conflicts and latency a step [2], from what one role's own actions bring about."""
    game = coordination_game()
    brought = game.costs(role, joint)
    if role == "resource":
        each = brought.at(adequacy(game.need, joint.resource).view(-1, 1, 1))[:, 0]
    else:
        each = torch.einsum("sa,san->sn", joint[ROLES.index(role)], brought.base)
    return occupancy(joint) @ each


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("role", ROLES)
def test_what_a_roles_actions_cost_sums_up_to_the_conflicts_and_latency_of_the_joint_play(
    role: Role, seed: int
) -> None:
    joint = any_joint(seed)
    play = coordination_game().assess(joint)
    exact = [sum(play.conflicts.values()), play.latency]
    assert costs_of(role, joint).tolist() == pytest.approx(exact, rel=1e-9)


def test_only_what_an_action_can_help_costs_more_or_less_by_it() -> None:
    """Policy and ethical cannot change the latency of a step, nor resource; an escalation adds 0.15 to it."""
    game = coordination_game()
    joint = any_joint(7)
    policy, consensus, ethical = (game.costs(role, joint).base[..., 1] for role in ROLES[:3])
    assert torch.allclose(policy, policy[:, :1])
    assert torch.allclose(ethical, ethical[:, :1])
    assert torch.allclose(consensus - consensus[:, :1], torch.tensor([0, 0, 0.15], dtype=torch.float64))
    assert not bool(game.costs("resource", joint).slope[..., 1].any())


def test_resource_can_only_ease_conflicts_by_giving_more() -> None:
    assert float(coordination_game().costs("resource", any_joint(7)).slope[..., 0].max()) < 0
