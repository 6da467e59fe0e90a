"""What DQN and DDPG share: they learn from transitions drawn from a replay buffer."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from tars.agents.algorithm import Population
from tars.agents.environments import Continuous, Transition
from tars.agents.replay_buffer import ReplayBuffer
from tars.schemas.hyperparameters import Value


class Batch:
    """Transitions [P, B] drawn from the lanes' buffers."""

    def __init__(self, rows: Tensor, width: int) -> None:
        states, self.action, reward, terminated = torch.split(
            rows, [2 * width, rows.shape[-1] - 2 * width - 2, 1, 1], -1
        )
        self.states = states.view(*rows.shape[:-1], 2, width).movedim(-2, 0)
        """s and s' [2, P, B, width]"""
        self.reward, self.terminated = reward.squeeze(-1), terminated.squeeze(-1)


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
        self._due = self._who(due)
        count = self._shared("gradient_steps")
        picks = self._random.uniform((horizon // freq + 1) * count, self._shared("batch_size"))
        self._picks = picks.view(-1, count, *picks.shape[1:])  # [rounds, count, P, B]
        self._plan_memory()

    def _plan_memory(self) -> None:
        """Say for the whole episode where its transitions will lie, and which rows its gradient steps draw."""
        copies, device = self.environment.copies, self._vector_steps.device
        before = (torch.arange(self.environment.horizon, device=device)[:, None] - self._at) * copies
        self._places = self._buffer.places(before + torch.arange(copies, device=device)).unbind(0)
        learns = [at for at, active in enumerate(self._due) if active is not False]
        rounds = [at // self._shared("train_freq") for at in learns]  # by the step, whatever other lanes do
        drawn = self._buffer.drawn(self._picks[rounds], before[learns][..., None] + copies)  # [steps, count, P, B]
        each, count = drawn.flatten(0, 1).unbind(0), drawn.shape[1]
        self._drawn = {at: each[n * count : (n + 1) * count] for n, at in enumerate(learns)}

    def _learn(self, transition: Transition) -> None:
        self._buffer.put(self._rows(transition), self._places[self._at])
        active = self._due[self._at]
        if active is not False:
            for places in self._drawn[self._at]:
                self.between()
                self._gradient_step(Batch(self._buffer.read(places), self.environment.width), active)
        self._after_step()

    def _after_step(self) -> None:
        """Do what is counted in vector steps, not in gradient steps."""

    def _rows(self, transition: Transition) -> Tensor:
        action = transition.action
        if not isinstance(self.environment.actions, Continuous):
            action = action[..., None].to(transition.reward)  # numbers of two types take twice the time to join
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
        if self._at < self.environment.horizon:
            self._plan_memory()

    def _forget(self, member: int) -> None:
        self._buffer.clear(member)
