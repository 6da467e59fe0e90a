"""Small populations of every algorithm, in the roles of the game that it can play; and four at one table."""

from typing import Final, NamedTuple

import pytest
import torch
from torch import Tensor

from tars.agents import checkpoint
from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import Discrete, RoleEnvironment, capacity
from tars.agents.game import ROLES, Role
from tars.agents.joint_game import JointGame
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value

Values = dict[str, Value]
_REPLAY: Final[Values] = {"batch_size": 8, "buffer_size": 640, "learning_starts": 32, "train_freq": 4}
LESS: Final[dict[str, Values]] = {"dqn": _REPLAY, "a2c": {}, "ppo": {"n_steps": 16, "n_epochs": 2}, "ddpg": _REPLAY}
"""Less work than the game's values; a buffer that wraps in the second episode."""
NEW: Final[Values] = {
    "learning_rate": 5e-4, "gamma": 0.9, "tau": 0.5, "target_update_interval": 64, "max_grad_norm": 0.05,
    "exploration_initial_eps": 0.8, "exploration_final_eps": 0.1, "exploration_fraction": 0.4, "learning_starts": 4096,
    "batch_size": 16, "buffer_size": 512, "train_freq": 2, "gradient_steps": 2, "gae_lambda": 0.5, "ent_coef": 0.1,
    "vf_coef": 0.1, "n_steps": 8, "clip_range": 0.001, "target_kl": 1e-6, "n_epochs": 3, "noise_sigma": 0.6,
    "actor_learning_rate": 1e-4, "critic_learning_rate": 5e-3,
}  # fmt: skip
"""Of every key, another value than the game's, and than LESS has."""


class Learner(NamedTuple):
    """An algorithm in one role of the game."""

    algorithm: str
    role: Role

    @property
    def kind(self) -> type[Population]:
        """The class of its populations."""
        return ALGORITHMS[self.algorithm]

    @property
    def names(self) -> tuple[str, ...]:
        """Its hyperparameters."""
        return self.kind.DECLARED.names

    def values(self, **changes: Value) -> Values:
        """The whole set: the game's, with less work, but for `changes`."""
        return {**DECLARED[self.algorithm].game_defaults, **LESS.get(self.algorithm, {}), **changes}

    def population(self, *lanes: Values, seeds: tuple[int, ...] = ()) -> Population:
        """Lanes of these changes each; lane k of seed k unless told."""
        numbers = seeds or tuple(range(len(lanes)))
        made = [Lane(seed, self.values(**changes)) for seed, changes in zip(numbers, lanes, strict=True)]
        return self.kind(RoleEnvironment(self.role), made)


def train(learner: Population, episodes: int) -> Population:
    """Run it for some episodes."""
    for _ in range(episodes):
        learner.episode()
    return learner


DQN, A2C, PPO, DDPG = PLAYERS = tuple(Learner(GAME_ROLES[role], role) for role in ROLES)
OTHERS: Final = tuple(
    Learner(name, "policy" if Discrete in kind.ACTIONS else "resource")
    for name, kind in ALGORITHMS.items()
    if name not in GAME_ROLES.values()
)
"""Algorithms that no role of the game learns by."""
LEARNERS: Final = (*PLAYERS, *OTHERS, Learner("a2c", "resource"), Learner("ppo", "resource"))
"""The four of the game, and the two that can also choose numbers."""
every_learner = pytest.mark.parametrize("learner", LEARNERS, ids="-".join)
every_player = pytest.mark.parametrize("player", PLAYERS, ids="-".join)


class Table:
    """Four live agents that play jointly, step by step."""

    def __init__(self, changes: dict[str, Values] | None = None) -> None:
        self.players = {p.role: p.population((changes or {}).get(p.algorithm, {})) for p in PLAYERS}
        self.game = JointGame()
        self.game.open([3])

    def play(self, episodes: int, beside: tuple[Role, Population] | None = None) -> None:
        """Play; `beside` sees what its role sees, must do what it does, and learns from what came of it."""
        for _ in range(episodes):
            state, going = self.game.begin(), True
            everyone = [*self.players.items(), *([beside] if beside else [])]
            for _, learner in everyone:
                learner.begin(state)
            while going:
                with torch.no_grad():
                    actions = {role: learner.act() for role, learner in self.players.items()}
                    if beside:
                        assert torch.equal(beside[1].act(), actions[beside[0]])
                    outcomes = self.game.step(actions)
                for role, learner in everyone:
                    going = learner.receive(outcomes[role])

    def greedy(self) -> dict[Role, Tensor]:
        """What each role does in every state."""
        states = RoleEnvironment("policy").every_state()
        with torch.no_grad():
            chosen = {role: learner.greedy(states)[0] for role, learner in self.players.items()}
        return {**chosen, "resource": capacity(chosen["resource"])}

    def snapshot(self, role: Role) -> bytes:
        """Take one of them."""
        return checkpoint.dump(self.players[role], 0, transitions=True, partners=self.greedy())
