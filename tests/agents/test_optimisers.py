"""Adam and RMSProp over members against torch's own, one optimiser for each member."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tars.agents.optimisers import Adam, Optimiser, RMSProp

RATES = torch.tensor([1e-3, 1e-2, 3e-4], dtype=torch.float64)
Ours = Callable[[Tensor], Optimiser]
Theirs = Callable[[Tensor, float], torch.optim.Optimizer]
KINDS: list[tuple[Ours, Theirs]] = [
    (Adam, lambda row, rate: torch.optim.Adam([row], lr=rate)),
    (lambda flat: Adam(flat, 1e-5), lambda row, rate: torch.optim.Adam([row], lr=rate, eps=1e-5)),
    (lambda flat: RMSProp(flat, 0.9, 1e-5), lambda row, rate: torch.optim.RMSprop([row], lr=rate, alpha=0.9, eps=1e-5)),
]
every_kind = pytest.mark.parametrize(("make", "oracle"), KINDS, ids=["Adam", "Adam with epsilon 1e-5", "RMSProp"])


@every_kind
def test_every_member_moves_as_torchs_optimiser_would_move_it_alone(make: Ours, oracle: Theirs) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(3, 7, dtype=torch.float64, generator=generator)
    alone = [row.clone().requires_grad_() for row in parameters]
    oracles = [oracle(row, float(rate)) for row, rate in zip(alone, RATES, strict=True)]
    ours = make(parameters)
    for step in range(25):
        gradient = torch.randn(3, 7, dtype=torch.float64, generator=generator)
        active = torch.tensor([True, step % 3 > 0, step % 2 > 0])
        for row, each, g, moves in zip(alone, oracles, gradient, active, strict=True):
            row.grad = g.clone()
            if moves:
                each.step()
        ours.step(gradient, RATES, None if bool(active.all()) else active, None)
    assert torch.allclose(parameters, torch.stack([row.detach() for row in alone]), atol=1e-12)


@every_kind
def test_a_member_that_is_not_active_is_left_exactly_as_it_is(make: Ours, oracle: Theirs) -> None:
    parameters = torch.randn(2, 4)
    before, optimiser = parameters.clone(), make(parameters)
    for _ in range(3):
        optimiser.step(torch.randn(2, 4), torch.full((2,), 1e-2), torch.tensor([True, False]), None)
    assert not torch.equal(parameters[0], before[0])
    assert torch.equal(parameters[1], before[1])
    assert optimiser.steps.tolist() == [3, 0]
    assert all(bool((moment[1] == 0).all()) for moment in optimiser.moments().values())


@every_kind
def test_nothing_of_what_diverged_reaches_a_member_that_is_not_active(make: Ours, oracle: Theirs) -> None:
    parameters = torch.randn(2, 4)
    before, optimiser = parameters.clone(), make(parameters)
    for rate in (1e-2, torch.inf):
        gradient = torch.full((2, 4), torch.nan)
        optimiser.step(gradient, torch.tensor([1e-2, rate]), torch.tensor([True, False]), torch.ones(2))
    assert torch.equal(parameters[1], before[1])
    assert bool(parameters[0].isnan().all())


def test_a_long_gradient_is_shortened_as_torch_shortens_it() -> None:
    gradient = torch.randn(2, 5, dtype=torch.float64) * 10
    expected = gradient.clone()
    for row, longest in zip(expected, (1.0, 1e9), strict=True):
        leaf = torch.zeros_like(row, requires_grad=True)
        leaf.grad = row
        torch.nn.utils.clip_grad_norm_([leaf], longest)
    optimiser, rates = Adam(torch.zeros(2, 5, dtype=torch.float64)), torch.ones(2, dtype=torch.float64)
    optimiser.step(gradient, rates, None, torch.tensor([1.0, 1e9], dtype=torch.float64))
    assert torch.allclose(gradient, expected, atol=1e-9)


def test_a_member_that_is_reset_moves_as_a_new_one() -> None:
    parameters = torch.zeros(2, 3)
    optimiser = Adam(parameters)
    optimiser.step(torch.ones(2, 3), torch.ones(2), None, None)
    optimiser.reset(1)
    parameters[1] = 0
    optimiser.step(torch.full((2, 3), 0.5), torch.ones(2), None, None)
    fresh = torch.zeros(2, 3)
    Adam(fresh).step(torch.full((2, 3), 0.5), torch.ones(2), None, None)
    assert torch.equal(parameters[1], fresh[1])
