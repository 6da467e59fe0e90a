"""Candidates against the incumbent on held-out seeds, look by look. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from tars.automl_worker.board import Board, value
from tars.automl_worker.evidence import LOOKS, Look, assess, paired
from tars.automl_worker.steps import Ask
from tars.automl_worker.trials import CONFIRMATION, HeldOut, held_out_seed, held_out_trial
from tars.schemas.evidence import Evidence, PairedScore, Verdict
from tars.schemas.hyperparameters import Value, Values
from tars.schemas.study import StudyStarted
from tars.schemas.trial import RunTrial


@dataclass(frozen=True)
class Weighed:
    """The champion, and what is known of it."""

    values: dict[str, Value]
    evidence: Evidence
    weighed: tuple[Evidence, ...]
    """Of every candidate, the champion's too."""
    slot: int
    """Which of them it is, from 1."""


def weigh(
    started: StudyStarted, board: Board, candidates: Sequence[dict[str, Value]], code_version: str
) -> Ask | Weighed:
    """Ask the pairs that are missing, or name the champion.

    A search ends at the first BETTER candidate; candidates that were given are each weighed until their own verdict.
    """
    found = look_by_look(started, board, CONFIRMATION, candidates, each=bool(started.candidates))
    if isinstance(found, Ask):
        return found
    claim = None if started.candidates else _claim(started, board)
    weighed = tuple(
        evidence_of(started, board, CONFIRMATION, slot, candidates[slot - 1], found[slot], code_version, claim)
        for slot in sorted(found)
    )
    champion = max(found, key=lambda slot: (found[slot].verdict is Verdict.BETTER, found[slot].gain))
    return Weighed(candidates[champion - 1], weighed[champion - 1], weighed, champion)


def look_by_look(
    started: StudyStarted, board: Board, on: HeldOut, candidates: Sequence[Values], *, each: bool
) -> Ask | dict[int, Look]:
    """Go through the looks that the outcomes allow; ask the pairs of the first that lacks some, or tell what was found.

    each: go on until every candidate has a verdict, not only until one is BETTER. Slots count from 1.
    """
    values = [started.incumbent, *candidates]
    open_slots, found = list(range(1, len(values))), dict[int, Look]()
    for look, pairs in enumerate(LOOKS, 1):
        if ask := missing(
            board,
            [
                held_out_trial(started, on, index, slot, values[slot], "confirmation")
                for index in range(pairs)
                for slot in (0, *open_slots)
            ],
        ):
            return ask
        for slot in open_slots:
            scores = pairs_of(started, board, (on, 0), (on, slot), range(pairs))
            found[slot] = assess(scores, look, threshold=started.threshold, candidates=len(candidates))
        open_slots = [slot for slot in open_slots if found[slot].verdict is None]
        if not open_slots or (not each and any(look.verdict is Verdict.BETTER for look in found.values())):
            break
    return found


def missing(board: Board, trials: Sequence[RunTrial]) -> Ask | None:
    """Those of these trials that nobody has asked yet."""
    asked = tuple(trial for trial in trials if not board.is_taken(trial.number))
    return Ask(asked) if asked else None


def _claim(started: StudyStarted, board: Board) -> float:
    """The gain that the search reported: its best over its incumbent."""
    best = max((s for n in range(1, started.trials) if (s := value(started, board, n)) is not None), default=0.0)
    return best - (value(started, board, 0) or 0.0)


Place = tuple[HeldOut, int]
"""A row of held-out seeds, and a slot there."""


def pairs_of(
    started: StudyStarted, board: Board, incumbent: Place, candidate: Place, indices: Sequence[int]
) -> tuple[PairedScore, ...]:
    """Two values on the same held-out seeds, where the incumbent has a score; a candidate that failed has the worst."""
    seeds = [held_out_seed(started, incumbent[0].first + index) for index in indices]
    one, other = (
        {
            seed: value(started, board, on.number(started, index, slot))
            for seed, index in zip(seeds, indices, strict=True)
        }
        for on, slot in (incumbent, candidate)
    )
    return paired(seeds, one, other)


def evidence_of(  # noqa: PLR0913, PLR0917 - all that evidence tells
    started: StudyStarted,
    board: Board,
    on: HeldOut,
    slot: int,
    candidate: Mapping[str, Value],
    look: Look,
    code_version: str,
    claim: float | None,
) -> Evidence:
    """Everything about one candidate's verdict, for people and for whoever checks it."""
    indices = range(LOOKS[look.number - 1])
    return Evidence(
        verdict=look.verdict or Verdict.INCONCLUSIVE,
        algorithm=started.algorithm,
        environment=started.environment,
        start=started.start,
        training=started.training,
        code_version=code_version,
        train_episodes=started.full_episodes[0],
        eval_episodes=started.full_episodes[1],
        incumbent=dict(started.incumbent),
        candidate=dict(candidate),
        scores=pairs_of(started, board, (on, 0), (on, slot), indices),
        gain=look.gain,
        gain_low=look.gain_low,
        gain_high=look.gain_high,
        p_value=look.p_value,
        threshold=started.threshold,
        look=look.number,
        search_gain=claim,
        objective=started.objective,
        weights=started.weights if started.objective == "penalty" else None,
        conflict_gain=_change(started, board, on, slot, indices, "conflict"),
        latency_gain=_change(started, board, on, slot, indices, "latency"),
        snapshots=tuple(f"{ref.agent_id}:{ref.sha256}" for ref in started.snapshots),
    )


def _change(
    started: StudyStarted,
    board: Board,
    on: HeldOut,
    slot: int,
    indices: Sequence[int],
    what: Literal["conflict", "latency"],
) -> float | None:
    """Mean paired difference of what a trial measures beside its score."""
    differences = []
    for index in indices:
        one, other = (board.completed(on.number(started, index, which)) for which in (slot, 0))
        measured = (getattr(one, what, None), getattr(other, what, None))
        if measured[0] is not None and measured[1] is not None:
            differences.append(measured[0] - measured[1])
    return fmean(differences) if differences else None
