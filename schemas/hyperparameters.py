"""Every hyperparameter, declared once: name, type, default, bounds, search, and when a change takes effect.

Names and defaults are Stable-Baselines3's. Bounds are the hull of published tuning spaces (medium: RL Zoo's samplers
and tuned files; low: ARLBench's spaces). `bounds.py` checks values against these declarations; Optuna's space, the
page's form and the command line are derived from them.
"""

from collections.abc import Mapping
from ctypes import c_float
from dataclasses import dataclass
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


Moment = Literal["live", "boundary", "rebuild", "fixed"]
"""live: next gradient step or action; boundary: next rollout or episode; rebuild: a new buffer; fixed: never."""
Learner = Literal["ours", "sb3", "torch_loop"]
AlgorithmName = Literal["dqn"]


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
    game_defaults: Mapping[str, float]
    game_search: Mapping[str, Search]
    """Where a study of the game looks, in 16 environments a lane; it replaces `search` there."""

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

ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in (DQN,)}

GAME_ROLES: Mapping[str, AlgorithmName | None] = {"policy": "dqn", "consensus": None, "ethical": None, "resource": None}
"""The four roles of the coordination game, and the algorithm that learns each; None: it follows its reference."""
