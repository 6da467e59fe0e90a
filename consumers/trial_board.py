"""study.* and trial.* messages -> the boards of studies and trials. Pure."""

from datetime import datetime
from typing import Final, assert_never

from tars.schemas.message import Frozen
from tars.schemas.study import StudyEvent, StudyFailed, StudyFinished, StudyResumed, StudyStarted, StudyStopped
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned
from tars.schemas.views import StudyRow, TrialRow

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
            change = {"stage": "finished", "champion": event.champion, "evidence": event.evidence}
        case StudyStopped():
            change = {"stage": "stopped", "error": event.reason or None}
        case StudyFailed():
            change = {"stage": "failed", "error": event.error}
        case _:
            assert_never(event)
    return before.model_copy(update={**change, "ended_at": at})


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
    )


def trial_row(message: TrialMessage, before: TrialRow | None) -> TrialRow | None:
    """The trial's row after `message`; None: it was never asked for. Its first outcome stays."""
    if isinstance(message, RunTrial):
        return before or TrialRow(
            study_id=message.study_id,
            number=message.number,
            phase=message.phase,
            hyperparameters=message.hyperparameters,
            seed=message.seed,
            train_episodes=message.train_episodes,
        )
    if before is None or before.stage != "waiting":
        return before
    match message:
        case TrialCompleted():
            change = {"stage": "completed", "score": message.score, "exact_score": message.exact_score}
            return before.model_copy(update={**change, "episode": before.train_episodes})
        case TrialPruned():
            change = {"stage": "pruned", "score": message.score, "episode": message.episode}
            return before.model_copy(update=change)
        case TrialFailed():
            return before.model_copy(update={"stage": "failed", "score": message.score, "error": message.error})
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
