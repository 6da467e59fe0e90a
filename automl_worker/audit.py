"""Does the evidence of an update follow from the trials that were run? Everything after the search is worked out again.

Pure. Checks as in sync_worker/audit.py: each answers with every fault, or in a sentence with what it found in order.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tars.automl_worker.board import Board
from tars.automl_worker.evidence import LOOKS, assess
from tars.automl_worker.pace import pace_of
from tars.automl_worker.plan import candidates_of, next_step
from tars.automl_worker.trials import ABLATION, CONFIRMATION, SMALLER, held_out_trial, search_trial
from tars.schemas.audit import Case, NotCheckable
from tars.schemas.evidence import Evidence, Verdict
from tars.schemas.hyperparameters import Value, Values, all_same
from tars.schemas.study import MOST_CANDIDATES, StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial

ROWS: Final = (CONFIRMATION, ABLATION, SMALLER)
CLOSE: Final = 1e-6
"""Relative: other versions of SciPy round otherwise."""


def evidence(case: Case) -> list[str] | str:
    """The evidence that was approved is the study's, to the digest."""
    found = _evidence(case)
    if case.proposal.study_id is None:
        raise NotCheckable("it names no study: whoever proposed it brought the evidence along")
    finished = _finished(case)
    if finished is None:
        raise NotCheckable(f"the end of study {case.proposal.study_id} is not in the export")
    known = {one.digest() for one in (finished.evidence, *finished.weighed) if one is not None}
    if found.digest() not in known:
        return [f"study {finished.study_id} found other evidence than the update carries"]
    return f"sha256 {found.digest()[:16]}..., found by study {finished.study_id}"


def verdict(case: Case) -> list[str] | str:
    """The verdict is what the sequential test says of the scores of every seed."""
    found = _evidence(case)
    looks = [
        assess(found.scores, found.look, threshold=found.threshold, candidates=number)
        for number in range(1, MOST_CANDIDATES + 1)
    ]
    told = {"gain": found.gain, "gain_low": found.gain_low, "gain_high": found.gain_high, "p_value": found.p_value}
    again = {name: getattr(looks[0], name) for name in told}
    faults = list(_unequal(told, again, ""))
    if len(found.scores) > LOOKS[found.look - 1] or len({pair.seed for pair in found.scores}) < len(found.scores):
        faults.append(f"it has {len(found.scores)} pairs, a seed twice or more than its look {found.look} takes")
    if found.verdict not in {look.verdict or Verdict.INCONCLUSIVE for look in looks}:
        faults.append(f"its verdict is {found.verdict}, the scores say {looks[0].verdict or 'undecided'}")
    return faults or f"{found.verdict} by {len(found.scores)} seeds: gain {found.gain:+.4f}, p {found.p_value:.2g}"


def study(case: Case) -> list[str] | str:
    """Candidates, looks, scores and champion follow from the trials' outcomes, on the seeds that the plan fixes."""
    _evidence(case)
    started = next((t.message for t in _study(case) if isinstance(t.message, StudyStarted)), None)
    finished, board = _finished(case), _board(case)
    if started is None or finished is None or not board.asked:
        raise NotCheckable("the study or its trials are not in the export")
    if case.unreadable:
        raise NotCheckable("some of its messages cannot be read")
    values = [started.incumbent, *candidates_of(started, board)]
    trials = board.asked.items()
    faults = [f"trial {number}: {text}" for number, trial in trials for text in _strange(started, trial, values)]
    version = next((one.code_version for one in (finished.evidence, *finished.weighed) if one is not None), "")
    again = next_step(started, board, _suggest_nothing, pace_of(started.trials), version, time_is_up=True)
    if not isinstance(again, StudyFinished):
        return [*faults, "its trials decide nothing yet: some are missing, or the test would have asked for more"]
    told = {"importances": finished.importances}
    faults += _unequal(finished.model_dump(mode="json"), {**again.model_dump(mode="json"), **told}, "")
    return faults or f"{len(board.outcomes)} trials lead to this champion and this evidence again"


def _evidence(case: Case) -> Evidence:
    found = case.proposal.evidence
    if found is None:
        raise NotCheckable("it was proposed without evidence")
    return found


def _study(case: Case) -> Any:  # noqa: ANN401 - messages of a study
    return case.of("study", case.proposal.study_id or "")


def _finished(case: Case) -> StudyFinished | None:
    return next((told.message for told in _study(case) if isinstance(told.message, StudyFinished)), None)


def _board(case: Case) -> Board:
    """The trials as the coordinator folds them."""
    board = Board()
    for told in case.trials(case.proposal.study_id or ""):
        board.take(told.message)
    return board


def _strange(started: StudyStarted, trial: RunTrial, weighed: Sequence[Values]) -> Iterator[str]:
    """How a trial is not the one that the plan fixes for its number; weighed: the incumbent and the candidates."""
    if trial.number < started.trials:
        planned = search_trial(started, trial.number, trial.hyperparameters)
    else:
        row = max((row for row in ROWS if trial.number >= row.number(started, 0, 0)), key=lambda row: row.offset)
        index, slot = divmod(trial.number - row.number(started, 0, 0), row.slots)
        planned = held_out_trial(started, row, index, slot, trial.hyperparameters, trial.phase)
        if row is CONFIRMATION and not (slot < len(weighed) and all_same(trial.hyperparameters, weighed[slot])):
            yield "it trains other values than were weighed"
    if planned.model_copy(update={"deadline": trial.deadline}) != trial:
        yield "its seed, length or start are not those that its number has"


def _suggest_nothing(history: object, count: int) -> list[dict[str, Value]]:  # noqa: ARG001 - the sampler's signature
    """The search is over."""
    return []


def _unequal(one: object, other: object, place: str) -> Iterator[str]:
    """Where two values of JSON differ, beyond rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _unequal(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _unequal(*pair, f"{place}[{index}]")
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=CLOSE, abs_tol=1e-12):
            yield f"{place} is {one:.6g}, worked out again {other:.6g}"
    elif one != other:
        yield f"{place} is {one}, worked out again {other}"
