"""Training a group of trials as the lanes of one population."""

import math
import time
import traceback
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from tars.agents.algorithm import Lane
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import RoleEnvironment
from tars.schemas.hyperparameters import Values
from tars.schemas.trial import RunTrial

EVALUATION: Final = 0x5EED
"""Mixed into a trial's seed for its evaluation: incumbent and candidate of one seed are judged by the same chance."""

Progress = Callable[[RunTrial, int, float], None]
"""(trial, episode, behaviour score)."""


@dataclass(frozen=True)
class Result:
    """What became of a trial."""

    trial: RunTrial
    score: float | None
    """None: it failed."""
    exact_score: float | None
    cpu_seconds: float
    error: str | None = None


def group_of(trial: RunTrial) -> Hashable:
    """What trials must share to be lanes of one population; a trial that cannot say is alone."""
    structure: Hashable
    try:
        structure = ALGORITHMS[trial.algorithm].structure(trial.hyperparameters)
    except KeyError:
        structure = (trial.key,)
    return trial.algorithm, trial.environment, structure, trial.train_episodes, trial.eval_episodes, trial.training


def run_group(trials: Sequence[RunTrial], progress: Progress) -> list[Result]:
    """Train the trials as one population; if that breaks, each alone, so that one bad trial fails alone."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        if trials[0].training == "surrogate":
            return [_surrogate(trial) for trial in trials]
        return _train(trials, progress)
    except Exception as error:  # noqa: BLE001 - whatever a trial's values bring about is that trial's failure
        if len(trials) > 1:
            return [result for trial in trials for result in run_group([trial], progress)]
        return [Result(trials[0], None, None, 0.0, _last_line(error))]


def _train(trials: Sequence[RunTrial], progress: Progress) -> list[Result]:
    began = time.thread_time()
    environment = _environment(trials[0].environment)
    lanes = [Lane(trial.seed, trial.hyperparameters) for trial in trials]
    population = ALGORITHMS[trials[0].algorithm](environment, lanes)
    for episode in range(trials[0].train_episodes):
        scores = population.episode()
        for trial, score in zip(trials, scores.tolist(), strict=True):
            progress(trial, episode + 1, score)
    finite = population.finite().tolist()
    found = population.evaluate(trials[0].eval_episodes, [trial.seed ^ EVALUATION for trial in trials]).tolist()
    exact = population.exact_score().tolist()
    share = (time.thread_time() - began) / len(trials)
    return [
        _result(trial, score, true, share, sound=sound)
        for trial, score, true, sound in zip(trials, found, exact, finite, strict=True)
    ]


def _result(trial: RunTrial, score: float, exact: float, cpu_seconds: float, *, sound: bool) -> Result:
    if not sound:
        return Result(trial, None, None, cpu_seconds, "diverged: parameters are not finite")
    if not (math.isfinite(score) and math.isfinite(exact)):
        return Result(trial, None, None, cpu_seconds, f"diverged: score {score}, exactly {exact}")
    return Result(trial, score, exact, cpu_seconds)


def _environment(name: str) -> RoleEnvironment:
    return RoleEnvironment(name)  # type: ignore[arg-type] # a name that is no role is refused there


def _surrogate(trial: RunTrial) -> Result:
    """A closed form with one best point, for trying out everything around training; labelled, never promotable."""
    return Result(trial, _bowl(trial.hyperparameters), None, 0.0)


def _bowl(values: Values) -> float:
    rate, gamma = values["learning_rate"], values["gamma"]
    if rate is None or gamma is None:
        raise ValueError("the surrogate needs learning_rate and gamma")
    return 0.8 - 0.1 * abs(math.log10(rate / 2e-3)) - 2.0 * abs(gamma - 0.95)


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1][:1000]
