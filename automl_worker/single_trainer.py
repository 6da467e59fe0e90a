"""Trainers that train one trial at a time: Stable-Baselines3, and anybody's function."""

import importlib
import math
from collections.abc import Callable, Collection
from typing import Protocol

from tars.schemas.errors import TarsError
from tars.schemas.trial import RunTrial

Report = Callable[[int, float], None]
"""(episode, behaviour score); raises to end the training, and must be let through."""


class NoTrainer(TarsError):
    """A trial names a trainer that cannot be used here; the message says why, and what to do."""


class TrainOne(Protocol):
    """Trains one trial to its end and scores it."""

    def __call__(self, trial: RunTrial, report: Report) -> float:
        """Return the score of what was learnt, normalised."""


def resolve(name: str, allowed: Collection[str]) -> TrainOne:
    """Find a trainer by the name that a trial gives; raises NoTrainer.

    A function of the form `module:function` is called only if `allowed` has its name: a message must never be able to
    start any code it likes. It is called as

        train(hyperparameters, environment=..., seed=..., episodes=..., evaluation_episodes=..., report=...) -> score

    where `report(episode, score)` tells how far it has come, and raises when the trial is to end.
    """
    if name == "sb3":
        return _stable_baselines()
    if name not in allowed:
        raise NoTrainer(f"{name} may not be called here: whoever runs this trainer allows it by TRAINERS={name}")
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise NoTrainer(f"{name} cannot be imported: {error}") from error
    if not callable(found):
        raise NoTrainer(f"{name} is no function")
    return _Foreign(name, found)


class _Foreign:
    """Somebody's function as a trainer."""

    def __init__(self, name: str, train: Callable[..., object]) -> None:
        self._name, self._train = name, train

    def __call__(self, trial: RunTrial, report: Report) -> float:
        score = self._train(
            dict(trial.hyperparameters),
            environment=trial.environment,
            seed=trial.seed,
            episodes=trial.train_episodes,
            evaluation_episodes=trial.eval_episodes,
            report=report,
        )
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise NoTrainer(f"{self._name} returned {score!r}: a score is a finite number")
        return float(score)


def _stable_baselines() -> TrainOne:
    try:
        from tars.automl_worker.sb3_training import train  # noqa: PLC0415 - an extra that not every trainer has
    except ImportError as error:
        raise NoTrainer(f"Stable-Baselines3 is not installed here ({error}): pip install 'tars-rl[sb3]'") from error
    return train
