"""P multilayer perceptrons as one: every layer is a batched matrix product over the member axis.

All parameters of all members lie in one tensor `flat` [P, n], of which each layer is a view. So an optimiser is a dozen
operations on one tensor, whatever the depth, and a snapshot is a copy. Losses are differentiated by torch down to what
the networks gave; from there the chain rule writes every layer's gradient into its place in one tensor [P, n].
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Literal

import torch
from torch import Tensor, nn

Layer = tuple[Tensor, Tensor]
"""Weights [P, in, out] and biases [P, 1, out]."""
Activation = Literal["relu", "tanh"]
FEW: Final = 1 << 11
"""Numbers of which one call of torch's tanh costs less than two calls of something faster."""
NARROW: Final = 16
"""Outputs below which a product is up to five times as fast with rows and columns exchanged, unless it is small."""
SMALL: Final = 1 << 13
"""Numbers of which a product takes less time than it takes to exchange anything."""
_MINUS_ONE: Final = torch.tensor(-1.0)
_MODULES: Final[dict[Activation, type[nn.Module]]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def parameter_count(sizes: Sequence[int]) -> int:
    """Return n, the parameters of one member with these layer sizes."""
    return sum(i * o + o for i, o in pairwise(sizes))


class Networks:
    """Members' networks of the same sizes over `flat` [P, n]; what `flat` has beyond their layers is `extra` [P, rest].

    `extra` are parameters that no input reaches, as the logarithm of a Gaussian policy's deviation. Of the members the
    first `learning` learn (None: all do); the others are targets, which go through the layers with them.
    """

    def __init__(
        self, flat: Tensor, sizes: Sequence[int], activation: Activation = "relu", learning: int | None = None
    ) -> None:
        self.flat, self.sizes, self.activation = flat, tuple(sizes), activation
        self.layers = _layers(flat, sizes)
        self.extra = flat[:, parameter_count(sizes) :]
        self.tracked_extra = self.extra.detach().requires_grad_()
        self._learning = len(flat) if learning is None else learning
        self._gradient = torch.zeros_like(flat[: self._learning])
        self._gradients = _layers(self._gradient, sizes)
        self._passes: list[list[Tensor]] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        """[P, B, in] -> [P, B, out], with no gradient."""
        return self._forward(inputs)[-1]

    @torch.no_grad()
    def tracked(self, inputs: Tensor, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """[P, B, in] -> what `gradient` can differentiate [learning, rows, out], and everything [P, B, out].

        rows: how many of B, the first ones, learn; None: all do.
        """
        *given, found = self._forward(inputs)
        learns = slice(self._learning), slice(rows)
        self._passes.append([x[learns] for x in (*given, found)])
        return self._passes[-1][-1].requires_grad_(), found

    def gradient(self, loss: Tensor) -> Tensor:
        """Differentiate the sum of members' losses; no gradient crosses members. [P, n], overwritten by the next."""
        passes, self._passes = self._passes, []
        extra = [self.tracked_extra] if self.extra.shape[1] else []
        found = torch.autograd.grad(loss, [*(x[-1] for x in passes), *extra], torch.ones_like(loss))
        for number, given in enumerate(passes):
            before = self._gradient.clone() if number else None
            self._backward(given, found[number])
            if before is not None:
                self._gradient += before
        if extra:
            self._gradient[:, -self.extra.shape[1] :] = found[-1]
        return self._gradient

    def _forward(self, x: Tensor) -> list[Tensor]:
        """What each layer is given, and what the last one gives."""
        given, layer = [x], _relu if self.activation == "relu" else _tanh
        for weight, bias in self.layers[:-1]:
            given.append(layer(given[-1], weight, bias))
        return [*given, _product(given[-1], *self.layers[-1])]

    @torch.no_grad()
    def slope(self, inputs: Tensor, size: int) -> Tensor:
        """How the sum of outputs rises with each of the last `size` inputs: [P, B, in] -> [P, B, size]."""
        *given, found = self._forward(inputs)
        gradient = torch.ones_like(found)
        for number in reversed(range(1, len(self.layers))):
            gradient = self._behind(number, gradient, given[number])
        return _product(gradient, self.layers[0][0][:, -size:].mT)

    @torch.no_grad()
    def _backward(self, given: Sequence[Tensor], gradient: Tensor) -> None:
        """The chain rule, from the last layer to the first, of the parameters."""
        for number in reversed(range(len(self.layers))):
            _differentiate(self._gradients[number], given[number], gradient)
            if number:
                gradient = self._behind(number, gradient, given[number])

    def _behind(self, number: int, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient before a layer and the activation that gives x to it, of that behind the layer."""
        weight = self.layers[number][0][: len(gradient)]
        before = gradient * weight.mT if weight.shape[2] == 1 else torch.bmm(gradient, weight.mT)
        _UNDO[self.activation](before, x)
        return before

    def initialise(self, member: int, generator: torch.Generator, head: float | None = None) -> None:
        """Draw one member anew, evenly within 1/sqrt(inputs) as torch.nn.Linear does, the last layer within `head`."""
        for number, (weight, bias) in enumerate(self.layers, 1):
            bound = 1 / math.sqrt(weight.shape[1]) if head is None or number < len(self.layers) else head
            for parameter in (weight[member], bias[member]):
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
        self.extra[member] = 0

    def initialise_orthogonal(self, member: int, generator: torch.Generator, head: float) -> None:
        """Draw one member anew: orthogonal weights (Saxe et al. 2014) of gain sqrt 2, in the last layer `head`."""
        for number, (weight, bias) in enumerate(self.layers, 1):
            i, o = weight.shape[1:]
            q, r = torch.linalg.qr(torch.randn(max(i, o), min(i, o), generator=generator))
            q = q * r.diagonal().sign()  # without this, QR's sign convention would bias the draw
            weight[member] = ((q if i >= o else q.T) * (math.sqrt(2) if number < len(self.layers) else head)).to(weight)
            bias[member] = 0
        self.extra[member] = 0

    def sequential(self, member: int, outputs: int | None = None) -> nn.Sequential:
        """Copy one member into plain torch modules, with its first `outputs` outputs (None: all)."""
        modules: list[nn.Module] = []
        for number, (weight, bias) in enumerate(self.layers, 1):
            width = weight.shape[2] if number < len(self.layers) or outputs is None else outputs
            linear = nn.Linear(weight.shape[1], width, dtype=weight.dtype, device="cpu")
            linear.weight.data = weight[member, :, :width].T.cpu().clone()
            linear.bias.data = bias[member, 0, :width].cpu().clone()
            modules += [linear, _MODULES[self.activation]()]
        return nn.Sequential(*modules[:-1])


def _layers(flat: Tensor, sizes: Sequence[int]) -> list[Layer]:
    layers, at = [], 0
    for i, o in pairwise(sizes):
        weight, bias = flat[:, at : at + i * o], flat[:, at + i * o : at + i * o + o]
        layers.append((weight.view(-1, i, o), bias.view(-1, 1, o)))
        at += i * o + o
    return layers


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W + b."""
    outputs, large = weight.shape[2], x.numel() > SMALL
    if outputs == 1 and large:
        found = (x * weight.mT).sum(-1, keepdim=True)
    elif outputs < NARROW and large:
        found = torch.bmm(weight.mT.contiguous(), x.mT).mT
    else:
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
    return found if bias is None else found.add_(bias)


def _differentiate(into: Layer, x: Tensor, gradient: Tensor) -> None:
    """Gradients of W and b, of that of X W + b."""
    weight, bias = into
    if weight.shape[2] == 1 or (weight.shape[2] < NARROW and x.numel() > SMALL):
        weight.copy_(torch.bmm(gradient.mT, x).mT)
    elif weight.is_contiguous():
        torch.bmm(x.mT, gradient, out=weight)
    else:
        weight.copy_(torch.bmm(x.mT, gradient))  # torch would go into a gap after the other
    torch.sum(gradient, 1, keepdim=True, out=bias)


def _relu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The positive part of X W + b."""
    return torch.baddbmm(bias, x, weight).relu_()


def _undo_relu(gradient: Tensor, y: Tensor) -> None:
    torch.ops.aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient)


def _tanh(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tanh(X W + b); of many numbers as 2 sigmoid(2 z) - 1: within 1e-7 in single precision, at a sixth of the time."""
    if x.shape[0] * x.shape[1] * weight.shape[2] < FEW:
        return torch.baddbmm(bias, x, weight).tanh_()
    y = torch.baddbmm(bias, x, weight, beta=2, alpha=2).sigmoid_()
    return torch.add(_MINUS_ONE, y, alpha=2, out=y)


def _undo_tanh(gradient: Tensor, y: Tensor) -> None:
    torch.ops.aten.tanh_backward.grad_input(gradient, y, grad_input=gradient)


_UNDO: Final[dict[Activation, Callable[[Tensor, Tensor], None]]] = {"relu": _undo_relu, "tanh": _undo_tanh}
"""What multiplies a gradient, in place, by the activation's derivative, of what the activation gave."""
