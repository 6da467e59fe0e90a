"""Deep deterministic policy gradient (Lillicrap et al., ICLR 2016), for P agents at once.

Differs from the paper as Stable-Baselines3 does: independent Gaussian noise instead of an Ornstein-Uhlenbeck process,
actions drawn evenly before `learning_starts` (without noise, which SB3 adds to them), no weight decay, equal sizes of
both networks, the action enters the critic at its first layer. As in the paper the last layers start within 3e-3; SB3
starts them like the others. Actor and critic have learning rates of their own, as in the paper; where one is none,
`learning_rate` counts, as in SB3.
"""

from itertools import chain
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tars.agents.environments import Actions, Continuous
from tars.agents.networks import Networks, parameter_count
from tars.agents.off_policy import Batch, OffPolicy
from tars.agents.optimisers import Adam, Optimiser
from tars.schemas.hyperparameters import DDPG as DECLARED
from tars.schemas.hyperparameters import Algorithm

HIDDEN: Final = (64, 64)
HEAD: Final = 3e-3


@torch.no_grad()
def td_target(reward: Tensor, terminated: Tensor, q_next: Tensor, gamma: Tensor) -> Tensor:
    """y = r + gamma Q'(s', mu'(s')), and y = r where the task ended (Algorithm 1).

    reward, terminated, q_next [P, B], the last from the target networks; gamma [P]. Returns [P, B].
    """
    return torch.addcmul(reward, gamma[:, None] * (1 - terminated), q_next)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of Q(s, a) against y: [P, B] each -> [P] (Algorithm 1)."""
    return mse_loss(q, target, reduction="none").mean(-1)


def actor_loss(action: Tensor, slope: Tensor) -> Tensor:
    """-J, whose gradient is minus the mean of grad_a Q(s, a) grad_theta mu(s) (equation 6).

    action = mu(s) [P, B, size]; slope [P, B, size] = grad_a Q(s, a), taken as it is. Returns [P].
    """
    return -(slope * action).sum(-1).mean(-1)


class DDPG(OffPolicy):
    """A population of P deterministic actors and their critics, in lockstep. Actions are in [-1, 1]."""

    DECLARED: ClassVar[Algorithm] = DECLARED
    ACTIONS: ClassVar[tuple[type[Actions], ...]] = (Continuous,)

    def _build_networks(self) -> None:
        assert isinstance(self.environment.actions, Continuous)  # noqa: S101 - ACTIONS
        self._size = self.environment.actions.size
        self._actors, self._actor, self._actor_target = self._pair(self.environment.features, self._size)
        self._critics, self._critic, self._critic_target = self._pair(self.environment.features + self._size, 1)
        self._adam_actor, self._adam_critic = Adam(self._actor.flat), Adam(self._critic.flat)

    def _pair(self, inputs: int, outputs: int) -> tuple[Networks, Networks, Networks]:
        """Both together, an online network, its target."""
        sizes = [inputs, *HIDDEN, outputs]
        shape = (2, self.members, parameter_count(sizes))
        flat = torch.zeros(shape, dtype=self.environment.dtype, device=self.environment.device)
        online, target = (Networks(part, sizes, learning=0) for part in flat)
        return Networks(flat.flatten(0, 1), sizes, learning=self.members), online, target

    def _initialise(self, member: int, generator: torch.Generator) -> None:
        for online, target in ((self._actor, self._actor_target), (self._critic, self._critic_target)):
            online.initialise(member, generator, head=HEAD)
            target.flat[member] = online.flat[member]

    def _prepare(self) -> None:
        super()._prepare()
        shape = (self.environment.horizon, self.environment.copies, self._size)
        evenly = self._random.uniform(*shape) * 2 - 1
        noise = self._random.normal(*shape) * self._columns["noise_sigma"][:, None, None]
        self._noise, self._evenly = noise.unbind(0), evenly.unbind(0)
        self._warming = self._who(self._warms_up)

    def act(self) -> Tensor:
        """mu(s) + noise, within [-1, 1]: [P, E, size]."""
        evenly, warms_up = self._evenly[self._at], self._warming[self._at]
        if warms_up is None:
            return evenly
        action = (self.greedy(self._state) + self._noise[self._at]).clamp_(-1, 1)
        return action if warms_up is False else torch.where(warms_up[:, None, None], evenly, action)

    def greedy(self, state: Tensor) -> Tensor:
        """mu(s)."""
        return self._actor(self.environment.observe(state)).tanh_()

    def _gradient_step(self, batch: Batch, active: Tensor | None) -> None:
        hp, tau = self._columns, self._columns["tau"][:, None]
        observation = self.environment.observe(batch.states)  # [2, P, B, F]: s, s'
        own, both = self._actors.tracked(observation.flatten(0, 1))
        actions = torch.stack([batch.action, both[self.members :].tanh()])
        q, both = self._critics.tracked(torch.cat([observation, actions], -1).flatten(0, 1))
        target = td_target(batch.reward, batch.terminated, both[self.members :, :, 0], hp["gamma"])
        gradient = self._critics.gradient(critic_loss(q.squeeze(-1), target))
        self._adam_critic.step(gradient, self._rate("critic"), active, None)
        action = own.tanh()
        slope = self._critic.slope(torch.cat([observation[0], action.detach()], -1), self._size)
        gradient = self._actors.gradient(actor_loss(action, slope))
        self._adam_actor.step(gradient, self._rate("actor"), active, None)
        follows = tau if active is None else tau * active[:, None]
        self._actor_target.flat.lerp_(self._actor.flat, follows)
        self._critic_target.flat.lerp_(self._critic.flat, follows)

    def _rate(self, network: str) -> Tensor:
        """Its own learning rate, where it has one [P]."""
        own = self._columns[f"{network}_learning_rate"]
        return torch.where(own.isnan(), self._columns["learning_rate"], own)

    def policy(self, member: int) -> nn.Sequential:
        """Observation -> action in [-1, 1]."""
        return nn.Sequential(*chain(self._actor.sequential(member), [nn.Tanh()]))

    def _parameters(self) -> dict[str, Tensor]:
        return {
            "actor": self._actor.flat,
            "actor_target": self._actor_target.flat,
            "critic": self._critic.flat,
            "critic_target": self._critic_target.flat,
        }

    def _optimisers(self) -> dict[str, Optimiser]:
        return {"actor": self._adam_actor, "critic": self._adam_critic}
