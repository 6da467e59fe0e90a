"""The last transitions of P lanes, as rows of floats that one gather reads."""

import torch
from torch import Tensor


class ReplayBuffer:
    """Rows [P * capacity, width]; transition number j of a lane lies at j mod capacity.

    Which numbers are valid is counted here, for each lane: from `oldest` up to how many were written.
    """

    def __init__(self, members: int, capacity: int, width: int, dtype: torch.dtype) -> None:
        self.capacity = capacity
        self._rows = torch.zeros(members * capacity, width, dtype=dtype)
        self._offset = (torch.arange(members) * capacity)[:, None]
        self.written = torch.zeros(members, dtype=torch.long)
        self._oldest = torch.zeros(members, dtype=torch.long)

    def write(self, rows: Tensor) -> None:
        """Store the next rows [P, n, width] of every lane."""
        number = self.written[:, None] + torch.arange(rows.shape[1])
        self._rows.index_copy_(0, (self._offset + number % self.capacity).view(-1), rows.view(-1, rows.shape[2]))
        self.written += rows.shape[1]

    def sample(self, uniform: Tensor) -> Tensor:
        """Read one row for each number in [0, 1), evenly among what a lane holds: [P, B] -> [P, B, width]."""
        oldest = torch.maximum(self._oldest, self.written - self.capacity)
        held = (self.written - oldest)[:, None]
        number = oldest[:, None] + (uniform * held).long().clamp_max(held - 1)
        rows = self._rows.index_select(0, (self._offset + number % self.capacity).view(-1))
        return rows.view(*uniform.shape, -1)

    def stored(self, member: int) -> int:
        """Return how many transitions a lane holds."""
        written = int(self.written[member])
        return written - max(int(self._oldest[member]), written - self.capacity)

    def clear(self, member: int) -> None:
        """Forget a lane's transitions."""
        self.written[member] = self._oldest[member] = 0

    def resized(self, capacity: int) -> "ReplayBuffer":
        """Return a buffer of another capacity with the newest rows that fit, in order."""
        members = len(self.written)
        other = ReplayBuffer(members, capacity, self._rows.shape[1], self._rows.dtype)
        for member in range(members):
            written, kept = int(self.written[member]), min(self.stored(member), capacity)
            number = torch.arange(written - kept, written)
            source = member * self.capacity + number % self.capacity
            other._rows[member * capacity + number % capacity] = self._rows[source]
            other.written[member], other._oldest[member] = written, written - kept
        return other
