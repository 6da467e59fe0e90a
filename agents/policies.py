"""What an actor's outputs mean: a choice among actions, or numbers around a mean.

torch.distributions has both, but normalises logits twice more and checks and broadcasts at every call: a tenth of a
gradient step of a live agent. The tests hold these against it.
"""

import math
from typing import Final, Protocol

import torch
from torch import Tensor

HALF_LOG_2_PI: Final = 0.5 * math.log(2 * math.pi)


class Policy(Protocol):
    """Of states [P, N]."""

    def first(self, count: int) -> "Policy":
        """The policy in the first `count` states."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Of the actions taken [P, N]."""

    def entropy(self) -> Tensor:
        """How undecided it is [P, N]."""


class Choice:
    """One of A actions, by logits [P, N, A]; kept as [P, A, N], where a sum over a few actions is 20 times as fast."""

    def __init__(self, logits: Tensor, *, normalised: bool = False) -> None:
        self._log_share = logits.mT if normalised else logits.mT.log_softmax(1)

    def first(self, count: int) -> "Choice":
        """The policy in the first `count` states."""
        return Choice(self._log_share[..., :count].mT, normalised=True)

    def log_prob(self, action: Tensor) -> Tensor:
        """log pi(a|s), a [P, N]."""
        return self._log_share.gather(1, action[:, None]).squeeze(1)

    def entropy(self) -> Tensor:
        """-sum_a pi log pi."""
        return -(self._log_share.exp() * self._log_share).sum(1)


class Gaussian:
    """Independent numbers around a mean [P, N, size], with log deviations [P, size] that no state changes."""

    def __init__(self, mean: Tensor, log_deviation: Tensor) -> None:
        self._mean, self._log_deviation = mean, log_deviation[:, None]

    def first(self, count: int) -> "Gaussian":
        """The policy in the first `count` states."""
        return Gaussian(self._mean[:, :count], self._log_deviation[:, 0])

    def log_prob(self, action: Tensor) -> Tensor:
        """The density's logarithm, a [P, N, size]."""
        off = (action - self._mean) * torch.exp(-self._log_deviation)
        return (-0.5 * off.square() - self._log_deviation - HALF_LOG_2_PI).sum(-1)

    def entropy(self) -> Tensor:
        """log sigma + (1 + log 2 pi) / 2, summed over the numbers."""
        per_number = self._log_deviation + 0.5 + HALF_LOG_2_PI
        return per_number.sum(-1).expand(self._mean.shape[:2])
