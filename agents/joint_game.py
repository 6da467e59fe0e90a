"""P lanes of E copies of the coordination game with all four roles acting jointly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from tars.agents.environments import CHANCE, COPIES, Transition, capacity
from tars.agents.game import (
    ACTIONS,
    HORIZON,
    OUTCOMES,
    ROLES,
    STATES,
    TICKS,
    Role,
    adequacy,
    coordination_game,
    price,
)
from tars.agents.random_streams import RandomStreams

CONFLICTS: Final = ("veto", "starved")


@dataclass(frozen=True)
class Played:
    """What an episode of joint play amounted to: means per step over all copies of the first lane."""

    scores: dict[str, float]
    """Of each role, normalised."""
    conflicts: dict[str, float]
    """`veto`: ethical vetoes what policy serves. `starved`: consensus accepts what resource starves."""
    latency: float


class JointGame:
    """Tables over states and joint actions are affine in the adequacy of the capacity, so two rows give everything."""

    def __init__(self, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> None:
        self.dtype, self.device = dtype, torch.device(device)
        self._game = game = coordination_game()
        self._next = game.successor.reshape(-1).to(self.device, dtype)
        self._start = game.start.to(self.device, dtype)
        self._need = game.need.to(self.device, dtype)
        self._base, self._slope = (self._table(part) for part in (0, 1))

    def _table(self, part: int) -> Tensor:
        """[S * 36, 4 + 4 + 3]: outcomes cumulated (the last is what is left), rewards, veto, starved, latency."""
        game = self._game
        nought = torch.zeros_like(game.veto)
        outcome = game.outcome[part].cumsum(-1)[..., : len(OUTCOMES) - 1]
        conflicts = [(game.veto, nought)[part], game.starved[part], (game.latency, nought)[part]]
        parts = [outcome, game.reward[part].movedim(0, -1), torch.stack(conflicts, -1)]
        return torch.cat(parts, -1).flatten(0, 3).to(self.device, self.dtype)

    def open(self, seeds: Sequence[int]) -> None:
        """Make as many lanes as there are seeds."""
        self._random = RandomStreams([seed ^ CHANCE for seed in seeds], self.dtype, self.device)
        self._nowhere = torch.zeros(len(seeds), COPIES, dtype=self.dtype, device=self.device)
        self._everywhere = torch.ones_like(self._nowhere)

    def begin(self) -> Tensor:
        """Begin an episode; the states to act in [P, E, 1]."""
        self._chance = self._random.uniform(HORIZON + 1, 2, COPIES).unbind(0)
        self._state = self._start[(self._chance[-1][:, 0] * len(self._start)).long()][..., None]
        self._sum: Tensor | None = None
        self._at = 0
        return self._state

    def step(self, actions: Mapping[Role, Tensor]) -> dict[Role, Transition]:
        """Act once in every copy: actions [P, E], of resource [P, E, 1] in [-1, 1] (NaN: it gives nothing)."""
        state, chance = self._state[..., 0].long(), self._chance[self._at]
        joint = state
        for role, count in ACTIONS.items():
            joint = joint * count + actions[role]
        given = capacity(actions["resource"]).nan_to_num(0.0)  # a diverged agent must not spoil the others' rewards
        m = adequacy(self._need.index_select(0, state.view(-1)).view(state.shape), given)
        base, slope = (t.index_select(0, joint.view(-1)).view(*state.shape, -1) for t in (self._base, self._slope))
        row = torch.addcmul(base, slope, m[..., None])
        last = len(OUTCOMES) - 1
        outcome = (chance[:, 0, :, None] >= row[..., :last]).sum(-1)
        flows = row[..., last:]
        flows[..., ROLES.index("resource")] += price(given)
        self._sum = flows if self._sum is None else self._sum + flows
        at = (outcome * STATES + state).mul_(TICKS).add_((chance[:, 1] * TICKS).long())
        self._state = self._next.index_select(0, at.view(-1)).view(*at.shape, 1)
        self._at += 1
        cut = self._everywhere if self._at == HORIZON else None
        return {
            role: Transition(actions[role], flows[..., i], self._state, self._nowhere, cut, self._state)
            for i, role in enumerate(ROLES)
        }

    def played(self) -> Played:
        """What the episode amounted to so far."""
        if self._sum is None:
            raise ValueError("no step of this episode was played")
        mean = self._sum[0].mean(0) / self._at
        scores = {str(role): float(self._game.score(role, mean[i])) for i, role in enumerate(ROLES)}
        *conflicts, latency = mean[len(ROLES) :].tolist()
        return Played(scores, dict(zip(CONFLICTS, conflicts, strict=True)), latency)

    def random_state(self, member: int) -> Tensor:
        """Where a lane's chance stands."""
        return self._random.state(member)

    def set_random_state(self, member: int, state: Tensor) -> None:
        """Go on from there."""
        self._random.set_state(member, state)
