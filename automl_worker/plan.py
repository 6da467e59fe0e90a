"""What a study does next, from its messages alone: the same messages, the same plan, whoever asks."""

from collections.abc import Callable, Sequence
from typing import Final

from tars.automl_worker.ablation import explain
from tars.automl_worker.board import Board, front, told, value
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

Suggest = Callable[[Sequence[tuple[dict[str, Value], tuple[float, ...]]], int], list[dict[str, Value]]]
"""(points asked so far with what they were worth, how many more) -> the next points."""


def next_step(
    started: StudyStarted, board: Board, suggest: Suggest, batch: int, code_version: str, *, time_is_up: bool = False
) -> Ask | Wait | StudyFinished:
    """Ask the next batch of the search, then of the held-out trials look by look; explain the champion; finish.

    time_is_up: no further trial of the search is asked.
    """
    if board.is_waiting():
        return Wait()
    # What is free, not how many were asked: a holder that died while it asked a batch can leave gaps.
    free = [] if time_is_up else [number for number in range(started.trials) if not board.is_taken(number)]
    if free:
        return Ask(_search(started, board, suggest, free[:batch]))
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


def _search(started: StudyStarted, board: Board, suggest: Suggest, numbers: Sequence[int]) -> tuple[RunTrial, ...]:
    """The trials of these numbers: first of all the incumbent, then earlier champions, then what the sampler says."""
    known = [
        (board.asked[n].hyperparameters, told(started, board, n)) for n in sorted(board.asked) if n < started.trials
    ]
    first = [dict(started.incumbent), *started.warm]
    given = {number: first[number] for number in numbers if number < len(first)}
    points = iter(suggest(known, len(numbers) - len(given)))
    return tuple(
        search_trial(started, number, whole(started, given[number] if number in given else next(points)))
        for number in numbers
    )


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
