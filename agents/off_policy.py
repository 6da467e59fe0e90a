"""What DQN and DDPG share: they learn from transitions drawn from a replay buffer."""

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tars.agents.algorithm import Population
from tars.agents.environments import Continuous, Transition
from tars.agents.replay_buffer import ReplayBuffer
from tars.schemas.hyperparameters import Value


class Batch:
    """Transitions [P, B] drawn from the lanes' buffers."""

    def __init__(self, rows: Tensor, width: int) -> None:
        self.state, self.after = rows[..., :width], rows[..., width : 2 * width]
        self.action, self.reward, self.terminated = rows[..., 2 * width : -2], rows[..., -2], rows[..., -1]


class OffPolicy(Population):
    """A gradient step on a drawn batch, `gradient_steps` times after every `train_freq` vector steps."""

    STRUCTURE: ClassVar[tuple[str, ...]] = ("batch_size", "buffer_size", "train_freq", "gradient_steps")
    REPLAYS: ClassVar[bool] = True

    def _build(self) -> None:
        self._build_networks()
        self._buffer = self._new_buffer()

    @abstractmethod
    def _build_networks(self) -> None:
        """Make networks and optimisers for all members."""

    @abstractmethod
    def _gradient_step(self, batch: Batch, active: Tensor | None) -> None:
        """Learn from a batch; `active` [P] says who does (None: all)."""

    def _prepare(self) -> None:
        """Number the vector steps [H, P]; which lanes learn after each, and which transitions they draw then."""
        horizon, freq = self.environment.horizon, self._shared("train_freq")
        self._step_numbers = step = (
            self._vector_steps + torch.arange(horizon, device=self._vector_steps.device)[:, None]
        )
        self._warms_up = step * self.environment.copies < self._columns["learning_starts"]  # [H, P]
        due = ((step + 1) * self.environment.copies > self._columns["learning_starts"]) & ((step + 1) % freq == 0)
        everyone, anyone = due.all(1).tolist(), due.any(1).tolist()
        self._due: list[Tensor | Literal[False] | None] = [
            (None if whole else row) if some else False
            for row, whole, some in zip(due.unbind(0), everyone, anyone, strict=True)
        ]
        self._round, self._count = freq, self._shared("gradient_steps")
        self._picks = self._random.uniform((horizon // freq + 1) * self._count, self._shared("batch_size"))

    def _learn(self, transition: Transition) -> None:
        with torch.no_grad():
            self._buffer.write(self._rows(transition))
        active = self._due[self._at]
        if active is not False:
            first = self._at // self._round * self._count  # by the step, whatever other lanes do
            for pick in self._picks[first : first + self._count]:
                self.between()
                self._gradient_step(Batch(self._buffer.sample(pick), self.environment.width), active)
        self._after_step()

    def _after_step(self) -> None:
        """Do what is counted in vector steps, not in gradient steps."""

    def _rows(self, transition: Transition) -> Tensor:
        action = transition.action
        if not isinstance(self.environment.actions, Continuous):
            action = action[..., None]
        parts = [self._state, transition.after, action, transition.reward[..., None], transition.terminated[..., None]]
        return torch.cat(parts, -1)

    def _rebuild(self, written: set[str]) -> None:
        if "buffer_size" in written and self._capacity() != self._buffer.capacity:
            self._buffer = self._buffer.resized(self._capacity())

    def _new_buffer(self) -> ReplayBuffer:
        size = self.environment.actions.size if isinstance(self.environment.actions, Continuous) else 1
        like = torch.empty(0, dtype=self.environment.dtype, device=self.environment.device)
        return ReplayBuffer(self.members, self._capacity(), 2 * self.environment.width + size + 2, like)

    def _capacity(self) -> int:
        """At least one row a copy, which are stored at once."""
        return max(self._shared("buffer_size"), self.environment.copies)

    def read(self, member: int, name: str) -> Value:
        """The value in use; of the buffer, the rows that it really has."""
        return self._buffer.capacity if name == "buffer_size" else super().read(member, name)

    def stored(self, member: int) -> int:
        """Transitions in the lane's replay buffer."""
        return self._buffer.stored(member)

    def remembered(self, member: int) -> Tensor:
        """The replay buffer's rows: state, state after, action, reward, terminated."""
        return self._buffer.contents(member)

    def remember(self, member: int, rows: Tensor) -> None:
        """Fill the lane's replay buffer with these; raises ValueError where they are no transitions of this learner."""
        if rows.ndim != 2 or rows.shape[1] != self._buffer.width:  # noqa: PLR2004 - rows and columns
            raise ValueError(f"transitions of {tuple(rows.shape)} do not fit rows of {self._buffer.width} numbers")
        self._buffer.restore(member, rows)

    def _forget(self, member: int) -> None:
        self._buffer.clear(member)
