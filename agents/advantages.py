"""How much better an action was than the critic expected."""

import torch
from torch import Tensor


@torch.no_grad()
def generalised_advantages(  # noqa: PLR0913, PLR0917 - the symbols of the equations
    reward: Tensor,
    value: Tensor,
    value_after: Tensor,
    terminated: Tensor | None,
    cut: Tensor | None,
    discount: Tensor,
    trace: Tensor,
) -> Tensor:
    """A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t) (Schulman et al. 2016, 11-16).

    reward, value [P, T, E]; value_after [P, T, E] of the states that the actions led to, before any reset. terminated
    [P, T, E] is 1 where the task ended: nothing comes after, so V is 0 there. cut [P, T, E] is 1 where an episode
    ended, by its task or its time limit: what comes next belongs to another one. None: nowhere. discount, trace
    (lambda) [P]. With a trace of 1, A + V is the n-step return of Mnih et al. 2016. Returns [P, T, E].
    """
    gamma = discount[:, None, None]
    decay = gamma * trace[:, None, None]
    delta = torch.addcmul(reward, gamma if terminated is None else gamma * (1 - terminated), value_after) - value
    decays = (decay if cut is None else decay * (1 - cut)).expand_as(delta)
    advantage, found = torch.zeros_like(delta[:, 0]), []
    for d, carry in zip(reversed(delta.unbind(1)), reversed(decays.unbind(1)), strict=True):
        advantage = torch.addcmul(d, carry, advantage)
        found.append(advantage)
    return torch.stack(found[::-1], 1)
