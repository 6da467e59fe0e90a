"""What a study does next, from its messages alone: the same messages, the same plan, whoever asks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tars.automl_worker.evidence import LOOKS, Look, assess, paired
from tars.automl_worker.halving import rungs
from tars.automl_worker.study import whole
from tars.schemas.evidence import Evidence, PairedScore, Verdict
from tars.schemas.hyperparameters import Value, all_same
from tars.schemas.study import StudyFinished, StudyStarted
from tars.schemas.trial import FAILED_SCORE, RunTrial, TrialCompleted, TrialFailed, TrialPruned

CANDIDATES: Final = 3
"""The best few of a search that are weighed on held-out seeds."""
SLOTS: Final = CANDIDATES + 1
"""Trials for one held-out seed: the incumbent, then the candidates."""

Suggest = Callable[[Sequence[tuple[dict[str, Value], float]], int], list[dict[str, Value]]]
"""(points asked so far with their scores, how many more) -> the next points."""


@dataclass
class Board:
    """The trials of a study, as far as they are known."""

    asked: dict[int, RunTrial] = field(default_factory=dict)
    outcomes: dict[int, TrialCompleted | TrialPruned | TrialFailed] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    """Numbers whose trial or outcome is stored but cannot be read: used up, and counted as failed."""

    def score(self, number: int) -> float | None:
        """A completed trial's score; None: it runs, failed, or cannot be read."""
        outcome = self.outcomes.get(number)
        readable = number in self.asked and number not in self.unreadable
        return outcome.score if readable and isinstance(outcome, TrialCompleted) else None

    def told(self, number: int) -> float:
        """What the sampler learns of a trial: its score, a pruned one's where it ended, else the failed score."""
        outcome = self.outcomes.get(number)
        pruned = isinstance(outcome, TrialPruned) and number not in self.unreadable
        score = outcome.score if pruned and outcome is not None else self.score(number)
        return FAILED_SCORE if score is None else score

    def is_taken(self, number: int) -> bool:
        """Whether something is stored under this number; then nothing else ever is."""
        return number in self.asked or number in self.unreadable

    def is_waiting(self) -> bool:
        """Whether a trial that was asked has no outcome yet."""
        return any(number not in self.outcomes and number not in self.unreadable for number in self.asked)


@dataclass(frozen=True)
class Ask:
    """Write these trials."""

    trials: tuple[RunTrial, ...]


@dataclass(frozen=True)
class Wait:
    """Trials that were asked are not answered yet."""


def next_step(
    started: StudyStarted, board: Board, suggest: Suggest, batch: int, code_version: str
) -> Ask | Wait | StudyFinished:
    """Ask the next batch of the search, then of the held-out trials look by look; then finish."""
    if board.is_waiting():
        return Wait()
    # What is free, not how many were asked: a holder that died while it asked a batch can leave gaps.
    if free := [number for number in range(started.trials) if not board.is_taken(number)]:
        return Ask(_search(started, board, suggest, free[:batch]))
    candidates = best_few(started, board)
    if not candidates:
        return _finished(started, board, None, None)
    return _weigh(started, board, candidates, code_version)


def _search(started: StudyStarted, board: Board, suggest: Suggest, numbers: Sequence[int]) -> tuple[RunTrial, ...]:
    """The trials of these numbers; the first of all is the incumbent."""
    told = [(board.asked[n].hyperparameters, board.told(n)) for n in sorted(board.asked) if n < started.trials]
    points = [dict(started.incumbent)] if numbers[0] == 0 else []
    points += suggest(told, len(numbers) - len(points))
    return tuple(
        _trial(started, number, whole(started, point), phase="search")
        for number, point in zip(numbers, points, strict=True)
    )


def best_few(started: StudyStarted, board: Board) -> list[dict[str, Value]]:
    """The best distinct candidates that beat the incumbent's search score; at least the best one there is."""
    ranked = sorted(
        ((score, n) for n in range(1, started.trials) if (score := board.score(n)) is not None),
        key=lambda pair: (-pair[0], pair[1]),
    )
    incumbent = board.score(0)
    found: list[dict[str, Value]] = []
    for score, number in ranked:
        values = board.asked[number].hyperparameters
        worth = not found or incumbent is None or score > incumbent
        if worth and not any(all_same(values, other) for other in [*found, started.incumbent]):
            found.append(values)
    return found[:CANDIDATES]


def _weigh(
    started: StudyStarted, board: Board, candidates: Sequence[dict[str, Value]], code_version: str
) -> Ask | StudyFinished:
    """Go through the looks that the outcomes allow; ask the pairs of the first that lacks some, or finish."""
    open_slots = list(range(1, len(candidates) + 1))
    found: dict[int, Look] = {}
    for look, pairs in enumerate(LOOKS, 1):
        missing = [
            (index, slot)
            for index in range(pairs)
            for slot in (0, *open_slots)
            if not board.is_taken(number_of(started, index, slot))
        ]
        if missing:
            values = [dict(started.incumbent), *candidates]
            return Ask(
                tuple(
                    _trial(
                        started,
                        number_of(started, index, slot),
                        values[slot],
                        "confirmation",
                        held_out_seed(started, index),
                    )
                    for index, slot in missing
                )
            )
        for slot in open_slots:
            scores = _pairs(started, board, slot, pairs)
            found[slot] = assess(scores, look, threshold=started.threshold, candidates=len(candidates))
        open_slots = [slot for slot in open_slots if found[slot].verdict is None]
        if not open_slots or any(result.verdict is Verdict.BETTER for result in found.values()):
            break
    champion = max(found, key=lambda slot: (found[slot].verdict is Verdict.BETTER, found[slot].gain))
    evidence = _evidence(started, board, champion, candidates[champion - 1], found[champion], code_version)
    return _finished(started, board, candidates[champion - 1], evidence)


def _pairs(started: StudyStarted, board: Board, slot: int, pairs: int) -> tuple[PairedScore, ...]:
    seeds = [held_out_seed(started, index) for index in range(pairs)]
    scores = [
        {seed: board.score(number_of(started, index, which)) for index, seed in enumerate(seeds)} for which in (0, slot)
    ]
    return paired(seeds, scores[0], scores[1])


def _evidence(
    started: StudyStarted, board: Board, slot: int, candidate: dict[str, Value], look: Look, code_version: str
) -> Evidence:
    best = max((s for n in range(1, started.trials) if (s := board.score(n)) is not None), default=0.0)
    return Evidence(
        verdict=look.verdict or Verdict.INCONCLUSIVE,
        algorithm=started.algorithm,
        environment=started.environment,
        start="scratch",
        training=started.training,
        code_version=code_version,
        train_episodes=started.full_episodes[0],
        eval_episodes=started.full_episodes[1],
        incumbent=dict(started.incumbent),
        candidate=candidate,
        scores=_pairs(started, board, slot, LOOKS[look.number - 1]),
        gain=look.gain,
        gain_low=look.gain_low,
        gain_high=look.gain_high,
        p_value=look.p_value,
        threshold=started.threshold,
        look=look.number,
        search_gain=best - (board.score(0) or 0.0),
    )


def _finished(
    started: StudyStarted, board: Board, champion: dict[str, Value] | None, evidence: Evidence | None
) -> StudyFinished:
    completed = sum(board.score(number) is not None for number in range(started.trials))
    pruned = sum(isinstance(board.outcomes.get(number), TrialPruned) for number in range(started.trials))
    return StudyFinished(
        study_id=started.study_id,
        completed=completed,
        pruned=pruned,
        failed=started.trials - completed - pruned,
        champion=champion,
        evidence=evidence,
    )


def number_of(started: StudyStarted, index: int, slot: int) -> int:
    """The number of a held-out trial: seeds one after the other, behind the search; slot 0 is the incumbent."""
    return started.trials + index * SLOTS + slot


def held_out_seed(started: StudyStarted, index: int) -> int:
    """The index-th held-out seed: random, but the same at every replay, and none that the search uses."""
    return _seed(started, "held-out", index)


def _seed(started: StudyStarted, purpose: str, index: int) -> int:
    text = f"{started.study_id}/{started.seed}/{purpose}/{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest())


def _trial(
    started: StudyStarted, number: int, values: Mapping[str, Value], phase: str, seed: int | None = None
) -> RunTrial:
    episodes = started.search_episodes if phase == "search" else started.full_episodes
    return RunTrial(
        study_id=started.study_id,
        number=number,
        phase="search" if phase == "search" else "confirmation",
        algorithm=started.algorithm,
        environment=started.environment,
        hyperparameters=dict(values),
        seed=_seed(started, "search", number) if seed is None else seed,
        train_episodes=episodes[0],
        eval_episodes=episodes[1],
        training=started.training,
        score_range=started.score_range,
        normalize=started.normalize,
        trainer=started.trainer,
        rungs=rungs(episodes[0]) if phase == "search" and number > 0 and started.trainer == "population" else (),
    )
