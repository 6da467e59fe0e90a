"""P lanes of E copies of an environment, all stepped at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

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
    Joint,
    Role,
    adequacy,
    coordination_game,
    price,
)
from tars.agents.random_streams import RandomStreams
from tars.schemas.bounds import PARALLEL

COPIES: Final = PARALLEL
"""Parallel copies in a lane: an episode of a lane is HORIZON steps in each."""
CHANCE: Final = 0xC0FFEE
"""Mixed into a lane's seed for its environment, so that chance and the learner's own draws are independent."""


@dataclass(frozen=True)
class Discrete:
    """An action is one of 0..n-1."""

    n: int


@dataclass(frozen=True)
class Continuous:
    """An action is `size` numbers in [-1, 1]; those outside are clipped by the environment."""

    size: int


Actions = Discrete | Continuous
Policy = Callable[[Tensor], Tensor]
"""States [P, n, width] -> actions [P, n] (of a discrete environment) or [P, n, size]."""


class Transition(NamedTuple):
    """One step of every copy [P, E]."""

    action: Tensor
    """[P, E], or [P, E, size] of a continuous environment."""
    reward: Tensor
    after: Tensor
    """The state [P, E, width] that the action led to, before any reset."""
    terminated: Tensor
    """1 where the task ended there, so that nothing comes after; a time limit is no such end."""
    cut: Tensor | None
    """1 where an episode ended, by its task or its time limit; None: nowhere."""
    state: Tensor
    """The state to act in next: another one where the copy was reset."""


class Evaluation(NamedTuple):
    """How policies did in evaluation episodes, lane by lane."""

    score: Tensor
    """[P]"""
    conflict: Tensor | None
    """Conflicts a step [P]; None: the environment has none."""
    latency: Tensor | None
    """Latency a step [P], 1 for a full backlog; None: the environment has none."""


class Environment(Protocol):
    """What a population learns in. A state is `width` floats; one environment serves one population."""

    name: str
    actions: Actions
    features: int
    width: int
    copies: int
    horizon: int
    """Vector steps of a lane's episode: the rhythm of reports, rungs, refills and reloads for a boundary."""
    dtype: torch.dtype
    device: torch.device

    def open(self, seeds: Sequence[int]) -> None:
        """Make as many lanes as there are seeds."""

    def close(self) -> None:
        """Let go of what the lanes hold."""

    def reseed(self, member: int, seed: int) -> None:
        """Start one lane anew."""

    def begin(self) -> Tensor:
        """Begin an episode of every lane; the states to act in [P, E, width]."""

    def step(self, action: Tensor) -> Transition:
        """Act once in every copy."""

    def observe(self, state: Tensor) -> Tensor:
        """[..., P, B, width] -> [..., P, B, features]."""

    def behaviour(self) -> Tensor:
        """Score of what was done in the episode [P]."""

    def evaluate(self, policy: Policy, episodes: int, seeds: Sequence[int]) -> Evaluation:
        """How a policy does over evaluation episodes; the same seeds, the same chance."""

    def exact_score(self, policy: Policy) -> Tensor | None:
        """The same without chance [P], where that is known."""

    def tensors(self) -> dict[str, Tensor]:
        """What it learnt of each lane [P, ...], as the tensors themselves."""

    def random_state(self, member: int) -> Tensor | None:
        """Where a lane's chance stands, as bytes; None: its copies cannot tell, and start anew."""

    def set_random_state(self, member: int, state: Tensor) -> None:
        """Go on from there."""


class RoleEnvironment:
    """One role of the coordination game against the others' reference policies, or against other partners.

    Scores are on the references' scale whoever the partners are: a live agent's own scores are on it, and against some
    partners the best response and the best constant action are worth nearly the same. So 1 can be out of reach there,
    or be surpassed; differences of scores stay differences of reward.
    """

    def __init__(
        self,
        role: Role,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        *,
        against: Joint | None = None,
    ) -> None:
        if role not in ROLES:
            raise ValueError(f"{role} is no role of the game; choose among {', '.join(ROLES)}")
        self.name: str = role
        self.role: Role = role
        self.dtype, self.device = dtype, torch.device(device)
        self.actions: Actions = Discrete(ACTIONS[role]) if role in ACTIONS else Continuous(1)
        self.features, self.width, self.copies, self.horizon = FEATURES, 1, COPIES, HORIZON
        self._game = game = coordination_game()
        self._next = game.successor.reshape(-1).to(self.device, dtype)
        self._observation = game.observation.to(self.device, dtype)
        self._start = game.start.to(self.device, dtype)
        self._partners = others = game.reference if against is None else against
        self._costs = [part.reshape(-1, 2).to(self.device, dtype) for part in game.costs(role, others)]
        if role in ACTIONS:
            outcome, reward = game.faced(role, others)
            self._cumulative, self._reward = self._flat(outcome), reward.reshape(-1).to(self.device, dtype)
        else:
            outcomes, rewards = game.faced_capacity(others)
            self._need = game.need.to(self.device, dtype)
            self._cumulatives = [self._flat(part) for part in outcomes]  # affine, so their sums are
            self._rewards = [part.reshape(-1).to(self.device, dtype) for part in rewards]

    def _flat(self, outcome: Tensor) -> Tensor:
        last = len(OUTCOMES) - 1  # what is left is the last outcome's
        return outcome.cumsum(-1)[..., :last].reshape(-1, last).to(self.device, self.dtype)

    def open(self, seeds: Sequence[int]) -> None:
        """Make as many lanes as there are seeds."""
        self._random = RandomStreams([seed ^ CHANCE for seed in seeds], self.dtype, self.device)
        shape = (len(seeds), self.copies)
        self._nowhere, self._everywhere = (make(shape, dtype=self.dtype) for make in (torch.zeros, torch.ones))
        self._nowhere, self._everywhere = self._nowhere.to(self.device), self._everywhere.to(self.device)

    def close(self) -> None:
        """Nothing is held but memory."""

    def reseed(self, member: int, seed: int) -> None:
        """Start one lane's chance anew."""
        self._random.reseed(member, seed ^ CHANCE)

    def begin(self) -> Tensor:
        """Begin in one of the 16 start states; draw all chance of the episode."""
        chance = self._random.uniform(self.horizon + 1, 2, self.copies)  # [H + 1, P, 2, E]
        self._draws, self._ticks = _drawn(chance)
        self._state = self._started(chance[-1, :, 0])
        self._return, self._at = torch.zeros_like(self._nowhere), 0
        return self._state

    def _started(self, uniform: Tensor) -> Tensor:
        return self._start[(uniform * len(self._start)).long()][..., None]

    def step(self, action: Tensor) -> Transition:
        """Act once in every copy. The episode ends by its time limit only, in all copies at once."""
        after, reward = self._result(self._state, action, self._draws[self._at], self._ticks[self._at])
        self._return += reward
        self._at += 1
        self._state = after
        cut = self._everywhere if self._at == self.horizon else None
        return Transition(action, reward, after, self._nowhere, cut, after)

    def result(self, state: Tensor, action: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
        """(next state [P, E, 1], reward [P, E]): draw an outcome, then a tick. The reward is the expected one, no draw.

        state [P, E, 1]; chance [P, 2, E] in [0, 1).
        """
        draws, ticks = _drawn(chance[None])
        return self._result(state, action, draws[0], ticks[0])

    def _result(self, state: Tensor, action: Tensor, draw: Tensor, tick: Tensor) -> tuple[Tensor, Tensor]:
        """The same of what was drawn [P, E, 1], and the tick [P, E]."""
        number = state[..., 0].long()
        cumulative, reward = self._expected(number, action)
        outcome = (draw >= cumulative).sum(-1)
        at = torch.add(tick, number, alpha=TICKS).add_(outcome, alpha=STATES * TICKS).view(-1)
        return self._next.index_select(0, at).view_as(state), reward

    def _expected(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Cumulative probabilities of the outcomes [P, E, O - 1], and rewards [P, E]."""
        shape = state.shape
        if isinstance(self.actions, Discrete):
            pair = torch.add(action, state, alpha=self.actions.n).view(-1)
            return self._cumulative.index_select(0, pair).view(*shape, -1), self._reward.index_select(0, pair).view(
                shape
            )
        state, given = state.view(-1), capacity(action).reshape(-1)
        m = adequacy(self._need.index_select(0, state), given)
        (base, slope), (paid, more) = (
            [table.index_select(0, state) for table in tables] for tables in (self._cumulatives, self._rewards)
        )
        reward = torch.addcmul(paid, more, m) + price(given)
        return torch.addcmul(base, slope, m[:, None]).view(*shape, -1), reward.view(shape)

    def observe(self, state: Tensor) -> Tensor:
        """The state's coordinates, one-hot: [P, B, 1] -> [P, B, 19]."""
        return self._observation.index_select(0, state.reshape(-1).long()).view(*state.shape[:-1], -1)

    def behaviour(self) -> Tensor:
        """0 the best constant action, 1 the best response, both against the references, whoever the partners are."""
        return self._game.score(self.role, self._return.mean(1) / self.horizon)

    def evaluate(self, policy: Policy, episodes: int, seeds: Sequence[int]) -> Evaluation:
        """Means over `episodes` episodes of all copies; rewards and costs are the expected ones, no draws."""
        random = RandomStreams(seeds, self.dtype, self.device)
        chance = random.uniform(self.horizon + 1, 2, episodes * self.copies)
        state = self._started(chance[-1][:, 0])
        reward, costs = self._nowhere.new_zeros(len(seeds)), self._nowhere.new_zeros(len(seeds), 2)
        for draws in chance[:-1]:
            action = policy(state)
            costs += self._expected_costs(state, action).mean(1)
            state, paid = self.result(state, action, draws)
            reward += paid.mean(1)
        score = self._game.score(self.role, reward / self.horizon)
        return Evaluation(score, *(costs / self.horizon).unbind(1))

    def _expected_costs(self, state: Tensor, action: Tensor) -> Tensor:
        """Conflicts and latency [P, E, 2] expected of these actions."""
        number = state[..., 0].long().view(-1)
        base, slope = self._costs
        if isinstance(self.actions, Discrete):
            pair = number * self.actions.n + action.reshape(-1)
            return base.index_select(0, pair).view(*state.shape[:-1], 2)
        m = adequacy(self._need.index_select(0, number), capacity(action).reshape(-1))
        cost = torch.addcmul(base.index_select(0, number), slope.index_select(0, number), m[:, None])
        return cost.view(*state.shape[:-1], 2)

    def exact_score(self, policy: Policy) -> Tensor | None:
        """Score by dynamic programming."""
        members = len(self._nowhere)
        action = policy(self.every_state().expand(members, -1, -1))
        taken = action if isinstance(self.actions, Discrete) else capacity(action)
        return self._game.score(self.role, self._game.value(self.role, taken.cpu(), self._partners))

    def every_state(self) -> Tensor:
        """[1, S, 1]: all states, to ask a policy what it does in each."""
        return torch.arange(STATES, dtype=self.dtype, device=self.device)[None, :, None]

    def tensors(self) -> dict[str, Tensor]:
        """Nothing is learnt of the game."""
        return {}

    def random_state(self, member: int) -> Tensor | None:
        """Where a lane's chance stands."""
        return self._random.state(member)

    def set_random_state(self, member: int, state: Tensor) -> None:
        """Go on from there."""
        self._random.set_state(member, state)


def _drawn(chance: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Of [T, P, 2, E] in [0, 1), step by step: what an outcome is drawn with [P, E, 1], and the tick [P, E]."""
    return chance[:, :, 0, :, None].unbind(0), (chance[:, :, 1] * TICKS).long().unbind(0)


def capacity(action: Tensor) -> Tensor:
    """What resource gives, in [0, 1], of an action [..., 1] in [-1, 1]."""
    return ((action[..., 0] + 1) / 2).clamp(0, 1)
