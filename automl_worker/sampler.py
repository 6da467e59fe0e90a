"""The next points of a study, from its history alone: an Optuna study that is filled anew for every batch."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from tars.schemas.evidence import Objective
from tars.schemas.hyperparameters import Algorithm, Choice, OneMinusLog, Search, Uniform, Value
from tars.schemas.study import Sampler

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

DIRECTIONS: Final = ("maximize", "minimize", "minimize")
"""Of score, conflict and latency."""
STARTUP_TRIALS: Final = 8
"""Points drawn at random before the estimator has something to estimate from."""


@dataclass(frozen=True)
class Asked:
    """A point that was asked, and what it was worth. A failed one has the failed score."""

    point: Mapping[str, Value]
    values: tuple[float, ...] | None
    """The score to maximise; with the objective pareto, conflict and latency to minimise behind it. None: it runs."""


def space_of(algorithm: Algorithm, searched: Sequence[str], *, in_game: bool) -> dict[str, Search]:
    """Where a study looks: in the game at the game's range of a key, where it has one, else at its declaration's."""
    ranges = algorithm.game_search if in_game else {}
    found = {name: ranges.get(name) or algorithm[name].search for name in searched}
    return {name: search for name, search in found.items() if search is not None}


def suggest(  # noqa: PLR0913 - what fixes a point
    algorithm: Algorithm,
    searched: Sequence[str],
    history: Sequence[Asked],
    *,
    in_game: bool,
    sampler: Sampler,
    seed: int,
    count: int,
    objective: Objective = "reward",
) -> list[dict[str, Value]]:
    """The next `count` points, a pure function of what was asked and answered: the same history, the same points."""
    space = space_of(algorithm, searched, in_game=in_game)
    distributions = _distributions(algorithm, space)
    known = () if sampler == "random" else history  # it learns nothing
    study = as_study(algorithm, searched, known, in_game=in_game, objective=objective)
    study.sampler = _sampler(sampler, seed, len(history))
    points: list[dict[str, Value]] = []
    for _ in range(count):
        trial = study.ask(distributions)  # it goes on running there, and the next one keeps away from it
        points.append({name: _value(algorithm, name, search, trial.params[name]) for name, search in space.items()})
    return points


def as_study(
    algorithm: Algorithm,
    searched: Sequence[str],
    history: Sequence[Asked],
    *,
    in_game: bool,
    objective: Objective = "reward",
) -> optuna.Study:
    """An Optuna study in memory that was told this history; discounts are told as 1 - x."""
    space = space_of(algorithm, searched, in_game=in_game)
    distributions = _distributions(algorithm, space)
    study = optuna.create_study(directions=DIRECTIONS if objective == "pareto" else DIRECTIONS[:1])
    study.add_trials([_told(space, distributions, asked) for asked in history if is_inside(space, asked.point)])
    return study


def _sampler(name: Sampler, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """A fresh one for every batch, so that a rebuilt study goes on as the old one would have."""
    mixed = (seed * 1_000_003 + number) % 2**32
    if name == "random":
        return optuna.samplers.RandomSampler(seed=mixed)
    return optuna.samplers.TPESampler(
        seed=mixed, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
    )


def is_inside(space: Mapping[str, Search], point: Mapping[str, Value]) -> bool:
    """An incumbent may lie outside of where the study looks; then its score teaches the sampler nothing."""
    return all(_holds(search, point[name]) for name, search in space.items())


def _holds(search: Search, value: Value) -> bool:
    if isinstance(search, Choice):
        return value in search.values
    return value is not None and search.low <= value <= search.high


def _told(
    space: Mapping[str, Search], distributions: dict[str, BaseDistribution], asked: Asked
) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=TrialState.RUNNING if asked.values is None else TrialState.COMPLETE,
        params={name: _parameter(search, asked.point[name]) for name, search in space.items()},
        distributions=distributions,
        values=asked.values,
    )


def _distributions(algorithm: Algorithm, space: Mapping[str, Search]) -> dict[str, BaseDistribution]:
    return {name: _distribution(algorithm, name, search) for name, search in space.items()}


def _distribution(algorithm: Algorithm, name: str, search: Search) -> BaseDistribution:
    match search:
        case Choice(values):
            return CategoricalDistribution(values)
        case Uniform(low, high, log) if algorithm[name].type is int:
            return IntDistribution(int(low), int(high), log=log)
        case Uniform(low, high, log):
            return FloatDistribution(low, high, log=log)
        case OneMinusLog(low, high):
            return FloatDistribution(_one_minus(high), _one_minus(low), log=True)
        case _:
            assert_never(search)


def _parameter(search: Search, value: Value) -> Value:
    """What Optuna is told of a value."""
    return _one_minus(value) if isinstance(search, OneMinusLog) and value is not None else value


def _value(algorithm: Algorithm, name: str, search: Search, parameter: Value) -> Value:
    """What a parameter of Optuna's means: a plain number of the declared type, inside the range."""
    if parameter is None or isinstance(search, Choice):
        return parameter
    number = _one_minus(parameter) if isinstance(search, OneMinusLog) else parameter
    return algorithm[name].type(min(max(number, search.low), search.high))


def _one_minus(value: float) -> float:
    """1 - x without the dust of binary fractions: 1 - 0.9 is 0.1."""
    return round(1 - value, 12)
