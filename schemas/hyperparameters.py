"""Every hyperparameter, declared once: name, type, default, bounds, search, and when a change takes effect.

Names and defaults are Stable-Baselines3's. Bounds are the hull of published tuning spaces (medium: RL Zoo's samplers
and tuned files; low: ARLBench's spaces). `bounds.py` checks values against these declarations; Optuna's space, the
page's form and the command line are derived from them.
"""

from collections.abc import Mapping
from ctypes import c_float
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

Value = Annotated[StrictInt, Field(ge=-(2**53), le=2**53)] | StrictFloat | None
"""A plain finite number, or None where the declaration allows it. A bool is no number here."""
Values = Mapping[str, Value]


def same(one: Value, other: Value) -> bool:
    """Say whether a learner that computes with 32-bit floats cannot tell the two apart; whole numbers must be equal."""
    if one is not None and other is not None and float in {type(one), type(other)}:
        return c_float(one).value == c_float(other).value
    return one == other


def all_same(one: Values, other: Values) -> bool:
    """Say whether two sets have the same keys and, to a learner, the same values."""
    return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())


def changed(before: Values, after: Values) -> dict[str, Value]:
    """Where `after` differs, to a learner."""
    return {key: value for key, value in after.items() if not same(value, before.get(key))}


Moment = Literal["live", "boundary", "rebuild", "fixed"]
"""live: next gradient step or action; boundary: next rollout or episode; rebuild: a new buffer; fixed: never."""
Learner = Literal["ours", "sb3", "torch_loop"]
AlgorithmName = Literal["dqn", "a2c", "ppo", "ddpg"]


@dataclass(frozen=True)
class Uniform:
    """Search a number evenly between `low` and `high`; with `log`, evenly in its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class OneMinusLog:
    """Search `1 - x` evenly in its logarithm, for `x` between `low` and `high` (discounts)."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """Search among these values."""

    values: tuple[int | float | None, ...]


Search = Uniform | OneMinusLog | Choice


@dataclass(frozen=True)
class Hyperparameter:
    """One tunable number of an algorithm."""

    name: str
    type: type[int] | type[float]
    default: float | None
    low: tuple[float, float]
    """What strictness low allows, ends included."""
    medium: tuple[float, float]
    search: Search | None
    """Where a study of any environment looks; None: not searched."""
    takes_effect: Mapping[Learner, Moment]
    meaning: str
    """A sentence for people."""
    high_risk: str = ""
    """Why strictness high refuses any change; empty: it does not."""
    floor: float | None = None
    """Stands in for 0 when a x1.5 step is taken from it."""
    one_minus: bool = False
    """A step is taken on 1 - x (discounts)."""
    structural: bool = False
    """Lanes with different values cannot share a population; studies of the game leave it alone unless asked."""


@dataclass(frozen=True)
class Algorithm:
    """An algorithm's hyperparameters, and the values that the coordination game starts from."""

    name: AlgorithmName
    title: str
    hyperparameters: tuple[Hyperparameter, ...]
    game_defaults: Mapping[str, Value]
    game_search: Mapping[str, Search]
    """Where a study of the game looks, in 16 environments a lane; it replaces `search` there."""
    parallel_defaults: Mapping[str, Value] = field(default_factory=dict)
    """What a study of another environment starts from instead of SB3's values, for a lane's 16 copies."""

    def __getitem__(self, name: str) -> Hyperparameter:
        """The declaration of one key; KeyError where there is none."""
        for declared in self.hyperparameters:
            if declared.name == name:
                return declared
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All keys, in the order of declaration."""
        return tuple(declared.name for declared in self.hyperparameters)

    @property
    def defaults(self) -> dict[str, Value]:
        """Stable-Baselines3's values."""
        return {declared.name: declared.default for declared in self.hyperparameters}

    def demo_start(self) -> dict[str, Value]:
        """SB3's values for the keys that a study of the game searches, the game's for the structural rest."""
        defaults = self.defaults
        return {**self.game_defaults, **{name: defaults[name] for name in self.game_search}}


def _everywhere(moment: Moment, ours: Moment | None = None) -> dict[Learner, Moment]:
    return {"ours": ours or moment, "sb3": moment, "torch_loop": moment}


_REBUILD: dict[Learner, Moment] = {"ours": "rebuild", "sb3": "rebuild", "torch_loop": "fixed"}

DQN = Algorithm(
    name="dqn",
    title="Deep Q-learning (Mnih et al. 2015)",
    hyperparameters=(
        Hyperparameter(
            "learning_rate", float, 1e-4, (1e-6, 0.1), (1e-5, 0.1), Uniform(1e-4, 1e-2, log=True), _everywhere("live"),
            "Step size of Adam.",
        ),
        Hyperparameter(
            "gamma", float, 0.99, (0.0, 1.0), (0.9, 0.9999), OneMinusLog(0.9, 0.999), _everywhere("live"),
            "Discount: how much a later reward counts.", floor=1e-4, one_minus=True,
        ),
        Hyperparameter(
            "exploration_initial_eps", float, 1.0, (0.0, 1.0), (0.5, 1.0), Uniform(0.5, 1.0),
            _everywhere("live", ours="boundary"), "Share of random actions at the start.", floor=0.01,
        ),
        Hyperparameter(
            "exploration_final_eps", float, 0.05, (0.0, 1.0), (0.0, 0.2), Uniform(0.01, 0.2),
            _everywhere("live", ours="boundary"), "Share of random actions after the warm-up.", floor=0.01,
        ),
        Hyperparameter(
            "exploration_fraction", float, 0.1, (0.001, 1.0), (0.005, 0.5), Uniform(0.05, 0.5),
            _everywhere("live", ours="boundary"), "Part of training over which exploration falls to its final share.",
            high_risk="it can lift exploration far back up", floor=0.01,
        ),
        Hyperparameter(
            "batch_size", int, 32, (1, 1024), (16, 512), Choice((16, 32, 64, 128)),
            _everywhere("live", ours="boundary"), "Transitions in a gradient step.", structural=True,
        ),
        Hyperparameter(
            "buffer_size", int, 1_000_000, (1, 10_000_000), (500, 1_000_000), Choice((500, 1000, 2000, 5000)), _REBUILD,
            "Transitions that the replay buffer keeps.", high_risk="it moves memory and can lose data", structural=True,
        ),
        Hyperparameter(
            "learning_starts", int, 100, (0, 100_000), (0, 20_000), Choice((0, 32, 64, 128)), _everywhere("boundary"),
            "Environment steps before the first gradient step.",
            high_risk="raised past the steps done it stops learning", floor=1, structural=True,
        ),
        Hyperparameter(
            "target_update_interval", int, 10_000, (1, 100_000), (1, 20_000), Uniform(1, 250, log=True),
            _everywhere("live"), "Environment steps between two updates of the target network.",
        ),
        Hyperparameter(
            "tau", float, 1.0, (1e-4, 1.0), (0.01, 1.0), None, _everywhere("live"),
            "How far the target network moves to the online one at each of its updates.",
        ),
        Hyperparameter(
            "train_freq", int, 4, (1, 100_000), (1, 1000), Choice((1, 2, 4, 8, 16)), _everywhere("boundary"),
            "Vector steps between two rounds of gradient steps.", structural=True,
        ),
        Hyperparameter(
            "gradient_steps", int, 1, (1, 1000), (1, 1000), Choice((1, 2, 4)), _everywhere("boundary"),
            "Gradient steps in a round.", structural=True,
        ),
        Hyperparameter(
            "max_grad_norm", float, 10.0, (1e-3, 100.0), (0.3, 10.0), None, _everywhere("live"),
            "Longest gradient; a longer one is shortened to it.",
        ),
    ),
    game_defaults={
        "learning_rate": 1e-3, "gamma": 0.95, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05,
        "exploration_fraction": 0.2, "batch_size": 64, "buffer_size": 16384, "learning_starts": 512,
        "target_update_interval": 16, "tau": 0.05, "train_freq": 1, "gradient_steps": 1, "max_grad_norm": 10.0,
    },
    game_search={
        "learning_rate": Uniform(1e-4, 1e-2, log=True),
        "gamma": OneMinusLog(0.9, 0.99),
        "tau": Uniform(0.01, 0.2, log=True),
        "exploration_final_eps": Uniform(0.01, 0.2),
    },
)  # fmt: skip


def _learning_rate(default: float, medium: tuple[float, float], search: Search) -> Hyperparameter:
    return Hyperparameter(
        "learning_rate", float, default, (1e-6, 0.1), medium, search, _everywhere("live"), "Step size of the optimiser."
    )


def _gamma(moment: Moment) -> Hyperparameter:
    return Hyperparameter(
        "gamma", float, 0.99, (0.0, 1.0), (0.9, 0.9999), OneMinusLog(0.9, 0.999), _everywhere(moment),
        "Discount: how much a later reward counts.", floor=1e-4, one_minus=True,
    )  # fmt: skip


def _actor_critic(gae_lambda: float) -> tuple[Hyperparameter, ...]:
    """What A2C and PPO share. A rollout is weighed as a whole, so its discounts do not change in the middle of one."""
    return (
        _gamma("boundary"),
        Hyperparameter(
            "gae_lambda", float, gae_lambda, (0.0, 1.0), (0.8, 1.0), Uniform(0.8, 1.0),
            _everywhere("boundary"), "How far an advantage looks ahead before it trusts the critic.",
            floor=0.01, one_minus=True,
        ),
        Hyperparameter(
            "ent_coef", float, 0.0, (0.0, 1.0), (0.0, 0.1), Uniform(1e-5, 0.1, log=True), _everywhere("live"),
            "Weight of the policy's entropy in the loss.", floor=1e-4,
        ),
        Hyperparameter(
            "vf_coef", float, 0.5, (0.0, 1.0), (0.1, 1.0), Uniform(0.2, 1.0), _everywhere("live"),
            "Weight of the critic's error in the loss.", floor=0.01,
        ),
        Hyperparameter(
            "max_grad_norm", float, 0.5, (1e-3, 10.0), (0.3, 5.0), Uniform(0.3, 2.0), _everywhere("live"),
            "Longest gradient; a longer one is shortened to it.",
        ),
    )  # fmt: skip


def _n_steps(default: int, medium: tuple[float, float], search: Search, low: float) -> Hyperparameter:
    return Hyperparameter(
        "n_steps", int, default, (low, 10_000), medium, search, _REBUILD,
        "Vector steps of a rollout, from which the next gradient steps learn.",
        high_risk="it replaces the rollout buffer", structural=True,
    )  # fmt: skip


_ACTOR_CRITIC_SEARCH: Mapping[str, Search] = {
    "learning_rate": Uniform(1e-4, 5e-3, log=True),
    "gamma": OneMinusLog(0.9, 0.99),
    "gae_lambda": Uniform(0.8, 1.0),
    "ent_coef": Uniform(1e-4, 0.1, log=True),
    "vf_coef": Uniform(0.2, 1.0),
    "max_grad_norm": Uniform(0.3, 2.0),
}

A2C = Algorithm(
    name="a2c",
    title="Advantage actor-critic (Mnih et al. 2016)",
    hyperparameters=(
        _learning_rate(7e-4, (1e-5, 5e-3), Uniform(1e-4, 5e-3, log=True)),
        *_actor_critic(gae_lambda=1.0),
        _n_steps(5, (4, 2048), Choice((5, 8, 16, 32, 64)), low=1),
    ),
    game_defaults={
        "learning_rate": 2e-3, "gamma": 0.95, "gae_lambda": 0.95, "ent_coef": 0.01, "vf_coef": 0.5,
        "max_grad_norm": 0.5, "n_steps": 4,
    },
    game_search=_ACTOR_CRITIC_SEARCH,
)  # fmt: skip

PPO = Algorithm(
    name="ppo",
    title="Proximal policy optimisation (Schulman et al. 2017)",
    hyperparameters=(
        _learning_rate(3e-4, (1e-5, 5e-3), Uniform(1e-4, 5e-3, log=True)),
        *_actor_critic(gae_lambda=0.95),
        Hyperparameter(
            "clip_range", float, 0.2, (1e-3, 1.0), (0.1, 0.4), Uniform(0.1, 0.4), _everywhere("live"),
            "How far an action's probability may move from the rollout's before its gradient is cut off.",
        ),
        Hyperparameter(
            "target_kl", float, None, (1e-4, 1.0), (1e-3, 0.1), Choice((None, 0.01, 0.03, 0.1)), _everywhere("live"),
            "Divergence from the rollout's policy, at 1.5 times which its gradient steps end; none: never.",
        ),
        Hyperparameter(
            "n_epochs", int, 10, (1, 32), (1, 20), Choice((1, 5, 10, 20)), _everywhere("live", ours="boundary"),
            "Passes over a rollout.", structural=True,
        ),
        Hyperparameter(
            "batch_size", int, 64, (4, 16_384), (8, 512), Choice((16, 32, 64)), _everywhere("live", ours="boundary"),
            "Steps of a rollout in a gradient step.", structural=True,
        ),
        _n_steps(2048, (8, 2048), Choice((16, 32, 64, 128)), low=2),
    ),
    game_defaults={
        "learning_rate": 2e-3, "gamma": 0.95, "gae_lambda": 0.95, "ent_coef": 0.01, "vf_coef": 0.5,
        "max_grad_norm": 0.5, "clip_range": 0.2, "target_kl": None, "n_epochs": 4, "batch_size": 128, "n_steps": 32,
    },
    game_search={
        **_ACTOR_CRITIC_SEARCH,
        "clip_range": Uniform(0.1, 0.4),
        "target_kl": Choice((None, 0.01, 0.03, 0.1)),
    },
    parallel_defaults={"n_steps": 128},  # 2048 steps in all copies together; 2048 in each is more than a trial has
)  # fmt: skip


def _own_learning_rate(network: str, search: Search) -> Hyperparameter:
    return Hyperparameter(
        f"{network}_learning_rate", float, None, (1e-6, 0.1), (1e-5, 0.1), search, _everywhere("live"),
        f"Step size of Adam for the {network}; none: learning_rate.",
    )  # fmt: skip


DDPG = Algorithm(
    name="ddpg",
    title="Deep deterministic policy gradient (Lillicrap et al. 2016)",
    hyperparameters=(
        _learning_rate(1e-3, (1e-5, 0.1), Uniform(1e-4, 5e-3, log=True)),
        _own_learning_rate("actor", Uniform(1e-4, 3e-3, log=True)),
        _own_learning_rate("critic", Uniform(3e-4, 1e-2, log=True)),
        _gamma("live"),
        Hyperparameter(
            "tau", float, 0.005, (1e-4, 1.0), (1e-3, 0.08), Uniform(2e-3, 0.08, log=True), _everywhere("live"),
            "How far the target networks move to the online ones after each gradient step.",
        ),
        Hyperparameter(
            "noise_sigma", float, 0.0, (0.0, 2.0), (0.0, 1.0), Uniform(0.05, 0.6), _everywhere("live", ours="boundary"),
            "Standard deviation of the noise added to actions in [-1, 1].", floor=0.01,
        ),
        Hyperparameter(
            "batch_size", int, 256, (1, 2048), (16, 2048), Choice((32, 64, 128, 256)),
            _everywhere("live", ours="boundary"), "Transitions in a gradient step.", structural=True,
        ),
        Hyperparameter(
            "buffer_size", int, 1_000_000, (1, 10_000_000), (500, 1_000_000), Choice((1000, 2000, 5000)), _REBUILD,
            "Transitions that the replay buffer keeps.", high_risk="it moves memory and can lose data", structural=True,
        ),
        Hyperparameter(
            "learning_starts", int, 100, (0, 100_000), (0, 20_000), Choice((32, 64, 100, 200)), _everywhere("boundary"),
            "Environment steps before the first gradient step.",
            high_risk="raised past the steps done it stops learning", floor=1, structural=True,
        ),
        Hyperparameter(
            "train_freq", int, 1, (1, 100_000), (1, 512), Choice((1, 2, 4, 8)), _everywhere("boundary"),
            "Vector steps between two rounds of gradient steps.", structural=True,
        ),
        Hyperparameter(
            "gradient_steps", int, 1, (1, 1000), (1, 512), Choice((1, 2, 4, 8)), _everywhere("boundary"),
            "Gradient steps in a round.", structural=True,
        ),
    ),
    game_defaults={
        "learning_rate": 1e-3, "actor_learning_rate": None, "critic_learning_rate": None, "gamma": 0.95, "tau": 0.02,
        "noise_sigma": 0.3, "batch_size": 64, "buffer_size": 16384, "learning_starts": 512, "train_freq": 1,
        "gradient_steps": 1,
    },
    game_search={
        "actor_learning_rate": Uniform(1e-4, 3e-3, log=True),
        "critic_learning_rate": Uniform(3e-4, 1e-2, log=True),
        "gamma": OneMinusLog(0.9, 0.99),
        "tau": Uniform(0.002, 0.08, log=True),
        "noise_sigma": Uniform(0.05, 0.6),
    },
)  # fmt: skip

ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in (DQN, A2C, PPO, DDPG)}

GAME_ROLES: Mapping[str, AlgorithmName] = {
    "policy": "dqn",
    "consensus": "a2c",
    "ethical": "ppo",
    "resource": "ddpg",
}
"""The four roles of the coordination game, and the algorithm that learns each."""
