"""What a search finds: the gain of a study, what asking in batches costs, and what earlier champions are worth.

No servers: the product's own plan asks, its trainer's own code trains, in this process. A study starts from SB3's
default values of the searched keys, the game's for the structural rest. Points are compared by full-length lanes on
seeds that no search used, the same for all: search scores are those of the luckiest.
"""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from rich.progress import track

from report import Figure
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import plan
from tars.automl_worker.pace import Pace, pace_of
from tars.automl_worker.plan import best_few
from tars.automl_worker.steps import Ask
from tars.automl_worker.trainer import LANES
from tars.automl_worker.training import run_group
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES, AlgorithmName, Value
from tars.schemas.message import By
from tars.schemas.study import Sampler, StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed

Point = dict[str, Value]
QUICK: Final = (10, 5)
FULL: Final = (50, 10)
HELD_OUT: Final = range(10**6, 10**6 + 16)
"""Seeds on which points are compared."""
STUDY: Final = 20
"""Trials of a small study."""
LONG: Final = 100
"""Trials of the longer study whose pace is measured."""
EARLIER: Final = 3
"""Studies whose champions are tried first."""


@dataclass
class Search:
    """A study's search that was run here."""

    started: StudyStarted
    board: Board = field(default_factory=Board)
    asking: float = 0.0
    """CPU seconds of saying what to try."""
    finished: StudyFinished | None = None

    def best_after(self, trials: int) -> Point:
        """The best by search score of so many trials: what would be weighed; the incumbent counts."""
        scores = {n: found.score for n in range(trials) if (found := self.board.completed(n)) is not None}
        best = max(scores, key=lambda number: scores[number], default=0)
        return self.board.asked[best].hyperparameters


def study(
    algorithm: AlgorithmName, trials: int, seed: int, *, sampler: Sampler = "tpe", warm: Sequence[Point] = ()
) -> StudyStarted:
    """A study of quick trials that starts from SB3's values."""
    declared = ALGORITHMS[algorithm]
    return StudyStarted(
        study_id=f"s{seed}", by=By(principal="bench"), algorithm=algorithm, environment=role_of(algorithm), base={},
        incumbent=declared.demo_start(), searched=tuple(declared.game_search), trials=trials, quick=True,
        search_episodes=QUICK, full_episodes=FULL, sampler=sampler, seed=seed, structural=False, threshold=0.03,
        warm=tuple(warm),
    )  # fmt: skip


def role_of(algorithm: AlgorithmName) -> str:
    """Whose part of the game it plays."""
    return next(role for role, name in GAME_ROLES.items() if name == algorithm)


def search(started: StudyStarted, pace: Pace | None = None, *, weigh: bool = False) -> Search:
    """Ask and train until the search is over, or, with `weigh`, the whole study."""
    found = Search(started)
    while True:
        began = time.process_time()
        step = plan(started, found.board, pace=pace)
        took = time.process_time() - began
        if isinstance(step, StudyFinished):
            found.finished = step
            return found
        assert isinstance(step, Ask)  # noqa: S101 - all that was asked is answered
        if step.trials[0].phase == "search":
            found.asking += took
        elif not weigh:
            return found
        answer(found.board, step.trials)


def answer(board: Board, trials: Sequence[RunTrial]) -> None:
    """Train these as a trainer does, and note what they scored."""
    board.asked.update({trial.number: trial for trial in trials})
    for number, score in trained(trials).items():
        study_id = board.asked[number].study_id
        board.outcomes[number] = (
            TrialFailed(study_id=study_id, number=number, error="diverged", holder="bench")
            if score is None
            else TrialCompleted(study_id=study_id, number=number, score=score, cpu_seconds=0, holder="bench")
        )


def trained(trials: Sequence[RunTrial]) -> dict[int, float | None]:
    """By number, the scores of these trials, trained LANES at a time; None: diverged."""
    parts = [trials[first : first + LANES] for first in range(0, len(trials), LANES)]
    return {
        result.trial.number: result.score
        for part in parts
        for result in run_group(part, lambda *_: None, lambda *_: (), ())
    }


class Scale:
    """Weighs points of one algorithm on HELD_OUT; each only once."""

    def __init__(self, algorithm: AlgorithmName) -> None:
        self._algorithm = algorithm
        self._known: dict[tuple[Value, ...], float] = {}

    def weigh(self, points: Iterable[Point]) -> None:
        """Train what is not known yet, together."""
        names = ALGORITHMS[self._algorithm].names
        wanted = {key: point for point in points if (key := self._key(point)) not in self._known}
        trials = [
            RunTrial(
                study_id="scale", number=number, phase="confirmation", algorithm=self._algorithm,
                environment=role_of(self._algorithm), hyperparameters=dict(zip(names, key, strict=True)), seed=seed,
                train_episodes=FULL[0], eval_episodes=FULL[1],
            )
            for number, (key, seed) in enumerate((key, seed) for key in wanted for seed in HELD_OUT)
        ]  # fmt: skip
        scores = trained(trials)
        for index, key in enumerate(wanted):
            own = [scores[index * len(HELD_OUT) + place] for place in range(len(HELD_OUT))]
            self._known[key] = statistics.fmean(-1.0 if score is None else score for score in own)

    def __getitem__(self, point: Point) -> float:
        """Mean held-out score."""
        if self._key(point) not in self._known:
            self.weigh([point])
        return self._known[self._key(point)]

    def _key(self, point: Point) -> tuple[Value, ...]:
        return tuple(point[name] for name in ALGORITHMS[self._algorithm].names)


def gain(algorithm: AlgorithmName, seeds: Sequence[int], floors: tuple[float, float]) -> Figure:
    """The held-out gain that studies of 20 quick trials report of their champions: the median."""
    found: list[Evidence] = []
    for seed in track(seeds, description=f"{algorithm} studies"):
        finished = search(study(algorithm, STUDY, seed), weigh=True).finished
        assert finished is not None  # noqa: S101 - it was weighed
        assert finished.evidence is not None  # noqa: S101 - there was a champion
        found.append(finished.evidence)
    told = ", ".join(f"{e.verdict} {100 * e.gain:.1f} +-{100 * spread(e):.0f} on {len(e.scores)} pairs" for e in found)
    value = 100 * statistics.median(evidence.gain for evidence in found)
    return Figure(f"{algorithm}_study_gain_pp", value, *floors, more=True, note=told)


def spread(evidence: Evidence) -> float:
    """Standard deviation of its paired differences."""
    return statistics.stdev(pair.candidate - pair.incumbent for pair in evidence.scores)


def batches(algorithm: AlgorithmName, trials: int, repeats: int) -> list[Figure]:
    """What a study loses, and saves, by asking ahead at its usual pace; beside it, in whole batches, and at random."""
    scale, usual, whole = Scale(algorithm), pace_of(trials), max(4, trials // 5)
    alone, ahead = "one by one", f"{usual.in_flight} in flight"
    ways: dict[str, tuple[Pace, Sampler]] = {
        alone: (Pace(1, 1), "tpe"),
        ahead: (usual, "tpe"),
        f"batches of {whole}": (Pace(whole, whole), "tpe"),
        "random": (usual, "random"),
    }
    best: dict[str, list[float]] = {way: [] for way in ways}
    asking: dict[str, list[float]] = {way: [] for way in ways}
    for seed in track(range(repeats), description=f"{algorithm} in batches"):
        for way, (pace, sampler) in ways.items():
            found = search(study(algorithm, trials, seed, sampler=sampler), pace)
            few = best_few(found.started, found.board)
            scale.weigh(few)
            best[way].append(max(scale[point] for point in few))
            asking[way].append(found.asking / trials)
    lost = 100 * (np.array(best[alone]) - np.array(best[ahead]))
    note = f"+-{lost.std(ddof=1) / len(lost) ** 0.5:.1f} (standard error, {repeats} repeats); best held-out score: "
    note += ", ".join(f"{way} {statistics.fmean(scores):.3f}" for way, scores in best.items())
    per_trial = {way: 1e3 * statistics.fmean(seconds) for way, seconds in asking.items()}
    saved = per_trial[alone] - per_trial[ahead]
    times = ", ".join(f"{way} {milliseconds:.2f} ms" for way, milliseconds in per_trial.items())
    return [
        Figure(f"{algorithm}_{trials}_asked_ahead_lose_pp", float(lost.mean()), None, None, note=note),
        Figure(
            f"{algorithm}_{trials}_asked_ahead_save_cpu_ms",
            saved,
            None,
            None,
            more=True,
            note=f"of asking, a trial: {times}",
        ),
    ]


def warm(algorithm: AlgorithmName, repeats: int) -> list[Figure]:
    """How many trials find what a cold study of 20 usually finds, with and without champions of earlier studies."""
    scale, searched = Scale(algorithm), ALGORITHMS[algorithm].game_search
    earlier = [search(study(algorithm, STUDY, 1000 + number)) for number in range(EARLIER)]
    champions = [{name: run.best_after(STUDY)[name] for name in searched} for run in earlier]
    needed: dict[str, list[int]] = {}
    runs = {
        way: [
            search(study(algorithm, STUDY, seed, warm=tried))
            for seed in track(range(repeats), description=f"{algorithm} {way}")
        ]
        for way, tried in (("cold", ()), ("warm", champions))
    }
    goal = statistics.median(scale[run.best_after(STUDY)] for run in runs["cold"])
    for way, done in runs.items():
        needed[way] = [trials_to(run, scale, goal) for run in track(done, description=f"weighing {way}")]
    means = {way: statistics.fmean(counts) for way, counts in needed.items()}
    reached = {way: f"{sum(count <= STUDY for count in counts)}/{repeats}" for way, counts in needed.items()}
    note = f"trials {_each(means)}; reached in {STUDY}: {_each(reached)}; goal {goal:.3f}"
    note += f" from {scale[ALGORITHMS[algorithm].demo_start()]:.3f}"
    return [Figure(f"{algorithm}_warm_trials_share", means["warm"] / means["cold"], None, None, note=note)]


def trials_to(run: Search, scale: Scale, goal: float) -> int:
    """Trials until the best so far really is so good; one more than there are, if it never is."""
    return next((n for n in range(1, STUDY + 1) if scale[run.best_after(n)] >= goal), STUDY + 1)


def _each(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
