"""study.* and trial.* messages -> the boards of studies and trials. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, assert_never

from tars.schemas.message import Frozen
from tars.schemas.study import (
    MOST_CANDIDATES,
    FrontPoint,
    StudyEvent,
    StudyFailed,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    StudyStopped,
)
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned
from tars.schemas.views import FRONT_SHOWN, StudyRow, TrialRow

TrialMessage = RunTrial | TrialCompleted | TrialPruned | TrialFailed


class Tally(Frozen):
    """What a study's trials add up to; search trials only, but for `confirmations`."""

    asked: int = 0
    completed: int = 0
    pruned: int = 0
    failed: int = 0
    confirmations: int = 0
    best_score: float | None = None


TALLIED: Final = frozenset(Tally.model_fields)
"""Fields of a study's row that come from its trials; the others come from its events."""


def study_row(event: StudyEvent, before: StudyRow | None, at: datetime) -> StudyRow | None:
    """The study's row after `event`; None: it has not started."""
    if isinstance(event, StudyStarted):
        return _started(event, at)
    if before is None:
        return None
    match event:
        case StudyResumed():
            return before
        case StudyFinished():
            change = _result(event, before)
        case StudyStopped():
            change = {"stage": "stopped", "error": event.reason or None}
        case StudyFailed():
            change = {"stage": "failed", "error": event.error}
        case _:
            assert_never(event)
    return before.model_copy(update={**change, "ended_at": at})


def _result(event: StudyFinished, before: StudyRow) -> dict[str, Any]:
    return {
        "stage": "finished",
        "error": None if event.evidence else "no champion could be weighed: its trials say why",
        "champion": event.champion,
        "evidence": event.evidence,
        "weighed": event.weighed[:MOST_CANDIDATES],
        "front": tuple(_shown(point, before.searched) for point in event.front[:FRONT_SHOWN]),
        "importances": event.importances,
    }


def _shown(point: FrontPoint, searched: Sequence[str]) -> FrontPoint:
    """What is not searched is the incumbent's, and stands there."""
    values = {name: value for name, value in point.hyperparameters.items() if name in searched}
    return point.model_copy(update={"hyperparameters": values})


def _started(event: StudyStarted, at: datetime) -> StudyRow:
    return StudyRow(
        study_id=event.study_id,
        stage="running",
        started_at=at,
        by=str(event.by),
        algorithm=event.algorithm,
        environment=event.environment,
        agents=tuple(event.base),
        trials=event.trials,
        quick=event.quick,
        incumbent=event.incumbent,
        searched=event.searched,
        start=event.start,
        snapshots=event.snapshots,
        objective=event.objective,
        weights=event.weights,
        threshold=event.threshold,
        candidates=event.candidates,
        wall_seconds=event.wall_seconds,
        propose=event.propose,
    )


def trial_row(message: TrialMessage, before: TrialRow | None, at: datetime) -> TrialRow | None:
    """The trial's row after `message`; None: it was never asked for. Its first outcome stays."""
    if isinstance(message, RunTrial):
        return before or TrialRow(
            study_id=message.study_id,
            number=message.number,
            phase=message.phase,
            hyperparameters=message.hyperparameters,
            seed=message.seed,
            train_episodes=message.train_episodes,
            asked_at=at,
            snapshot=message.snapshot.name if message.snapshot else None,
        )
    if before is None or before.stage != "waiting":
        return before
    return before.model_copy(update={**_outcome(message, before), "ended_at": at})


def _outcome(message: TrialCompleted | TrialPruned | TrialFailed, before: TrialRow) -> dict[str, Any]:
    match message:
        case TrialCompleted():
            return {
                "stage": "completed",
                "score": message.score,
                "exact_score": message.exact_score,
                "conflict": message.conflict,
                "latency": message.latency,
                "episode": before.train_episodes,
            }
        case TrialPruned():
            return {"stage": "pruned", "score": message.score, "episode": message.episode}
        case TrialFailed():
            return {"stage": "failed", "score": message.score, "error": message.error}
        case _:
            assert_never(message)


def tally(have: Tally, before: TrialRow | None, after: TrialRow) -> Tally:
    """Count what a trial has become since `before`."""
    if before is not None and before.stage == after.stage:
        return have
    if after.phase != "search":
        return have.model_copy(update={"confirmations": have.confirmations + (after.stage != "waiting")})
    if before is None:
        have = have.model_copy(update={"asked": have.asked + 1})
    if after.stage == "failed":
        return have.model_copy(update={"failed": have.failed + 1})
    if after.stage == "pruned":
        return have.model_copy(update={"pruned": have.pruned + 1})
    if after.stage != "completed" or after.score is None:
        return have
    best = after.score if have.best_score is None else max(have.best_score, after.score)
    return have.model_copy(update={"completed": have.completed + 1, "best_score": best})
