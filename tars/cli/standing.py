"""How far a study has come, as its watchers are told: from its rows alone. Pure."""

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Final

from tars.schemas.evidence import PairedScore, Verdict
from tars.schemas.hyperparameters import Value, Values, all_same, changed
from tars.schemas.message import Frozen
from tars.schemas.trial import Phase
from tars.schemas.views import StudyRow, TrialRow

if TYPE_CHECKING:
    from tars.automl_worker.evidence import Look

WINDOW: Final = timedelta(seconds=60)
"""Over which the pace is taken, as soon as a watcher has watched for so long; before, over the whole study."""


class Weighing(Frozen):
    """A candidate on held-out seeds, as far as they are done."""

    change: dict[str, Value]
    """Where it differs from the incumbent."""
    asked: int
    """Held-out seeds up to the look that comes next."""
    pairs: int
    """Of these, done."""
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    verdict: Verdict | None = None
    """At the last look that is complete; None: undecided, more seeds are needed."""


class Standing(Frozen):
    """How far a study has come."""

    study_id: str
    phase: Phase
    trials: int
    done: int
    pruned: int
    failed: int
    """Trials of the search, all four."""
    best: float | None = None
    """By the study's objective; of a Pareto study the highest score."""
    per_minute: float | None = None
    seconds_left: float | None = None
    """Of the search, at this pace and within its time; None: nobody knows."""
    pairs: int = 0
    """Held-out seeds that are done for every candidate that is undecided; then of the smaller change."""
    pairs_asked: int = 0
    """Up to the look that comes next."""
    put_back: int = 0
    put_back_asked: int = 0
    """Trials with one key of a BETTER champion put back: done, and asked."""
    weighed: tuple[Weighing, ...] = ()

    def has_moved(self, before: "Standing | None") -> bool:
        """Whether there is more to tell than that time went by."""
        clock = {"per_minute": None, "seconds_left": None}
        return before is None or self.model_copy(update=clock) != before.model_copy(update=clock)


class Pace:
    """Trials a minute: lately, or since the study began."""

    def __init__(self) -> None:
        self._seen: deque[tuple[datetime, int]] = deque()

    def see(self, done: int, started_at: datetime, now: datetime) -> float | None:
        """Take in how many are done now; return how many that is a minute, None before the first."""
        if not self._seen:
            self._seen.append((started_at, 0))
        self._seen.append((now, done))
        while self._seen[1][0] <= now - WINDOW:  # one that is older stays: the pace is since then
            self._seen.popleft()
        since, before = self._seen[0]
        minutes = (now - since).total_seconds() / 60
        return (done - before) / minutes if done and minutes > 0 else None


def standing(row: StudyRow, trials: Sequence[TrialRow], per_minute: float | None, now: datetime) -> Standing:
    """How far the study of `row` has come; `trials` are at least its held-out ones, for a penalty all."""
    done = row.completed + row.pruned + row.failed
    ablated = [trial for trial in trials if trial.phase == "ablation"]
    behind = min((trial.number for trial in ablated), default=None)
    held_out = [trial for trial in trials if trial.phase == "confirmation"]
    weighed = weighings(row, [trial for trial in held_out if behind is None or trial.number < behind])
    smaller = weighings(row, [trial for trial in held_out if behind is not None and trial.number > behind])
    undecided = [w for w in smaller or weighed if w.verdict is None] or smaller or weighed
    return Standing(
        study_id=row.study_id,
        phase="ablation" if ablated else "confirmation" if held_out else "search",
        trials=row.trials,
        done=done,
        pruned=row.pruned,
        failed=row.failed,
        best=_best(row, trials),
        per_minute=per_minute,
        seconds_left=None if held_out else _seconds_left(row, row.trials - done, per_minute, now),
        pairs=min((w.pairs for w in undecided), default=0),
        pairs_asked=max((w.asked for w in undecided), default=0),
        put_back=sum(trial.stage != "waiting" for trial in ablated),
        put_back_asked=len(ablated),
        weighed=(*weighed, *smaller),
    )


def _best(row: StudyRow, trials: Sequence[TrialRow]) -> float | None:
    if row.objective != "penalty":
        return row.best_score
    found = [_score(row, t) for t in trials if t.phase == "search" and t.stage == "completed"]
    return max((score for score in found if score is not None), default=None)


def _score(row: StudyRow, trial: TrialRow) -> float | None:
    """By the study's objective; None: it has none."""
    if trial.stage != "completed" or trial.score is None or row.objective != "penalty":
        return trial.score if trial.stage == "completed" else None
    return row.weights.penalised(trial.score, trial.conflict, trial.latency)


def _seconds_left(row: StudyRow, trials: int, per_minute: float | None, now: datetime) -> float | None:
    left = [60 * trials / per_minute] if per_minute else []
    if row.wall_seconds is not None:
        left.append(max(0.0, row.wall_seconds - (now - row.started_at).total_seconds()))
    return min(left, default=None)


def weighings(row: StudyRow, held_out: Sequence[TrialRow]) -> tuple[Weighing, ...]:
    """What the held-out trials, by number, say of each candidate so far."""
    by_seed: dict[int, TrialRow] = {t.seed: t for t in held_out if all_same(t.hyperparameters, row.incumbent)}
    candidates: dict[tuple[tuple[str, Value], ...], list[TrialRow]] = defaultdict(list)
    for trial in held_out:
        if not all_same(trial.hyperparameters, row.incumbent):
            candidates[tuple(sorted(trial.hyperparameters.items()))].append(trial)
    return tuple(
        _weighing(row, dict(values), [(by_seed.get(trial.seed), trial) for trial in tried], len(candidates))
        for values, tried in candidates.items()
    )


def _weighing(
    row: StudyRow, values: Values, tried: Sequence[tuple[TrialRow | None, TrialRow]], candidates: int
) -> Weighing:
    done = [(old, new) for old, new in tried if old and "waiting" not in {old.stage, new.stage}]
    found = Weighing(change=changed(row.incumbent, values), asked=len(tried), pairs=len(done))
    test = _test()
    if test is None:
        return found
    looks = sum(len(done) >= size for size in test.LOOKS)

    def pairs(count: int) -> tuple[PairedScore, ...]:
        incumbent = {new.seed: _score(row, old) for old, new in done[:count]}
        candidate = {new.seed: _score(row, new) for _, new in done[:count]}
        found: tuple[PairedScore, ...] = test.paired([*candidate], incumbent, candidate)
        return found

    def look(paired: Sequence[PairedScore]) -> "Look":
        seen: Look = test.assess(paired, max(looks, 1), threshold=row.threshold or 0.0, candidates=candidates)
        return seen

    whole = pairs(len(done))
    now = look(whole)
    gain = {"gain": now.gain, "gain_low": now.gain_low, "gain_high": now.gain_high} if whole else {}
    verdict = look(pairs(test.LOOKS[looks - 1])).verdict if looks else None
    return found.model_copy(update={**gain, "verdict": verdict})


def _test() -> ModuleType | None:
    """The sequential test; None: its extra is not installed here, and a watcher is told no verdict before the end."""
    try:
        from tars.automl_worker import evidence  # noqa: PLC0415 - scipy is slow to load
    except ModuleNotFoundError:
        return None
    return evidence
