"""The coordination game for everybody else's learners: a PettingZoo environment, and four of Gymnasium.

    gymnasium.make("tars.agents.doors:tars/Policy-v0")   # or Consensus, Ethical, Resource
    tars.agents.game.parallel_env()

One copy, stepped with plain numbers: tens of microseconds, where the tensors of `joint_game` want many copies at once.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pettingzoo import ParallelEnv

from tars.agents.game import (
    ACTIONS,
    FEATURES,
    HORIZON,
    OUTCOMES,
    ROLES,
    TICKS,
    Role,
    coordination_game,
)

IDS: Final = {f"tars/{role.capitalize()}-v0": role for role in ROLES}
Observation = NDArray[np.float32]
Space = Discrete | Box


class Tables(NamedTuple):
    """The game's tables as arrays; S states, O outcomes."""

    observation: Observation
    """[S, 19]"""
    need: NDArray[np.float64]
    """[S]"""
    flow: NDArray[np.float64]
    """[2, S, 4, 3, 3, O - 1 + 4 + 3]: base and slope of cumulated outcomes, rewards, veto, starved and latency."""
    successor: NDArray[np.int64]
    """[O, S, 64]"""
    start: NDArray[np.int64]
    """[16]"""


@functools.cache
def tables() -> Tables:
    """The tables, made once."""
    game = coordination_game()
    flows = []
    for part in (0, 1):
        outcome = game.outcome[part].cumsum(-1)[..., : len(OUTCOMES) - 1]
        fixed = game.veto * (1 - part), game.starved[part], game.latency * (1 - part)
        flows.append(np.concatenate([outcome, game.reward[part].movedim(0, -1), np.stack(fixed, -1)], -1))
    observation = game.observation.float().numpy()
    return Tables(observation, game.need.numpy(), np.stack(flows), game.successor.numpy(), game.start.numpy())


def action_space(role: Role) -> Space:
    """What a role chooses among: a number of an action, or the capacity in [0, 1]."""
    return Discrete(ACTIONS[role]) if role in ACTIONS else Box(0.0, 1.0, (1,), np.float32)


class CoordinationGame(ParallelEnv[str, Observation, Any]):  # type: ignore[misc] # PettingZoo has no types
    """Four roles act jointly for 32 steps, which end by a time limit: truncated, never terminated.

    Everybody sees the whole state, one-hot. A reward is an expectation, so it is certain given state and joint action;
    infos hold the conflicts and the latency of the step.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "name": "tars_coordination_v0",
        "render_modes": ["ansi"],
        "is_parallelizable": True,
    }

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.possible_agents: list[str] = [str(role) for role in ROLES]
        self.agents: list[str] = []
        self.observation_spaces = {role: Box(0.0, 1.0, (FEATURES,), np.float32) for role in self.possible_agents}
        self.action_spaces = {str(role): action_space(role) for role in ROLES}
        self._tables = tables()
        self._random, self._state, self._at = np.random.default_rng(), 0, 0

    def observation_space(self, agent: str) -> Box:
        """The four coordinates of the state, one-hot."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space:
        """Of a role."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Observation], dict[str, dict[str, Any]]]:
        """Begin in one of the 16 start states."""
        del options
        if seed is not None:
            self._random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self._state, self._at = int(self._random.choice(self._tables.start)), 0
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, Observation], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """Act jointly; raises ValueError for an action that a role does not have."""
        agents = self.agents
        if not agents:
            return {}, {}, {}, {}, {}
        policy, consensus, ethical = (self._chosen(role, actions) for role in ACTIONS)
        capacity = self._capacity(actions)
        m = float(np.exp(-8 * max(self._tables.need[self._state] - capacity, 0.0) ** 2))
        base, slope = self._tables.flow[:, self._state, policy, consensus, ethical]
        flow = base + slope * m
        last = len(OUTCOMES) - 1
        rewards = flow[last : last + len(ROLES)].tolist()
        rewards[ROLES.index("resource")] += -2.5 * capacity**2 - 0.4 * capacity
        veto, starved, latency = flow[last + len(ROLES) :].tolist()
        outcome = int((self._random.random() >= flow[:last]).sum())
        self._state = int(self._tables.successor[outcome, self._state, self._random.integers(TICKS)])
        self._at += 1
        over = self._at == HORIZON
        info = {"conflicts": {"veto": veto, "starved": starved}, "latency": latency}
        found = self._observations()
        if over:
            self.agents = []
        return (
            found,
            dict(zip(agents, rewards, strict=True)),
            dict.fromkeys(agents, False),
            dict.fromkeys(agents, over),
            {agent: dict(info) for agent in agents},
        )

    @property
    def state_number(self) -> int:
        """The state, as `coordination_game` numbers it."""
        return self._state

    def state(self) -> Observation:
        """What everybody sees."""
        seen: Observation = self._tables.observation[self._state].copy()
        return seen

    def render(self) -> str | None:
        """The state in words, in render mode ansi."""
        if self.render_mode != "ansi":
            return None
        load, demand, risk, backlog = np.unravel_index(self._state, (6, 4, 3, 6))
        return f"step {self._at}: load {load}, demanded class {demand}, risk {risk}, backlog {backlog}"

    def _observations(self) -> dict[str, Observation]:
        return {agent: self._tables.observation[self._state].copy() for agent in self.agents}

    def _chosen(self, role: Role, actions: Mapping[str, Any]) -> int:
        number = int(actions[role])
        if not 0 <= number < ACTIONS[role]:
            raise ValueError(f"{role} has the actions 0 to {ACTIONS[role] - 1}, not {number}")
        return number

    def _capacity(self, actions: Mapping[str, Any]) -> float:
        capacity = float(np.asarray(actions["resource"]).reshape(-1)[0])
        if not 0 <= capacity <= 1:
            raise ValueError(f"resource gives a capacity from 0 to 1, not {capacity}")
        return capacity


class RoleEnv(gymnasium.Env[Observation, Any]):
    """One role of the game, the others following their reference policies."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["ansi"]}  # type: ignore[misc] # of the class, as theirs is

    def __init__(self, role: Role, render_mode: str | None = None) -> None:
        self.role, self.render_mode = role, render_mode
        self._game = CoordinationGame(render_mode)
        self.observation_space = self._game.observation_spaces[role]
        self.action_space = action_space(role)
        reference = coordination_game().reference
        chosen = [probabilities.argmax(1).numpy() for probabilities in reference[:3]]
        self._others = dict(zip(ROLES, [*chosen, reference.resource.numpy()], strict=True))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=seed)
        # A game of its own seed where none is given: drawn from this environment's generator, as Gymnasium asks.
        self._game.reset(int(self.np_random.integers(2**31)), options)
        return self._game.state(), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:  # noqa: ANN401
        """Act in one role."""
        number = self._game.state_number
        joint = {str(role): table[number] for role, table in self._others.items()} | {str(self.role): action}
        observations, rewards, _, truncated, infos = self._game.step(joint)
        role = str(self.role)
        return observations[role], rewards[role], False, truncated[role], infos[role]

    def render(self) -> str | None:
        """The state in words, in render mode ansi."""
        return self._game.render()


def _register() -> None:
    """Make the four roles known to Gymnasium, which since 1.0 looks for no plugins: importing this module does it.

    So does naming it before the id: gymnasium.make("tars.agents.doors:tars/Policy-v0") needs no import.
    """
    for env_id, role in IDS.items():
        gymnasium.register(id=env_id, entry_point="tars.agents.doors:RoleEnv", kwargs={"role": role})


_register()
