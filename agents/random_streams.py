"""One generator for each lane, drawn from in blocks: its numbers depend on its own seed, never on its neighbours."""

from collections.abc import Sequence

import torch
from torch import Tensor


class RandomStreams:
    """P seeded generators. The order of draws is part of what a seed means; they draw on the CPU, for any device."""

    def __init__(self, seeds: Sequence[int], dtype: torch.dtype, device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._dtype, self._device = dtype, device

    def uniform(self, *shape: int) -> Tensor:
        """Draw from [0, 1): [T, P, ...] for a shape of (T, ...)."""
        return self._stack([torch.rand(shape, generator=generator) for generator in self.generators])

    def normal(self, *shape: int) -> Tensor:
        """Draw from the standard normal distribution: [T, P, ...] for a shape of (T, ...)."""
        return self._stack([torch.randn(shape, generator=generator) for generator in self.generators])

    def _stack(self, blocks: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(blocks), 1).to(self._device, self._dtype)  # drawn as 32-bit floats for any dtype

    def reseed(self, member: int, seed: int) -> None:
        """Start one lane's stream anew."""
        self.generators[member].manual_seed(seed)

    def state(self, member: int) -> Tensor:
        """Where one lane's stream stands, as bytes."""
        return self.generators[member].get_state()

    def set_state(self, member: int, state: Tensor) -> None:
        """Go on from there."""
        self.generators[member].set_state(state)
