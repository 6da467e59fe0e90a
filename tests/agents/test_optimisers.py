"""Adam over members against torch's own, one optimiser for each member."""

import torch

from tars.agents.adam import Adam


def test_every_member_moves_as_torchs_adam_would_move_it_alone() -> None:
    torch.manual_seed(0)
    rates, steps = torch.tensor([1e-3, 1e-2, 3e-4], dtype=torch.float64), 25
    parameters = torch.randn(3, 7, dtype=torch.float64)
    alone = [row.clone().requires_grad_() for row in parameters]
    oracles = [torch.optim.Adam([row], lr=float(rate)) for row, rate in zip(alone, rates, strict=True)]
    ours, no_limit = Adam(parameters), torch.full((3,), 1e9, dtype=torch.float64)
    for _ in range(steps):
        gradient = torch.randn(3, 7, dtype=torch.float64)
        for row, oracle, g in zip(alone, oracles, gradient, strict=True):
            row.grad = g.clone()
            oracle.step()
        ours.step(gradient, rates, no_limit, None)
    assert torch.allclose(parameters, torch.stack([row.detach() for row in alone]), atol=1e-12)


def test_a_long_gradient_is_shortened_as_torch_shortens_it() -> None:
    gradient = torch.randn(2, 5, dtype=torch.float64) * 10
    expected = gradient.clone()
    for row, longest in zip(expected, (1.0, 1e9), strict=True):
        leaf = torch.zeros_like(row, requires_grad=True)
        leaf.grad = row
        torch.nn.utils.clip_grad_norm_([leaf], longest)
    optimiser = Adam(torch.zeros(2, 5, dtype=torch.float64))
    optimiser.step(gradient, torch.ones(2, dtype=torch.float64), torch.tensor([1.0, 1e9], dtype=torch.float64), None)
    assert torch.allclose(gradient, expected, atol=1e-9)


def test_a_member_that_is_not_active_is_left_exactly_as_it_is() -> None:
    parameters = torch.randn(2, 4)
    before, optimiser = parameters.clone(), Adam(parameters)
    limits = torch.full((2,), 10.0)
    for _ in range(3):
        optimiser.step(torch.randn(2, 4), torch.full((2,), 1e-2), limits, torch.tensor([True, False]))
    assert not torch.equal(parameters[0], before[0])
    assert torch.equal(parameters[1], before[1])
    assert optimiser.steps.tolist() == [3, 0]
