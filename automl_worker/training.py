"""Training trials: as the lanes of one population, or one by one where another trainer is asked for."""

import math
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from tars.agents import checkpoint, training_thread
from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.checkpoint import Snapshot
from tars.agents.environments import Environment, RoleEnvironment
from tars.agents.game import ROLES
from tars.agents.gymnasium_environment import GymnasiumEnvironment
from tars.automl_worker.halving import falls_behind
from tars.automl_worker.single_trainer import resolve
from tars.schemas.hyperparameters import Values
from tars.schemas.trial import RunTrial

EVALUATION: Final = 0x5EED
"""Mixed into a trial's seed for its evaluation: incumbent and candidate of one seed are judged by the same chance."""
RECENT: Final = 5
"""Episodes whose mean behaviour score counts at a rung: one alone is mostly chance."""

Progress = Callable[[RunTrial, int, float], None]
"""(trial, episode, behaviour score); raises to end the training."""
More = Callable[[RunTrial, int], Sequence[RunTrial]]
"""(a trial, how many): others that wait and can share its population."""


@dataclass(frozen=True)
class Result:
    """What became of a trial."""

    trial: RunTrial
    score: float | None
    """None: it failed."""
    exact_score: float | None
    cpu_seconds: float
    error: str | None = None
    pruned_at: int | None = None
    """The rung at which it ended; its score is the behaviour score there."""
    conflict: float | None = None
    """Conflicts a step in evaluation; None: its environment or its trainer tells of none."""
    latency: float | None = None
    """The same of latency."""


def group_of(trial: RunTrial) -> Hashable:
    """What trials must share to be lanes of one population; a trial that cannot say, or is no lane, is alone."""
    try:
        structure = ALGORITHMS[trial.algorithm].structure(trial.hyperparameters)
    except KeyError:
        return trial.key
    if trial.trainer != "population":
        return trial.key
    task = (trial.environment, trial.score_range, trial.normalize, trial.training)
    return trial.algorithm, structure, task, trial.train_episodes, trial.eval_episodes, trial.rungs, trial.snapshot


def run_group(
    trials: Sequence[RunTrial], progress: Progress, more: More, allowed: Collection[str], snapshot: bytes | None = None
) -> Iterator[Result]:
    """Train the trials together, and those that take the lanes of pruned ones; tell each result as it comes.

    If that breaks, each goes on alone, so that one bad trial fails alone. One that is named twice is trained once.
    `allowed` names the functions that a trial may ask for as its trainer; `snapshot` holds the bytes that all of them
    go on from, where they name one.
    """
    training_thread.prepare()
    waiting = {trial.key: trial for trial in trials}

    def taken(trial: RunTrial, count: int) -> Sequence[RunTrial]:
        new = [other for other in more(trial, count) if other.key not in waiting]
        waiting.update({other.key: other for other in new})
        return new

    try:
        for result in _results(tuple(waiting.values()), progress, taken, allowed, snapshot):
            del waiting[result.trial.key]
            yield result
    except Exception as error:  # noqa: BLE001 - whatever a trial's values bring about is that trial's failure
        if len(waiting) == 1:
            yield Result(next(iter(waiting.values())), None, None, 0.0, _last_line(error))
            return
        for trial in list(waiting.values()):
            yield from run_group([trial], progress, lambda *_: (), allowed, snapshot)


def _results(
    trials: Sequence[RunTrial], progress: Progress, more: More, allowed: Collection[str], snapshot: bytes | None
) -> Iterator[Result]:
    if snapshot is not None and (trials[0].training == "surrogate" or trials[0].trainer != "population"):
        raise ValueError("only the population goes on from a snapshot: no surrogate, and no other trainer")
    if trials[0].training == "surrogate":
        yield from (_surrogate(trial) for trial in trials)
    elif trials[0].trainer == "population":
        crowd = _Crowd(trials, progress, more, None if snapshot is None else checkpoint.parse(snapshot))
        try:
            yield from crowd.run()
        finally:
            crowd.environment.close()
    else:
        yield from (_alone(trial, progress, allowed) for trial in trials)


class _Crowd:
    """One population while its lanes are trained, pruned and refilled; all are at a boundary after each episode."""

    def __init__(self, trials: Sequence[RunTrial], progress: Progress, more: More, snapshot: Snapshot | None) -> None:
        self._progress, self._more, self._snapshot = progress, more, snapshot
        self._lanes: list[RunTrial | None] = list(trials)
        self._done = [0] * len(trials)
        self._behaved: list[list[float]] = [[] for _ in trials]
        """Behaviour scores of its episodes."""
        self._rungs: dict[tuple[str, int], list[float]] = defaultdict(list)
        """Scores of the trials of a study at a rung."""
        self._cpu = [0.0] * len(trials)
        first = trials[0]
        lanes = [Lane(trial.seed, trial.hyperparameters) for trial in trials]
        self.environment = environment_of(first, snapshot)
        self._population: Population = ALGORITHMS[first.algorithm](self.environment, lanes)
        for lane, trial in enumerate(trials):
            self._fork(lane, trial)

    def _fork(self, lane: int, trial: RunTrial) -> None:
        """Let a lane go on from the snapshot, if they do: incumbent and candidates of a seed share their chance."""
        if self._snapshot is not None:
            checkpoint.fork(self._population, lane, self._snapshot, trial.seed)

    def run(self) -> Iterator[Result]:
        """Until every lane is empty."""
        while live := [(lane, trial) for lane, trial in enumerate(self._lanes) if trial is not None]:
            began = time.thread_time()
            scores: list[float] = self._population.episode().tolist()
            share = (time.thread_time() - began) / len(live)
            for lane, trial in live:
                self._done[lane] += 1
                self._cpu[lane] += share
                self._behaved[lane].append(scores[lane])
                self._progress(trial, self._done[lane], scores[lane])
            yield from self._ended([(lane, trial) for lane, trial in live if self._done[lane] == trial.train_episodes])
            yield from self._pruned([(lane, trial) for lane, trial in live if self._done[lane] in trial.rungs])
            self._refill(live[0][1])

    def _ended(self, ended: Sequence[tuple[int, RunTrial]]) -> Iterator[Result]:
        """Score those that are trained: by evaluation, or what goes on from a live agent by all it earned."""
        if not ended:
            return
        began = time.thread_time()
        seeds = [0 if trial is None else trial.seed ^ EVALUATION for trial in self._lanes]
        finite = self._population.finite().tolist()
        measured = (*self._population.evaluate(ended[0][1].eval_episodes, seeds), self._population.exact_score())
        share = (time.thread_time() - began) / len(ended)
        for lane, trial in ended:
            self._lanes[lane] = None
            score, conflict, latency, exact = (None if found is None else float(found[lane]) for found in measured)
            if self._snapshot is not None:  # a live agent goes on exploring, and a watch sees what that costs
                score = fmean(self._behaved[lane])
            result = Result(trial, score, exact, self._cpu[lane] + share, conflict=conflict, latency=latency)
            yield _checked(result) if finite[lane] else _diverged(result, "parameters are not finite")

    def _pruned(self, arrived: Sequence[tuple[int, RunTrial]]) -> Iterator[Result]:
        """End those that are behind at their rung."""
        for lane, trial in arrived:
            self._rungs[trial.study_id, self._done[lane]].append(fmean(self._behaved[lane][-RECENT:]))
        for lane, trial in arrived:
            score = fmean(self._behaved[lane][-RECENT:])
            if falls_behind(score, self._rungs[trial.study_id, self._done[lane]]):
                self._lanes[lane] = None
                yield Result(trial, score, None, self._cpu[lane], pruned_at=self._done[lane])

    def _refill(self, like: RunTrial) -> None:
        """Give empty lanes to trials that wait, while others still train."""
        free = [lane for lane, trial in enumerate(self._lanes) if trial is None]
        if not free or len(free) == len(self._lanes) or not self._population.is_between_rollouts:
            return
        for lane, trial in zip(free, self._more(like, len(free)), strict=False):
            self._population.refill(lane, Lane(trial.seed, trial.hyperparameters))
            self._fork(lane, trial)
            self._lanes[lane], self._done[lane], self._behaved[lane], self._cpu[lane] = trial, 0, [], 0.0


def environment_of(trial: RunTrial, snapshot: Snapshot | None = None) -> Environment:
    """What a trial trains in: a role against the references, or against those who play beside what it goes on from."""
    for role in ROLES:
        if trial.environment == role:
            return RoleEnvironment(role, against=None if snapshot is None else snapshot.partners_of(role))
    return GymnasiumEnvironment(trial.environment, score_range=trial.score_range, normalize=trial.normalize)


def _checked(result: Result) -> Result:
    """The result itself, or that the trial diverged."""
    score, exact, conflict, latency = result.score, result.exact_score, result.conflict, result.latency
    if all(math.isfinite(number or 0.0) for number in (score, exact, conflict, latency)):
        return result
    return _diverged(result, f"score {score}, exactly {exact}, conflict {conflict}, latency {latency}")


def _diverged(result: Result, why: str) -> Result:
    return Result(result.trial, None, None, result.cpu_seconds, f"diverged: {why}")


def _alone(trial: RunTrial, progress: Progress, allowed: Collection[str]) -> Result:
    """Train by somebody else's code."""
    began = time.process_time()
    score = resolve(trial.trainer, allowed)(trial, lambda episode, score: progress(trial, episode, score))
    return _checked(Result(trial, score, None, time.process_time() - began))


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
