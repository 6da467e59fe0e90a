"""What a study does next, from its messages alone: the same messages, the same plan, whoever asks."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from tars.automl_worker.ablation import explain
from tars.automl_worker.board import Board, front, told, value
from tars.automl_worker.pace import Pace
from tars.automl_worker.steps import Ask, Wait
from tars.automl_worker.study import whole
from tars.automl_worker.trials import search_trial
from tars.automl_worker.weighing import Weighed, weigh
from tars.schemas.evidence import Verdict
from tars.schemas.hyperparameters import Value, all_same
from tars.schemas.study import MOST_CANDIDATES, FrontPoint, StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialPruned

CANDIDATES: Final = MOST_CANDIDATES
"""The best few of a search that are weighed on held-out seeds."""

Known = Sequence[tuple[dict[str, Value], tuple[float, ...] | None]]
"""Points asked so far with what they were worth; None: not known yet."""
Suggest = Callable[[Known, int], list[dict[str, Value]]]
"""(what is known, how many more) -> the next points."""


def next_step(
    started: StudyStarted, board: Board, suggest: Suggest, pace: Pace, code_version: str, *, time_is_up: bool = False
) -> Ask | Wait | StudyFinished:
    """Ask the search batch by batch, then the held-out trials look by look; explain the champion; finish.

    time_is_up: no further trial of the search is asked.
    """
    if not time_is_up and (asked := _search(started, board, suggest, pace)):
        return Ask(asked)
    if board.is_waiting():
        return Wait()
    candidates = candidates_of(started, board)
    if not candidates:
        return finished(started, board, None)
    found = weigh(started, board, candidates, code_version)
    if isinstance(found, Ask):
        return found
    if not started.explain or found.evidence.verdict is not Verdict.BETTER:
        return finished(started, board, found)
    explained = explain(started, board, found, code_version)
    return explained if isinstance(explained, Ask) else finished(started, board, explained)


def _search(started: StudyStarted, board: Board, suggest: Suggest, pace: Pace) -> tuple[RunTrial, ...]:
    """The next batch of the search, or what a holder that died while it asked left of it; none: it is not time yet.

    A batch is told as many answers as it waits for, and none that came later: so its points hang on the order of the
    answers alone, and not on when a coordinator looked.
    """
    batches = ((batch, free) for batch in pace.batches(started.trials) if (free := _free(board, batch)))
    batch, free = next(batches, (range(0), []))
    needed = pace.needed(batch)
    answered = [number for number in board.answered() if number < started.trials][:needed]
    if not free or len(answered) < needed:
        return ()
    points = _points(started, board, suggest, batch, set(answered))
    return tuple(search_trial(started, number, points[number]) for number in free)


def _free(board: Board, numbers: Iterable[int]) -> list[int]:
    """Those under which nothing is stored."""
    return [number for number in numbers if not board.is_taken(number)]


def _points(
    started: StudyStarted, board: Board, suggest: Suggest, batch: range, answered: Collection[int]
) -> dict[int, dict[str, Value]]:
    """The points of a whole batch: first of all the incumbent, then earlier champions, then what the sampler says."""
    known = [
        (board.asked[n].hyperparameters, told(started, board, n) if n in answered else None)
        for n in range(batch.start)
        if n in board.asked
    ]
    given = [dict(started.incumbent), *started.warm][batch.start : batch.stop]
    points = [*given, *suggest(known, len(batch) - len(given))]
    return {number: whole(started, point) for number, point in zip(batch, points, strict=True)}


def candidates_of(started: StudyStarted, board: Board) -> list[dict[str, Value]]:
    """What is weighed: the candidates that were given, else the best few of the search."""
    if started.candidates:
        return [whole(started, change) for change in started.candidates]
    return best_few(started, board)


def best_few(started: StudyStarted, board: Board) -> list[dict[str, Value]]:
    """The best distinct candidates that beat the incumbent's search score; at least the best one there is."""
    found: list[dict[str, Value]] = []
    incumbent = value(started, board, 0)
    for number in _ranked(started, board):
        values, score = board.asked[number].hyperparameters, value(started, board, number)
        worth = not found or incumbent is None or (score is not None and score > incumbent)
        if worth and not any(all_same(values, other) for other in [*found, started.incumbent]):
            found.append(values)
    return found[:CANDIDATES]


def _ranked(started: StudyStarted, board: Board) -> list[int]:
    """The numbers of the search, the best first.

    With pareto only the front counts, and of it first the points that have no more conflicts and no more latency than
    the incumbent; by score.
    """
    if started.objective == "pareto":
        incumbent, points = board.completed(0), [point for point in front(started, board) if point.number > 0]
        spared = [p for p in points if incumbent is None or _spares(p, incumbent.conflict, incumbent.latency)]
        return [point.number for point in spared or points]
    scored = ((found, n) for n in range(1, started.trials) if (found := value(started, board, n)) is not None)
    return [number for _, number in sorted(scored, key=lambda pair: (-pair[0], pair[1]))]


def _spares(point: FrontPoint, conflict: float | None, latency: float | None) -> bool:
    return conflict is None or latency is None or (point.conflict <= conflict and point.latency <= latency)


def finished(started: StudyStarted, board: Board, found: Weighed | None) -> StudyFinished:
    """What the study ends with."""
    search = [number for number in range(started.trials) if board.is_taken(number)]
    completed = sum(board.completed(number) is not None for number in search)
    pruned = sum(isinstance(board.outcomes.get(number), TrialPruned) for number in search)
    return StudyFinished(
        study_id=started.study_id,
        completed=completed,
        pruned=pruned,
        failed=len(search) - completed - pruned,
        champion=None if found is None else found.values,
        evidence=None if found is None else found.evidence,
        weighed=() if found is None else found.weighed,
        front=front(started, board),
    )
