"""Adam and RMSProp over members: a learning rate, a step count and a longest gradient for each.

A member that is not active is left exactly as it is. The second moments of dead units decay into denormal numbers, of
which a square root is 25-50 times slower: a training thread calls `torch.set_flush_denormal(True)` first.
"""

from abc import ABC, abstractmethod
from typing import Final

import torch
from torch import Tensor

BETA_1: Final = 0.9
BETA_2: Final = 0.999
CORRECTED_STEPS: Final = 20_000
"""Beyond these, 1 - beta^t is 1 to the last digit of a float."""


class Optimiser(ABC):
    """Moves `parameters` [P, n] against their gradients."""

    def __init__(self, parameters: Tensor) -> None:
        self._parameters = parameters
        self._v, self._room = torch.zeros_like(parameters), torch.empty_like(parameters)
        self.steps = torch.zeros(len(parameters), dtype=torch.long, device=parameters.device)
        """[P]: gradient steps done."""

    def step(self, gradient: Tensor, learning_rate: Tensor, active: Tensor | None, longest: Tensor | None) -> None:
        """Move the parameters.

        gradient [P, n] (is overwritten); learning_rate, active (None: all are) and longest (None: no limit) [P].
        """
        if longest is not None:
            norm = torch.linalg.vector_norm(gradient, dim=1).add_(1e-6)
            gradient.mul_((longest / norm).clamp_(max=1)[:, None])
        if active is None:
            self.steps += 1
            self._move(gradient, learning_rate, None)
        else:
            self.steps += active
            gradient.masked_fill_(~active[:, None], 0)  # 0 * NaN is NaN: what diverged must not reach it
            self._move(gradient, learning_rate.where(active, 0), active.to(gradient)[:, None])

    @abstractmethod
    def _move(self, gradient: Tensor, learning_rate: Tensor, share: Tensor | None) -> None:
        """Update the moments by `share` [P, 1] of a step (None: a whole one), then the parameters."""

    def _average(self, moment: Tensor, new: Tensor, weight: float, share: Tensor | None) -> None:
        if share is None:
            moment.lerp_(new, weight)  # to the bit as below
        else:
            moment.lerp_(new, share * weight)

    @abstractmethod
    def moments(self) -> dict[str, Tensor]:
        """Everything it remembers of each member [P, ...], as the tensors themselves."""

    def reset(self, member: int) -> None:
        """Forget one member's past."""
        for moment in self.moments().values():
            moment[member] = 0


class Adam(Optimiser):
    """Kingma and Ba 2015, Algorithm 1."""

    def __init__(self, parameters: Tensor, epsilon: float = 1e-8) -> None:
        super().__init__(parameters)
        self._m = torch.zeros_like(parameters)
        t = torch.arange(CORRECTED_STEPS + 1, dtype=torch.float64).clamp_min(1)
        second = (1 - BETA_2**t).sqrt()
        # theta -= lr (m / (1 - beta1^t)) / (sqrt(v) / second + eps), both corrections looked up: 3 operations, not 9.
        self._corrections = torch.stack([-second / (1 - BETA_1**t), second * epsilon], 1)[..., None].to(parameters)

    def _move(self, gradient: Tensor, learning_rate: Tensor, share: Tensor | None) -> None:
        self._average(self._m, gradient, 1 - BETA_1, share)
        self._average(self._v, torch.mul(gradient, gradient, out=self._room), 1 - BETA_2, share)
        scale, epsilon = self._corrections.index_select(0, self.steps.clamp_max(CORRECTED_STEPS)).unbind(1)
        torch.sqrt(self._v, out=self._room).add_(epsilon)
        torch.div(self._m, self._room, out=self._room)
        self._parameters.addcmul_(self._room, scale * learning_rate[:, None])

    def moments(self) -> dict[str, Tensor]:
        """First and second moments, and the step count."""
        return {"m": self._m, "v": self._v, "steps": self.steps}


class RMSProp(Optimiser):
    """Hinton 2012, lecture 6e, as torch.optim.RMSprop computes it: epsilon outside of the square root."""

    def __init__(self, parameters: Tensor, smoothing: float = 0.99, epsilon: float = 1e-8) -> None:
        super().__init__(parameters)
        self._smoothing, self._epsilon = smoothing, epsilon

    def _move(self, gradient: Tensor, learning_rate: Tensor, share: Tensor | None) -> None:
        self._average(self._v, torch.mul(gradient, gradient, out=self._room), 1 - self._smoothing, share)
        torch.sqrt(self._v, out=self._room).add_(self._epsilon)
        torch.div(gradient, self._room, out=self._room)
        self._parameters.addcmul_(self._room, -learning_rate[:, None])

    def moments(self) -> dict[str, Tensor]:
        """The second moments, and the step count."""
        return {"v": self._v, "steps": self.steps}
