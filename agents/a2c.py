"""Advantage actor-critic (Mnih et al., ICML 2016, Algorithm S3 with synchronous actors), for P agents at once.

Differs from the paper as Stable-Baselines3 does: one learner with E parallel copies instead of asynchronous ones, the
gradient's norm is limited to `max_grad_norm`, and `gae_lambda` may shorten the n-step returns (1: the paper's). RMSProp
with epsilon outside of the square root, as torch has it; the learning rate is not annealed.
"""

from typing import ClassVar, Final

from torch import Tensor
from torch.nn.functional import mse_loss

from tars.agents.actor_critic import ActorCritic, Step
from tars.agents.optimisers import Optimiser, RMSProp
from tars.schemas.hyperparameters import A2C as DECLARED
from tars.schemas.hyperparameters import Algorithm

SMOOTHING: Final = 0.99
EPSILON: Final = 1e-5


def policy_loss(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-log pi(a|s) A(s, a), the advantage taken as it is: [P, N] each -> [P]."""
    return -(log_prob * advantage).mean(-1)


def value_loss(value: Tensor, returned: Tensor) -> Tensor:
    """(R - V(s))^2: [P, N] each -> [P]."""
    return mse_loss(value, returned, reduction="none").mean(-1)


class A2C(ActorCritic):
    """A population of P actor-critics in lockstep: one gradient step a rollout."""

    DECLARED: ClassVar[Algorithm] = DECLARED
    STRUCTURE: ClassVar[tuple[str, ...]] = ("n_steps",)

    def _new_optimiser(self, flat: Tensor) -> Optimiser:
        return RMSProp(flat, SMOOTHING, EPSILON)

    def _learn_from(self, rollout: list[Step]) -> None:
        self.between()
        hp, taken = self._columns, len(rollout) * self.environment.copies
        policy, value, values = self.tracked(self._states(rollout), taken)
        advantage = self._advantages(rollout, values).flatten(1)
        returned = advantage + values[:, :taken]
        log_prob = policy.log_prob(self._actions(rollout))
        entropy = policy.entropy().mean(-1)
        loss = policy_loss(log_prob, advantage) + hp["vf_coef"] * value_loss(value, returned) - hp["ent_coef"] * entropy
        self._descend(loss, self._active(rollout))
