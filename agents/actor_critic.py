"""What A2C and PPO share: an actor and a critic that learn from rollouts of their own latest actions.

Actor and critic have equal hidden layers, so they are two rows of one stack of networks: one product a layer for both.
The critic reads the first output. A rollout needs the actor only; values of all its states come from one pass after it.
"""

from abc import abstractmethod
from typing import ClassVar, Final, NamedTuple

import torch
from torch import Tensor, nn

from tars.agents.advantages import generalised_advantages
from tars.agents.algorithm import Population
from tars.agents.environments import Actions, Continuous, Discrete, Transition
from tars.agents.networks import Networks, parameter_count
from tars.agents.optimisers import Optimiser
from tars.agents.policies import Choice, Gaussian, Policy

HIDDEN: Final = (64, 64)
ACTOR_HEAD: Final = 0.01
"""Gain of the actor's last layer: it starts close to indifference."""


class Step(NamedTuple):
    """A vector step of a rollout, as `Transition` has it, with the state it began in."""

    state: Tensor
    action: Tensor
    reward: Tensor
    after: Tensor
    terminated: Tensor
    cut: Tensor | None


class ActorCritic(Population):
    """Gradient steps after every `n_steps` vector steps; a rollout may span episodes."""

    ACTIONS: ClassVar[tuple[type[Actions], ...]] = (Discrete, Continuous)

    def _build(self) -> None:
        actions = self.environment.actions
        self._outputs = actions.n if isinstance(actions, Discrete) else actions.size
        extra = 0 if isinstance(actions, Discrete) else actions.size  # the Gaussian's log deviation
        sizes = [self.environment.features, *HIDDEN, self._outputs]
        shape = (2 * self.members, parameter_count(sizes) + extra)
        flat = torch.zeros(shape, dtype=self.environment.dtype, device=self.environment.device)
        self._networks = Networks(flat, sizes, "tanh")
        self._actor = Networks(flat[0::2], sizes, "tanh")
        self._flat = flat.view(self.members, -1)
        self._optimiser = self._new_optimiser(self._flat)
        self._rollout: list[Step] = []

    @abstractmethod
    def _new_optimiser(self, flat: Tensor) -> Optimiser:
        """What moves actor and critic together."""

    @abstractmethod
    def _learn_from(self, rollout: list[Step]) -> None:
        """Make the gradient steps of a full rollout."""

    def _initialise(self, member: int, generator: torch.Generator) -> None:
        self._networks.initialise_orthogonal(2 * member, generator, head=ACTOR_HEAD)
        self._networks.initialise_orthogonal(2 * member + 1, generator, head=1.0)

    def _prepare(self) -> None:
        self._n_steps, self._youngest = self._shared("n_steps"), int(self._vector_steps.min())
        horizon, copies = self.environment.horizon, self.environment.copies
        if isinstance(self.environment.actions, Discrete):
            self._noise = self._random.uniform(horizon, 1, copies).unbind(0)
        else:
            self._noise = self._random.normal(horizon, copies, self._outputs).unbind(0)

    def act(self) -> Tensor:
        """Draw from the policy: [P, E] or [P, E, size]."""
        head, noise = self._actor(self.environment.observe(self._state)), self._noise[self._at]
        if isinstance(self.environment.actions, Continuous):
            return torch.addcmul(head, self._actor.extra.exp()[:, None], noise)
        return (noise >= head.mT.softmax(1).cumsum(1)[:, :-1]).sum(1)

    def greedy(self, state: Tensor) -> Tensor:
        """The likeliest action."""
        head = self._actor(self.environment.observe(state))
        return head.contiguous().argmax(-1) if isinstance(self.environment.actions, Discrete) else head

    def tracked(self, state: Tensor, rows: int | None = None) -> tuple[Policy, Tensor, Tensor]:
        """The policy in states [P, N, width] and the critic's values of them [P, N], both to be differentiated.

        rows: of the first `rows` only. The third are the values of all, which are not.
        """
        out, everything = self._networks.tracked(self._observed_twice(state), rows)
        head, value = out.view(-1, 2, *out.shape[1:]).unbind(1)
        return self._policy(head, self._networks.tracked_extra[0::2]), value[..., 0], everything[1::2, :, 0]

    def both(self, state: Tensor) -> tuple[Policy, Tensor]:
        """The policy in states [P, N, width], and the critic's values of them [P, N]."""
        out = self._networks(self._observed_twice(state))
        head, value = out[0::2], out[1::2]
        return self._policy(head, self._networks.extra[0::2]), value[..., 0]

    def _observed_twice(self, state: Tensor) -> Tensor:
        """By actor and by critic: [P, N, width] -> [2 P, N, F]."""
        return self.environment.observe(state)[:, None].expand(-1, 2, -1, -1).flatten(0, 1)

    def _policy(self, head: Tensor, log_deviation: Tensor) -> Policy:
        return Choice(head) if isinstance(self.environment.actions, Discrete) else Gaussian(head, log_deviation)

    def _learn(self, transition: Transition) -> None:
        action, reward, after, terminated, cut, _ = transition
        self._rollout.append(Step(self._state, action, reward, after, terminated, cut))
        if len(self._rollout) >= self._n_steps:
            rollout, self._rollout = self._rollout, []
            self._learn_from(rollout)

    def _states(self, rollout: list[Step]) -> Tensor:
        """States of a rollout, then those after its cuts and its end [P, (T + cuts) E, width]."""
        states = [step.state for step in rollout] + [rollout[t].after for t in self._ends(rollout)]
        return torch.stack(states, 1).flatten(1, 2)

    def _ends(self, rollout: list[Step]) -> list[int]:
        """Steps after which the next state is not the rollout's next."""
        return [t for t, step in enumerate(rollout) if step.cut is not None or t == len(rollout) - 1]

    def _advantages(self, rollout: list[Step], value: Tensor) -> Tensor:
        """[P, T, E], of the values [P, (T + cuts) E] of `_states`."""
        steps, values = len(rollout), value.view(self.members, -1, self.environment.copies)
        reward = torch.stack([step.reward for step in rollout], 1)
        terminated = cut = None
        following = values[:, 1:]
        if any(step.cut is not None for step in rollout):
            none = torch.zeros_like(reward[:, 0])
            terminated = torch.stack([step.terminated for step in rollout], 1)
            cut = torch.stack([none if step.cut is None else step.cut for step in rollout], 1)
            following = self._following(rollout, values)
        gamma, trace = self._columns["gamma"], self._columns["gae_lambda"]
        return generalised_advantages(reward, values[:, :steps], following, terminated, cut, gamma, trace)

    def _following(self, rollout: list[Step], values: Tensor) -> Tensor:
        """Values of the states after each step, before any reset [P, T, E]; where none was cut, it is the next's."""
        steps = len(rollout)
        following = [*values[:, 1:steps].unbind(1), values[:, -1]]
        for t, behind in zip(self._ends(rollout), values[:, steps:].unbind(1), strict=True):
            following[t] = behind
        return torch.stack(following, 1)

    def _actions(self, rollout: list[Step]) -> Tensor:
        """[P, N] or [P, N, size]."""
        return torch.stack([step.action for step in rollout], 1).flatten(1, 2)

    def _descend(self, loss: Tensor, active: Tensor | None) -> None:
        """One gradient step of all members' summed loss."""
        gradient = self._networks.gradient(loss).view(self.members, -1)
        hp = self._columns
        self._optimiser.step(gradient, hp["learning_rate"], active, hp["max_grad_norm"])

    def policy(self, member: int) -> nn.Sequential:
        """Observation -> logits, or the mean of the action."""
        return self._actor.sequential(member)

    def _parameters(self) -> dict[str, Tensor]:
        return {"actor_critic": self._flat}

    def _optimisers(self) -> dict[str, Optimiser]:
        return {"actor_critic": self._optimiser}

    def stored(self, member: int) -> int:
        """Transitions of the rollout in progress."""
        del member  # all lanes have as many
        return len(self._rollout) * self.environment.copies

    def remembered(self, member: int) -> Tensor:
        """The rollout in progress: state, action, reward, state after, terminated, cut; copies side by side."""
        rows = [self._row(step, member) for step in self._rollout]
        return torch.cat(rows) if rows else self._flat.new_zeros(0, 0)

    def _row(self, step: Step, member: int) -> Tensor:
        cut = torch.zeros_like(step.terminated) if step.cut is None else step.cut
        parts = [step.state, step.action, step.reward, step.after, step.terminated, cut]
        return torch.cat([part[member].view(self.environment.copies, -1).to(self._flat) for part in parts], -1)

    def remember(self, member: int, rows: Tensor) -> None:  # noqa: ARG002 - the only lane
        """Go on with this rollout; raises ValueError where other lanes are in the middle of theirs."""
        if self.members > 1 and (len(rows) or self._rollout):
            raise ValueError("a rollout in progress belongs to all lanes of a population")
        self._rollout = []
        if not len(rows):
            return
        width, size = self.environment.width, self._outputs
        discrete = isinstance(self.environment.actions, Discrete)
        split = [width, 1 if discrete else size, 1, width, 1, 1]
        for block in torch.split(rows.to(self._flat), self.environment.copies):
            state, action, reward, after, terminated, cut = torch.split(block[None], split, -1)
            chosen = action[..., 0].long() if discrete else action
            self._rollout.append(Step(state, chosen, reward[..., 0], after, terminated[..., 0], cut[..., 0]))

    def _forget(self, member: int) -> None:  # noqa: ARG002 - see below
        """A lane that is refilled in the middle of a rollout sits out its gradient step: see `_active`."""
        if self.members == 1:
            self._rollout = []

    @property
    def is_between_rollouts(self) -> bool:
        """No rollout is in progress."""
        return not self._rollout

    def _active(self, rollout: list[Step]) -> Tensor | None:
        """Which lanes learn from a rollout: those that it began with [P]; None: all."""
        old_enough = self._youngest + self._at + 1 >= len(rollout)  # the youngest, as it was when the episode began
        return None if old_enough else self._vector_steps >= len(rollout)
