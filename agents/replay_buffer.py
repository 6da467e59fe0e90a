"""The last transitions of P lanes, as rows of floats that one gather reads."""

import torch
from torch import Tensor


class ReplayBuffer:
    """Rows [P * capacity, width]; transition number j of a lane lies at j mod capacity.

    Which numbers are valid is counted here, for each lane.
    """

    def __init__(self, members: int, capacity: int, width: int, like: Tensor) -> None:
        self.capacity, self.width = capacity, width
        self._rows = like.new_zeros(members * capacity, width)
        self._offset = (torch.arange(members, device=like.device) * capacity)[:, None]
        self.written = torch.zeros(members, dtype=torch.long, device=like.device)

    def write(self, rows: Tensor) -> None:
        """Store the next rows [P, n, width] of every lane."""
        self.put(rows, self.places(torch.arange(rows.shape[1], device=rows.device)))

    def sample(self, uniform: Tensor) -> Tensor:
        """Read one row for each number in [0, 1), evenly among what a lane holds: [P, B] -> [P, B, width]."""
        return self.read(self.drawn(uniform, torch.zeros_like(self.written[:1])))

    # The same in two steps, the first for a whole episode ahead of its writes.

    def places(self, ahead: Tensor) -> Tensor:
        """Where the transitions after `ahead` [..., n] more will lie, of every lane: [..., P, n]."""
        return self._offset + (self.written[:, None] + ahead[..., None, :]) % self.capacity

    def put(self, rows: Tensor, places: Tensor) -> None:
        """Store the next rows [P, n, width] of every lane, in their places [P, n]."""
        self._rows.index_copy_(0, places.view(-1), rows.view(-1, rows.shape[2]))
        self.written += rows.shape[1]

    def drawn(self, uniform: Tensor, ahead: Tensor) -> Tensor:
        """Where the rows will lie that [..., P, B] numbers in [0, 1) draw after `ahead` [..., 1] more transitions."""
        written = self.written[:, None] + ahead[..., None]
        oldest = (written - self.capacity).clamp_min_(0)
        held = written - oldest
        number = (uniform * held).long().clamp_max_(held - 1).add_(oldest)  # in place: it may be a long episode's
        return number.remainder_(self.capacity).add_(self._offset)

    def read(self, places: Tensor) -> Tensor:
        """The rows there: [P, B] -> [P, B, width]."""
        return self._rows.index_select(0, places.view(-1)).view(*places.shape, -1)

    def stored(self, member: int) -> int:
        """Return how many transitions a lane holds."""
        return min(int(self.written[member]), self.capacity)

    def clear(self, member: int) -> None:
        """Forget a lane's transitions."""
        self.written[member] = 0

    def contents(self, member: int) -> Tensor:
        """Copy what a lane holds [n, width], the oldest first."""
        written = int(self.written[member])
        number = torch.arange(written - self.stored(member), written, device=self._rows.device)
        return self._rows[member * self.capacity + number % self.capacity]

    def restore(self, member: int, rows: Tensor) -> None:
        """Hold these rows [n, width] instead; of more than the capacity, the newest."""
        self.clear(member)
        kept = rows[-self.capacity :].to(self._rows)
        self._rows[member * self.capacity : member * self.capacity + len(kept)] = kept
        self.written[member] = len(kept)

    def resized(self, capacity: int) -> "ReplayBuffer":
        """Return a buffer of another capacity with the newest rows that fit, in order."""
        members = len(self.written)
        other = ReplayBuffer(members, capacity, self.width, self._rows)
        for member in range(members):
            other.restore(member, self.contents(member))
        return other
