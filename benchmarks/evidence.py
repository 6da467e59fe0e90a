"""How honest a promotion is: studies whose candidates are no better, better by 5 points or worse, on real lanes.

The product's own procedure decides (coordinator.plan: three candidates and the incumbent on held-out seeds, all looks,
the choice of champion); only its scores are drawn from a pool of lanes that were trained beforehand by the trainer's
own code, at full length. Values that are equal give lanes that are equal to the bit on one seed, and then every
difference is 0 and proves nothing. So nothing-to-find has two forms:

paired: candidates whose learning rate is 0.01 to 0.03 % higher, on the incumbent's seeds. Nobody can prefer one of the
four, so which is called the incumbent is drawn anew for each seed. That is how a study weighs, with differences that
spread as measured for real candidates (0.03 to 0.11); floors and targets are for it.
apart: lanes with the incumbent's values and different seeds. They share no chance, so their differences spread as far
as any candidate's can (0.11 to 0.20): what is left when pairing gains nothing. Shown beside, as `..._apart`.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from scipy import stats

from report import Figure, arguments, show
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import plan
from tars.automl_worker.evidence import LOOKS
from tars.automl_worker.steps import Ask
from tars.automl_worker.trainer import LANES
from tars.automl_worker.training import run_group
from tars.automl_worker.trials import CONFIRMATION
from tars.schemas.evidence import Evidence, Verdict
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES, Algorithm, AlgorithmName
from tars.schemas.message import By
from tars.schemas.study import StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed

SLOTS: Final = CONFIRMATION.slots
Scores = NDArray[np.float64]
"""[pairs, SLOTS]: what the incumbent (first) and its candidates scored on each held-out seed."""
Draw = Callable[["Pool", np.random.Generator], Scores]
FULL: Final = (50, 10)
NUDGE: Final = 1e-4
"""Relative change of the learning rate from one column of a pool to the next."""
SEARCHED: Final = (0.0, 0.03, 0.02, 0.01)
"""What the search is made to say of the incumbent and the three candidates: all are worth weighing."""
POINTS: Final = 0.05
CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Pool:
    """Trained lanes of one algorithm."""

    algorithm: AlgorithmName
    scores: Scores
    """[seeds, SLOTS]: the game's default values, and three that hardly differ."""


@dataclass(frozen=True)
class Outcome:
    """How a study ended whose truth is known."""

    promoted: bool
    gain: float
    """As reported."""
    truth: float
    """What its champion really gains."""
    pairs: int


def train(algorithm: Algorithm, seeds: int) -> Pool:
    """Train seeds x SLOTS lanes, LANES at a time, as a trainer does."""
    role = next(role for role, name in GAME_ROLES.items() if name == algorithm.name)
    rate = algorithm.game_defaults["learning_rate"] or 0.0
    trials = [
        RunTrial(
            study_id="pool", number=number, phase="confirmation", algorithm=algorithm.name, environment=role,
            hyperparameters={**algorithm.game_defaults, "learning_rate": rate * (1 + NUDGE * (number % SLOTS))},
            seed=number // SLOTS, train_episodes=FULL[0], eval_episodes=FULL[1],
        )
        for number in range(seeds * SLOTS)
    ]  # fmt: skip
    scores = np.full(len(trials), np.nan)
    for first in range(0, len(trials), LANES):
        for result in run_group(trials[first : first + LANES], lambda *_: None, lambda *_: (), ()):
            scores[result.trial.number] = np.nan if result.score is None else result.score
    return Pool(algorithm.name, scores.reshape(seeds, SLOTS))


def paired(pool: Pool, random: np.random.Generator) -> Scores:
    """Draw seeds; on each, who is the incumbent."""
    return random.permuted(random.choice(pool.scores, LOOKS[-1]), axis=1)


def apart(pool: Pool, random: np.random.Generator) -> Scores:
    """Draw the incumbent's values on as many different seeds as there are slots, for each pair."""
    order = random.random((LOOKS[-1], len(pool.scores))).argsort(axis=1)
    found: Scores = pool.scores[order[:, :SLOTS], 0]
    return found


@cache
def searched(algorithm: AlgorithmName) -> tuple[StudyStarted, Board]:
    """A study whose search is over, with three candidates to weigh."""
    declared = ALGORITHMS[algorithm]
    role = next(role for role, name in GAME_ROLES.items() if name == algorithm)
    started = StudyStarted(
        study_id="s", by=By(principal="bench"), algorithm=algorithm, environment=role, base={},
        incumbent=dict(declared.game_defaults), searched=tuple(declared.game_search), trials=SLOTS, quick=True,
        search_episodes=(10, 5), full_episodes=FULL, sampler="random", seed=1, structural=False, threshold=0.03,
    )  # fmt: skip
    board = Board()
    step = plan(started, board)
    assert isinstance(step, Ask)  # noqa: S101 - nothing is known yet
    answer(board, step.trials, {trial.number: SEARCHED[trial.number] for trial in step.trials})
    return started, board


def answer(board: Board, trials: Sequence[RunTrial], scores: dict[int, float]) -> None:
    """End these trials; by number, what they scored, NaN where the lane failed."""
    for trial in trials:
        study_id, number, score = trial.study_id, trial.number, scores[trial.number]
        board.asked[number] = trial
        board.outcomes[number] = (
            TrialCompleted(study_id=study_id, number=number, score=score, cpu_seconds=0, holder="bench")
            if isfinite(score)
            else TrialFailed(study_id=study_id, number=number, error="diverged", holder="bench")
        )


def confirm(algorithm: AlgorithmName, scores: Scores) -> tuple[Evidence, int]:
    """Let the product weigh three candidates that score so; return its evidence, and which of the slots it chose."""
    started, before = searched(algorithm)
    board = replace(before, asked=dict(before.asked), outcomes=dict(before.outcomes))
    values = [before.asked[number].hyperparameters for number in range(SLOTS)]
    rows: dict[int, int] = {}
    while isinstance(step := plan(started, board), Ask):
        found = {}
        for trial in step.trials:
            row = rows.setdefault(trial.seed, len(rows))
            found[trial.number] = float(scores[row, values.index(trial.hyperparameters)])
        answer(board, step.trials, found)
    assert isinstance(step, StudyFinished)  # noqa: S101 - every trial is answered
    assert step.evidence is not None  # noqa: S101 - there were candidates
    return step.evidence, values.index(step.evidence.candidate)


def simulate(pools: Sequence[Pool], draw: Draw, truth: Sequence[float], count: int) -> list[Outcome]:
    """Studies of all algorithms in turn, whose candidates really gain `truth`; the same ones at every run."""
    random, found = np.random.default_rng(20261125), []
    for number in range(count):
        pool = pools[number % len(pools)]
        evidence, champion = confirm(pool.algorithm, draw(pool, random) + np.array([0.0, *truth]))
        promoted = evidence.verdict is Verdict.BETTER
        found.append(Outcome(promoted, evidence.gain, truth[champion - 1], len(evidence.scores)))
    return found


def share(outcomes: Sequence[Outcome]) -> float:
    """Of the studies, those that promoted."""
    return statistics.fmean(outcome.promoted for outcome in outcomes)


def upper_limit(outcomes: Sequence[Outcome]) -> float:
    """Clopper and Pearson's one-sided upper limit of the share promoted (Biometrika 26, 1934)."""
    promoted = sum(outcome.promoted for outcome in outcomes)
    if promoted == len(outcomes):
        return 1.0
    return float(stats.beta.ppf(CONFIDENCE, promoted + 1, len(outcomes) - promoted))


def bias(outcomes: Sequence[Outcome]) -> float:
    """Percentage points by which the gain of a promoted champion is reported too high."""
    return 100 * statistics.fmean([outcome.gain - outcome.truth for outcome in outcomes if outcome.promoted] or [0.0])


def figures(pools: Sequence[Pool], *, equal: int, other: int) -> Iterator[Figure]:
    """`equal` studies with nothing to find, and `other` of each kind with a gain or a loss."""
    forms: dict[str, Draw] = {"paired": paired, "apart": apart}

    def run(truth: tuple[float, float, float], count: int) -> dict[str, list[Outcome]]:
        text = "candidates gain " + " ".join(f"{gain:+.2f}" for gain in truth)
        return {form: simulate(pools, draw, truth, count) for form, draw in track(forms.items(), description=text)}

    nothing = run((0.0, 0.0, 0.0), equal)
    one, all_ = run((POINTS, 0.0, 0.0), other), run((POINTS, POINTS, POINTS), other)
    worse = run((-POINTS, -POINTS, -POINTS), other)
    limits = {form: upper_limit(outcomes) for form, outcomes in nothing.items()}
    promoted = {form: sum(outcome.promoted for outcome in outcomes) for form, outcomes in nothing.items()}
    note = f"of {equal} promoted: {_each(promoted)}; {_lanes(pools)}"
    yield Figure("aa_promoted_upper95", limits["paired"], 0.05, 0.03, note=note)
    yield Figure("aa_promoted_upper95_apart", limits["apart"], None, None)
    shares = {form: share(outcomes) for form, outcomes in one.items()}
    pairs = {form: statistics.fmean(outcome.pairs for outcome in outcomes) for form, outcomes in one.items()}
    note = f"one of three gains: {_each(shares)}, after {_each(pairs)} pairs; all three: "
    note += _each({form: share(outcomes) for form, outcomes in all_.items()})
    yield Figure("plus_5pp_promoted_share", shares["paired"], 0.8, 0.95, more=True, note=note)
    yield Figure("plus_5pp_promoted_share_apart", shares["apart"], None, None, more=True)
    biases = {f"one gains, {form}": bias(outcomes) for form, outcomes in one.items()}
    biases |= {f"all gain, {form}": bias(outcomes) for form, outcomes in all_.items()}
    worst = max((value for name, value in biases.items() if name.endswith("paired")), key=abs)
    yield Figure("gain_bias_pp", worst, 2, None, note=f"within +-2; {_each(biases)}")
    losses = {form: share(outcomes) for form, outcomes in worse.items()}
    yield Figure("minus_5pp_promoted_share", max(losses.values()), 0, 0, note=_each(losses))


def _lanes(pools: Sequence[Pool]) -> str:
    """How far paired differences spread, and lanes of different seeds."""
    spreads = []
    for pool in pools:
        one = float(np.nanstd(pool.scores[:, 1:] - pool.scores[:, :1], ddof=1))
        other = float(np.nanstd(pool.scores[:, 0], ddof=1)) * 2**0.5
        spreads.append(f"{pool.algorithm} {one:.3f} and {other:.3f}")
    return f"{sum(pool.scores.size for pool in pools)} lanes; spread of a difference: {', '.join(spreads)}"


def _each(values: dict[str, float] | dict[str, int]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def main() -> None:
    """Measure, show, write."""
    options = arguments(__doc__ or "").parse_args()
    names: Sequence[AlgorithmName] = ("a2c",) if options.quick else ("dqn", "a2c", "ppo", "ddpg")
    seeds, equal, other = (20, 300, 30) if options.quick else (160, 400, 100)
    pools = [train(ALGORITHMS[name], seeds) for name in track(names, description="training lanes")]
    show("evidence", list(figures(pools, equal=equal, other=other)), options.json)


if __name__ == "__main__":
    main()
