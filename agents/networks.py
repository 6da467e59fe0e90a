"""P multilayer perceptrons as one: every layer is a batched matrix product over the member axis.

All parameters of all members lie in one tensor `flat` [P, n], of which each layer is a view. So an optimiser is a dozen
operations on one tensor, whatever the depth, and a snapshot is a copy.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

Layer = tuple[Tensor, Tensor]
"""Weights [P, in, out] and biases [P, 1, out]."""


def parameter_count(sizes: Sequence[int]) -> int:
    """Return n, the parameters of one member with these layer sizes."""
    return sum(i * o + o for i, o in pairwise(sizes))


class Networks:
    """Members' networks of the same sizes over `flat` [P, n]; hidden layers are rectified linear."""

    def __init__(self, flat: Tensor, sizes: Sequence[int]) -> None:
        self.flat = flat
        self.layers = _layers(flat, sizes)
        self._leaves = [(w.detach().requires_grad_(), b.detach().requires_grad_()) for w, b in self.layers]

    def __call__(self, inputs: Tensor) -> Tensor:
        """[P, B, in] -> [P, B, out], without gradients."""
        return _forward(inputs, self.layers)

    def tracked(self, inputs: Tensor) -> Tensor:
        """[P, B, in] -> [P, B, out], so that `gradient` can differentiate it."""
        return _forward(inputs, self._leaves)

    def gradient(self, loss: Tensor) -> Tensor:
        """Differentiate a scalar; no gradient crosses members as long as `loss` is a sum of members' losses. [P, n]."""
        leaves = [parameter for layer in self._leaves for parameter in layer]
        return torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, leaves)], 1)

    def initialise(self, member: int, generator: torch.Generator) -> None:
        """Draw one member anew, uniformly within 1/sqrt(inputs) as torch.nn.Linear does."""
        for weight, bias in self.layers:
            bound = 1 / math.sqrt(weight.shape[1])
            for parameter in (weight[member], bias[member]):
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)


def _layers(flat: Tensor, sizes: Sequence[int]) -> list[Layer]:
    layers, at = [], 0
    for i, o in pairwise(sizes):
        weight, bias = flat[:, at : at + i * o], flat[:, at + i * o : at + i * o + o]
        layers.append((weight.view(-1, i, o), bias.view(-1, 1, o)))
        at += i * o + o
    return layers


def _forward(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    for weight, bias in layers[:-1]:
        x = torch.baddbmm(bias, x, weight).relu_()
    weight, bias = layers[-1]
    return torch.baddbmm(bias, x, weight)
