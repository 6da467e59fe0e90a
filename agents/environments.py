"""P lanes of E copies of an environment, all stepped at once."""

from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from tars.agents.game import (
    ACTIONS,
    FEATURES,
    HORIZON,
    OUTCOMES,
    ROLES,
    STATES,
    TICKS,
    Game,
    Role,
    coordination_game,
    price,
)

COPIES: Final = 16
"""Parallel copies in a lane: an episode of a lane is HORIZON steps in each."""
DRAWS: Final = 2
"""Random numbers that one step of one copy uses up."""


class DiscreteEnvironment(Protocol):
    """States are numbers, so that a transition is four floats and an observation is a row of a table."""

    actions: int
    features: int
    horizon: int
    """Steps of an episode; its end is a time limit, not a terminal state, so learners bootstrap there."""

    def start(self, uniform: Tensor) -> Tensor:
        """States to begin in, of uniform numbers [P, E]."""

    def step(self, state: Tensor, action: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(next state, reward) [P, E], of uniform numbers [DRAWS, P, E]."""

    def observe(self, state: Tensor) -> Tensor:
        """[P, E] -> [P, E, features]."""

    def score(self, reward: Tensor) -> Tensor:
        """Normalise mean rewards per step: 0 the best constant action, 1 the best response."""


@dataclass(frozen=True)
class Played:
    """What an episode of joint play amounted to, per step."""

    scores: dict[str, float]
    """Of each role, normalised."""
    conflicts: dict[str, float]
    latency: float


class RoleEnvironment:
    """One discrete role of the coordination game against the others' reference policies."""

    def __init__(self, role: Role, dtype: torch.dtype = torch.float32) -> None:
        if role not in ACTIONS:
            raise ValueError(f"{role} has no discrete actions; choose among {', '.join(ACTIONS)}")
        self.role, self.actions, self.features, self.horizon = role, ACTIONS[role], FEATURES, HORIZON
        self._game = game = coordination_game()
        outcome, reward = game.faced(role, game.reference)
        self._cumulative = outcome.cumsum(-1)[..., : len(OUTCOMES) - 1].reshape(-1, len(OUTCOMES) - 1).to(dtype)
        self._reward = reward.reshape(-1).to(dtype)
        self._next = game.successor.reshape(-1)
        self._observation = game.observation.to(dtype)
        self._table = _joint_table(game, role)

    def start(self, uniform: Tensor) -> Tensor:
        """One of the 16 start states for each number in [0, 1)."""
        return self._game.start[(uniform * len(self._game.start)).long()]

    def step(self, state: Tensor, action: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw an outcome, then a tick; the reward is the expected one, so it is no draw."""
        pair = state * self.actions + action
        outcome = (uniform[0][..., None] >= self._cumulative[pair]).sum(-1)
        tick = (uniform[1] * TICKS).long()
        return self._next[(outcome * STATES + state) * TICKS + tick], self._reward[pair]

    def observe(self, state: Tensor) -> Tensor:
        """The state's coordinates, one-hot: [P, E] -> [P, E, 19]."""
        return self._observation.index_select(0, state.reshape(-1)).view(*state.shape, -1)

    def score(self, reward: Tensor) -> Tensor:
        """0 the best constant action, 1 the best response, both against the references."""
        return self._game.score(self.role, reward)

    def exact_score(self, actions: Tensor) -> Tensor:
        """Score of P stationary policies by dynamic programming; actions [P, S] -> [P]."""
        return self._game.score(self.role, self._game.value(self.role, actions))

    def every_state(self) -> Tensor:
        """[1, S]: all states, to ask a policy what it does in each."""
        return torch.arange(STATES)[None]

    def played(self, state: Tensor, action: Tensor) -> Played:
        """What all four roles made of the states and actions of an episode (any equal shapes)."""
        mean = self._table[(state * self.actions + action).reshape(-1)].mean(0)
        scores = {str(r): float(self._game.score(r, mean[i])) for i, r in enumerate(ROLES)}
        return Played(scores, {"veto": float(mean[4]), "starved": float(mean[5])}, float(mean[6]))


def _joint_table(game: Game, role: Role) -> Tensor:
    """[S * A, 7]: rewards of the four roles, veto, starved and latency, the other roles following their references."""
    rows = []
    for action in range(ACTIONS[role]):
        joint = game.joint({role: torch.full((STATES,), action)})
        weight = joint.policy[:, :, None, None] * joint.consensus[:, None, :, None] * joint.ethical[:, None, None, :]
        adequate = torch.exp(-8 * (game.need - joint.resource).clamp_min(0).square()).view(-1, 1, 1, 1)
        flows = [*game.reward.at(adequate), game.veto, game.starved.at(adequate), game.latency]
        flow = torch.stack([(x * weight).sum((1, 2, 3)) for x in flows], 1)
        flow[:, 3] += price(joint.resource)
        rows.append(flow)
    return torch.stack(rows, 1).reshape(-1, 7)
