"""Deep Q-learning (Mnih et al., Nature 518, 2015), for P agents at once.

Differs from the paper as Stable-Baselines3 does: Adam instead of RMSProp; a gradient step after every `train_freq`
vector steps; the target network follows by tau every `target_update_interval` environment steps; the gradient's norm is
limited to `max_grad_norm`; every action is random before `learning_starts`. The Huber loss is the paper's clipping of
the error term to [-1, 1]. Exploration falls linearly over `exploration_fraction` of WARM_UP vector steps, whatever the
length of a trial, so that a live agent has the same schedule. The target follows after the gradient steps of its vector
step; SB3 moves it before them.
"""

from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss

from tars.agents.environments import Actions, Discrete
from tars.agents.networks import Networks, parameter_count
from tars.agents.off_policy import Batch, OffPolicy
from tars.agents.optimisers import Adam, Optimiser
from tars.schemas.hyperparameters import DQN as DECLARED
from tars.schemas.hyperparameters import Algorithm, Value

HIDDEN: Final = (64, 64)
WARM_UP: Final = 1600
"""Vector steps of one full trial (50 episodes of 32): what exploration_fraction is a fraction of."""


@torch.no_grad()
def td_target(reward: Tensor, terminated: Tensor, value: Tensor, gamma: Tensor) -> Tensor:
    """y = r + gamma V(s'), and y = r where the task ended (Algorithm 1). All [P, B] but gamma [P]."""
    return torch.addcmul(reward, gamma[:, None] * (1 - terminated), value)


def loss(q: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Huber loss of Q(s, a) against y. q [P, B, A], action [P, B, 1], target [P, B] -> [P]."""
    return huber_loss(q.gather(-1, action).squeeze(-1), target, reduction="none").mean(dim=-1)


def epsilon(step: Tensor, initial: Tensor, final: Tensor, fraction: Tensor) -> Tensor:
    """Share of random actions after `step` vector steps: a line from initial to final, then final. All broadcast."""
    done = (step / (fraction * WARM_UP)).clamp(max=1)
    return initial + done * (final - initial)


class DQN(OffPolicy):
    """A population of P Q-learners in lockstep."""

    DECLARED: ClassVar[Algorithm] = DECLARED
    ACTIONS: ClassVar[tuple[type[Actions], ...]] = (Discrete,)

    def _build_networks(self) -> None:
        assert isinstance(self.environment.actions, Discrete)  # noqa: S101 - ACTIONS
        sizes = [self.environment.features, *HIDDEN, self.environment.actions.n]
        shape = (2, self.members, parameter_count(sizes))
        parameters = torch.zeros(shape, dtype=self.environment.dtype, device=self.environment.device)
        self._both = Networks(parameters.flatten(0, 1), sizes, learning=self.members)
        self._online, self._target = (Networks(part, sizes, learning=0) for part in parameters)
        self._adam = Adam(self._online.flat)

    def _initialise(self, member: int, generator: torch.Generator) -> None:
        self._online.initialise(member, generator)
        self._target.flat[member] = self._online.flat[member]

    def _prepare(self) -> None:
        super()._prepare()
        hp, copies = self._columns, self.environment.copies
        step = self._step_numbers
        share = epsilon(step, hp["exploration_initial_eps"], hp["exploration_final_eps"], hp["exploration_fraction"])
        share = torch.where(self._warms_up, torch.ones_like(share), share)
        explore, choose = self._random.uniform(self.environment.horizon, 2, copies).unbind(2)
        self._explores = (explore < share[..., None]).unbind(0)
        self._at_random = (choose * self._online.sizes[-1]).long().unbind(0)
        self._plan_following()

    def _plan_following(self) -> None:
        """Which lanes' targets follow after each step of the episode [H, P]."""
        every = (self._columns["target_update_interval"] // self.environment.copies).clamp_min(1)
        due = (self._step_numbers + 1) % every == 0
        self._follows = self._who(due)

    def act(self) -> Tensor:
        """Epsilon-greedy actions [P, E]."""
        return torch.where(self._explores[self._at], self._at_random[self._at], self.greedy(self._state))

    def greedy(self, state: Tensor) -> Tensor:
        """argmax_a Q(s, a)."""
        return self._online(self.environment.observe(state)).contiguous().argmax(-1)

    def _after_step(self) -> None:
        """Move the target networks that are due: theta' <- theta' + tau (theta - theta')."""
        due, tau = self._follows[self._at], self._columns["tau"]
        if due is not False:
            self._target.flat.lerp_(self._online.flat, (tau if due is None else tau * due)[:, None])

    def _gradient_step(self, batch: Batch, active: Tensor | None) -> None:
        hp = self._columns
        observation = self.environment.observe(batch.states)  # [2, P, B, F]: s, s'
        q, both = self._both.tracked(observation.flatten(0, 1))
        value = self._value(both[self.members :], observation[1])
        target = td_target(batch.reward, batch.terminated, value, hp["gamma"])
        gradient = self._both.gradient(loss(q, batch.action.long(), target))
        self._adam.step(gradient, hp["learning_rate"], active, hp["max_grad_norm"])

    def _value(self, q_target: Tensor, observation: Tensor) -> Tensor:  # noqa: ARG002 - others ask Q in s', too
        """max_a Q'(s', a), of the target network's action values [P, B, A] in s' [P, B, F] -> [P, B]."""
        return q_target.amax(dim=-1)

    def write(self, member: int, name: str, value: Value) -> None:
        """Set one hyperparameter of one lane; how often the target follows is planned anew."""
        super().write(member, name, value)
        if name == "target_update_interval" and self._at < self.environment.horizon:
            self._plan_following()

    def policy(self, member: int) -> nn.Sequential:
        """Observation -> action values."""
        return self._online.sequential(member)

    def _parameters(self) -> dict[str, Tensor]:
        return {"online": self._online.flat, "target": self._target.flat}

    def _optimisers(self) -> dict[str, Optimiser]:
        return {"online": self._adam}
