"""Adam (Kingma and Ba 2015, Algorithm 1) with a learning rate, a step count and a longest gradient for each member."""

from typing import Final

import torch
from torch import Tensor

BETA_1: Final = 0.9
BETA_2: Final = 0.999
EPSILON: Final = 1e-8
CORRECTED_STEPS: Final = 20_000
"""Beyond these, 1 - beta^t is 1 to the last digit of a float."""


class Adam:
    """The moments of `parameters` [P, n]; a member that is not active is left exactly as it is.

    The second moments of dead units decay into denormal numbers, of which a square root is 25-50 times slower: a
    training thread calls `torch.set_flush_denormal(True)` first.
    """

    def __init__(self, parameters: Tensor) -> None:
        self._parameters = parameters
        self._m, self._v = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._room = torch.empty_like(parameters)
        self.steps = torch.zeros(len(parameters), dtype=torch.long)
        """[P]: gradient steps done."""
        t = torch.arange(CORRECTED_STEPS + 1, dtype=torch.float64).clamp_min(1)
        second = (1 - BETA_2**t).sqrt()
        # theta -= lr (m / (1 - beta1^t)) / (sqrt(v) / second + eps), both corrections looked up: 3 operations, not 9.
        self._corrections = torch.stack([-second / (1 - BETA_1**t), second * EPSILON], 1).to(parameters)

    def step(self, gradient: Tensor, learning_rate: Tensor, longest: Tensor, active: Tensor | None) -> None:
        """Move the parameters. gradient [P, n] (is overwritten); learning_rate, longest, active [P]; None: all are."""
        norm = torch.linalg.vector_norm(gradient, dim=1) + 1e-6
        gradient.mul_((longest / norm).clamp_(max=1)[:, None])
        if active is None:
            self.steps += 1
            self._m.lerp_(gradient, 1 - BETA_1)
            self._v.lerp_(torch.mul(gradient, gradient, out=self._room), 1 - BETA_2)  # to the bit as below
        else:
            share = active.to(gradient)[:, None]
            self.steps += active
            self._m.lerp_(gradient, share * (1 - BETA_1))
            self._v.lerp_(torch.mul(gradient, gradient, out=self._room), share * (1 - BETA_2))
            learning_rate = learning_rate * active
        scale, epsilon = self._corrections.index_select(0, self.steps.clamp_max(CORRECTED_STEPS)).tensor_split(2, 1)
        torch.sqrt(self._v, out=self._room).add_(epsilon)
        torch.div(self._m, self._room, out=self._room)
        self._parameters.addcmul_(self._room, scale * learning_rate[:, None])

    def reset(self, member: int) -> None:
        """Forget one member's moments."""
        self._m[member] = self._v[member] = 0
        self.steps[member] = 0
