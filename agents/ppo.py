"""Proximal policy optimisation with a clipped objective (Schulman et al. 2017, Algorithm 1), for P agents at once.

Differs from the paper as Stable-Baselines3 does: advantages are normalised in each minibatch of more than one row, the
gradient's norm is limited to `max_grad_norm`, the critic has a network of its own, and gradient steps on a rollout end
for a member when its policy has moved by 1.5 `target_kl`. Adam's epsilon is 1e-5.
"""

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from tars.agents.actor_critic import ActorCritic, Step
from tars.agents.environments import Discrete
from tars.agents.optimisers import Adam, Optimiser
from tars.schemas.hyperparameters import PPO as DECLARED
from tars.schemas.hyperparameters import Algorithm, Value

EPSILON: Final = 1e-5
TOO_FAR: Final = 1.5
"""Times target_kl, at which a member's gradient steps on a rollout end."""


def normalised(advantage: Tensor) -> Tensor:
    """Mean 0, deviation 1 in each member's minibatch [P, B]; a single row is left as it is."""
    if advantage.shape[1] == 1:
        return advantage
    deviation, mean = torch.std_mean(advantage, 1, keepdim=True)
    return (advantage - mean) / (deviation + 1e-8)


def clipped_loss(ratio: Tensor, advantage: Tensor, clip_range: Tensor) -> Tensor:
    """-min(r A, clip(r, 1 - e, 1 + e) A) (equation 7). ratio, advantage [P, B]; clip_range [P]. Returns [P]."""
    e = clip_range[:, None]
    return -torch.min(ratio * advantage, ratio.clamp(1 - e, 1 + e) * advantage).mean(-1)


def divergence(log_ratio: Tensor) -> Tensor:
    """An estimate of KL(old, new) that is never negative: mean of (r - 1) - log r (Schulman 2020). [P, B] -> [P]."""
    return (log_ratio.expm1() - log_ratio).mean(-1)


class Batch:
    """Steps [P, B] of a rollout, from rows of state, action, advantage, return, and log pi when it was taken."""

    def __init__(self, rows: Tensor, width: int, *, discrete: bool) -> None:
        self.state, action, *rest = torch.split(rows, [width, rows.shape[-1] - width - 3, 1, 1, 1], -1)
        self.action = action.squeeze(-1).long() if discrete else action
        self.advantage, self.returned, self.log_prob = (part.squeeze(-1) for part in rest)


class PPO(ActorCritic):
    """A population of P actor-critics in lockstep: `n_epochs` passes over a rollout, in minibatches."""

    DECLARED: ClassVar[Algorithm] = DECLARED
    STRUCTURE: ClassVar[tuple[str, ...]] = ("n_steps", "batch_size", "n_epochs")

    def _new_optimiser(self, flat: Tensor) -> Optimiser:
        return Adam(flat, EPSILON)

    def _learn_from(self, rollout: list[Step]) -> None:
        rows = self._collected(rollout)
        taken, size = rows.shape[1], self._shared("batch_size")
        orders = self._random.uniform(self._shared("n_epochs"), taken).argsort(-1)
        orders += taken * torch.arange(self.members, device=rows.device)[:, None]
        active, flat = self._active(rollout), rows.flatten(0, 1)
        for order in orders:
            for chosen in order.split(size, -1):
                self.between()
                batch = flat.index_select(0, chosen.reshape(-1)).view(*chosen.shape, -1)
                active = self._gradient_step(self._batch(batch), active)

    def _batch(self, rows: Tensor) -> Batch:
        discrete = isinstance(self.environment.actions, Discrete)
        return Batch(rows, self.environment.width, discrete=discrete)

    def _collected(self, rollout: list[Step]) -> Tensor:
        """Rows of `Batch` [P, N, width]: a rollout, and what the policy that collected it says of it."""
        states, actions = self._states(rollout), self._actions(rollout)
        taken = actions.shape[1]
        policy, value = self.both(states)
        advantage, value = self._advantages(rollout, value).flatten(1), value[:, :taken]
        log_prob = policy.first(taken).log_prob(actions)
        numbers = torch.stack([advantage, advantage + value, log_prob], -1)
        return torch.cat([states[:, :taken], actions.view(*actions.shape[:2], -1).to(numbers), numbers], -1)

    def _prepare(self) -> None:
        super()._prepare()
        self._look_for_limits()

    def write(self, member: int, name: str, value: Value) -> None:
        """Set one hyperparameter of one lane; whether any lane has a limit is looked up anew."""
        super().write(member, name, value)
        if name == "target_kl":
            self._look_for_limits()

    def _look_for_limits(self) -> None:
        self._limited = not bool(self._columns["target_kl"].isnan().all())

    def _gradient_step(self, batch: Batch, active: Tensor | None) -> Tensor | None:
        """Learn from a minibatch; return who goes on [P] (None: all)."""
        hp = self._columns
        policy, value, _ = self.tracked(batch.state)
        log_ratio = policy.log_prob(batch.action) - batch.log_prob
        if self._limited:
            far = divergence(log_ratio.detach()) > TOO_FAR * hp["target_kl"]  # no comparison with NaN holds
            active = ~far if active is None else active & ~far
        entropy = policy.entropy().mean(-1)
        loss = (
            clipped_loss(log_ratio.exp(), normalised(batch.advantage), hp["clip_range"])
            + hp["vf_coef"] * mse_loss(value, batch.returned, reduction="none").mean(-1)
            - hp["ent_coef"] * entropy
        )
        self._descend(loss, active)
        return active
