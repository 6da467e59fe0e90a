"""The trials of a study as far as they are known, and what each counts by the study's objective. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tars.schemas.message import Message
from tars.schemas.study import FrontPoint, StudyStarted
from tars.schemas.trial import FAILED_SCORE, RunTrial, TrialCompleted, TrialFailed, TrialPruned


@dataclass
class Board:
    """The trials of a study."""

    asked: dict[int, RunTrial] = field(default_factory=dict)
    outcomes: dict[int, TrialCompleted | TrialPruned | TrialFailed] = field(default_factory=dict)
    """In the order in which they were stored."""
    unreadable: set[int] = field(default_factory=set)
    """Numbers whose trial or outcome is stored but cannot be read: used up, and counted as failed."""
    newest: datetime | None = None
    """When the newest of these messages was stored."""

    def take(self, message: Message) -> None:
        """Take in a trial that was asked, or its outcome: the first on its subject counts. Others say nothing."""
        match message:
            case RunTrial():
                self.asked.setdefault(message.number, message)
            case TrialCompleted() | TrialPruned() | TrialFailed():
                self.outcomes.setdefault(message.number, message)

    def completed(self, number: int) -> TrialCompleted | None:
        """What a trial that was trained to its end measured; None: it runs, failed, or cannot be read."""
        outcome = self.outcomes.get(number)
        readable = number in self.asked and number not in self.unreadable
        return outcome if readable and isinstance(outcome, TrialCompleted) else None

    def pruned(self, number: int) -> TrialPruned | None:
        """What a trial measured at the rung where it ended."""
        outcome = self.outcomes.get(number)
        return outcome if number not in self.unreadable and isinstance(outcome, TrialPruned) else None

    def is_taken(self, number: int) -> bool:
        """Whether something is stored under this number; then nothing else ever is."""
        return number in self.asked or number in self.unreadable

    def answered(self) -> list[int]:
        """Numbers of which nothing more will come, the earliest first; those that cannot be read before all others."""
        return [*self.unreadable, *(number for number in self.outcomes if number not in self.unreadable)]

    def is_waiting(self) -> bool:
        """Whether a trial that was asked has no outcome yet."""
        return any(number not in self.outcomes and number not in self.unreadable for number in self.asked)


def value(started: StudyStarted, board: Board, number: int) -> float | None:
    """The one number by which trials of this study are compared; None: there is none.

    penalty: score - w conflict - w latency. pareto compares by the score where one number is needed.
    """
    found = board.completed(number)
    if found is None or started.objective != "penalty":
        return None if found is None else found.score
    return started.weights.penalised(found.score, found.conflict, found.latency)


def told(started: StudyStarted, board: Board, number: int) -> tuple[float, ...]:
    """What the sampler learns of a trial: its value, of a pruned one its score at the rung; with pareto all three.

    A trial that failed is told as far worse than any other, so that the sampler keeps away from where it lay.
    """
    found = board.completed(number)
    if started.objective == "pareto":
        if found is None or found.conflict is None or found.latency is None:
            return FAILED_SCORE, -FAILED_SCORE, -FAILED_SCORE
        return found.score, found.conflict, found.latency
    pruned = board.pruned(number)
    known = pruned.score if pruned is not None else value(started, board, number)
    return (FAILED_SCORE if known is None else known,)


def front(started: StudyStarted, board: Board) -> tuple[FrontPoint, ...]:
    """The search trials that no other beats in score, conflict and latency at once; by falling score."""
    if started.objective != "pareto":
        return ()
    points = [
        FrontPoint(
            number=number,
            hyperparameters=board.asked[number].hyperparameters,
            score=found.score,
            conflict=found.conflict,
            latency=found.latency,
        )
        for number in range(started.trials)
        if (found := board.completed(number)) is not None and found.conflict is not None and found.latency is not None
    ]
    return tuple(sorted(_undominated(points), key=lambda point: (-point.score, point.number)))


def _undominated(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    return [point for point in points if not any(_beats(other, point) for other in points)]


def _beats(one: FrontPoint, other: FrontPoint) -> bool:
    mine = (one.score, -one.conflict, -one.latency)
    theirs = (other.score, -other.conflict, -other.latency)
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))
