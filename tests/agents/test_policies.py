"""Choices and Gaussians against torch.distributions, and their gradients."""

from typing import cast

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from tars.agents.policies import Choice, Gaussian, Policy


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def test_a_choice_is_a_categorical_distribution() -> None:
    logits = (draw(2, 7, 4) * 3).requires_grad_()
    action = torch.arange(14).view(2, 7) % 4
    ours, theirs = Choice(logits), cast("Policy", Categorical(logits=logits))
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-12)
    assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-12)
    assert torch.equal(ours.first(3).log_prob(action[:, :3]), ours.log_prob(action)[:, :3])
    gradients = [torch.autograd.grad((p.log_prob(action) + p.entropy()).sum(), logits)[0] for p in (ours, theirs)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-12)


def test_a_gaussian_is_a_product_of_normal_distributions() -> None:
    mean, log_deviation, action = draw(2, 7, 3).requires_grad_(), draw(2, 3).requires_grad_(), draw(2, 7, 3) + 1
    ours = Gaussian(mean, log_deviation)
    normal = Normal(mean, log_deviation.exp()[:, None].expand_as(mean))
    theirs = cast("Policy", Independent(normal, 1))
    assert torch.allclose(ours.log_prob(action), theirs.log_prob(action), atol=1e-12)
    assert torch.allclose(ours.entropy(), theirs.entropy(), atol=1e-12)
    assert torch.equal(ours.first(3).log_prob(action[:, :3]), ours.log_prob(action)[:, :3])
    gradients = [
        torch.autograd.grad((p.log_prob(action) + p.entropy()).sum(), (mean, log_deviation)) for p in (ours, theirs)
    ]
    for our, their in zip(*gradients, strict=True):
        assert torch.allclose(our, their, atol=1e-12)
