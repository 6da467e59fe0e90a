"""One generator for each lane, drawn from in blocks: its numbers depend on its own seed, never on its neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor


class RandomStreams:
    """P seeded generators. The order of draws is part of what a seed means."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1): [T, P, ...] for a shape of (T, ...)."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self.generators], 1)

    def reseed(self, member: int, seed: int) -> None:
        """Start one lane's stream anew."""
        self.generators[member].manual_seed(seed)
