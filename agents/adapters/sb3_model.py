"""What can be told of a Stable-Baselines3 model by looking at it."""

from dataclasses import dataclass
from typing import Any, Final

from stable_baselines3 import A2C, DDPG, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from stable_baselines3.common.vec_env import VecMonitor, is_vecenv_wrapped
from torch.optim import Optimizer

from tars.agents.adapters.adapter import CannotAttach
from tars.agents.adapters.sb3_facts import NETWORKS, NoiseKind, ScheduleKind
from tars.agents.adapters.step_rates import StepRates
from tars.schemas.hyperparameters import AlgorithmName

KINDS: Final[dict[type[BaseAlgorithm], AlgorithmName]] = {DQN: "dqn", A2C: "a2c", PPO: "ppo", DDPG: "ddpg"}
OWN_CLASS: Final = "_tars_kind"
"""Where the class that stands in for a model's own keeps the latter."""


class UnknownModel(CannotAttach):
    """A model that TARS has no adapter for; the message says which it has."""


@dataclass(frozen=True)
class Subject:
    """A model, and the learning rates that it has no place for."""

    model: Any
    """SB3's classes share hardly an attribute that is managed here: tests check each access, mypy cannot."""
    algorithm: AlgorithmName
    rates: StepRates


def subject_of(model: BaseAlgorithm) -> Subject:
    """Take hold of a model; raises UnknownModel."""
    algorithm = algorithm_of(model)

    def scheduled() -> float:
        return float(model.lr_schedule(model._current_progress_remaining))

    return Subject(model, algorithm, StepRates(optimisers_of(model), scheduled))


def algorithm_of(model: object) -> AlgorithmName:
    """Say what a model learns by; raises UnknownModel."""
    for kind, name in KINDS.items():
        if isinstance(model, kind):
            return name
    known = ", ".join(kind.__name__ for kind in KINDS)
    raise UnknownModel(
        f"{type(model).__name__} has no adapter: models of Stable-Baselines3's {known} have, and any torch loop by "
        "attach(optimizer=..., hyperparameters=...)"
    )


def optimisers_of(model: Any) -> dict[str, Optimizer]:
    """The optimisers of a model, by network."""
    if isinstance(model, DDPG):
        return {network: getattr(model, network).optimizer for network in NETWORKS}
    return {"policy": model.policy.optimizer}


def class_of(model: object) -> type[Any]:
    """The model's class, also while another stands in for it."""
    kind: type[Any] = vars(type(model)).get(OWN_CLASS, type(model))
    return kind


def own_code(model: object) -> tuple[str, ...]:
    """Methods of SB3 that decide what a value does, where the model has its own."""
    kind, names = next(kind for kind in KINDS if isinstance(model, kind)), ("train", "_update_learning_rate")
    return tuple(n for n in names if n in vars(model) or getattr(class_of(model), n) is not getattr(kind, n))


def schedule_of(schedule: Any) -> tuple[ScheduleKind, Any]:
    """Tell a schedule's kind, and the schedule below SB3's wrappers."""
    while isinstance(schedule, FloatSchedule):
        schedule = schedule.value_schedule
    if isinstance(schedule, ConstantSchedule):
        return "constant", schedule
    return ("linear" if type(schedule) is LinearSchedule else "other"), schedule


def noises_of(noise: ActionNoise | None) -> list[Any]:
    """Every object that draws."""
    return list(noise.noises) if isinstance(noise, VectorizedActionNoise) else [] if noise is None else [noise]


def noise_kind(noise: ActionNoise | None) -> NoiseKind:
    """Tell whether every one that draws has a sigma as SB3's have."""
    known = (NormalActionNoise, OrnsteinUhlenbeckActionNoise)
    if noise is None:
        return "none"
    return "normal" if all(isinstance(each, known) for each in noises_of(noise)) else "other"


def shows_episodes(model: BaseAlgorithm) -> bool:
    """Returns come from SB3's Monitor; without one no episode is seen."""
    env = model.get_env()
    return env is None or is_vecenv_wrapped(env, VecMonitor) or all(env.env_is_wrapped(Monitor))
