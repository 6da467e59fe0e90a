"""A change without any server: tried on one learner, watched against its own past, then kept or taken back.

WATCH.md's procedure without controls (`schemas/watch.py`), each episode a slot: it finds collapse and large losses, and
cannot tell the change from whatever else happened at the same time. Everything but `Attempt`'s door is called from the
thread that trains.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from tars.agents.adapters.adapter import Hook, Stage
from tars.agents.attached_learner import AttachedLearner, Change
from tars.agents.host import Applied, Outcome, Reload
from tars.agents.learner_state import Snapshot
from tars.schemas import watch as watching
from tars.schemas.effect import LEAST_PRE, Plan
from tars.schemas.hyperparameters import Value, Values
from tars.schemas.judgement import Judgement, Verdict, keep_or_undo
from tars.schemas.noise import noise
from tars.schemas.slots import FAILED

log = logging.getLogger(__name__)

BEFORE: Final = Plan().pre
SHORTEST: Final = Plan().first
LOCAL: Final = "local"
"""Stands for the update of a change that nobody proposed."""


class Attempt:
    """A change that was asked for, and what became of it. Look at `state` at any time; the loop goes on meanwhile."""

    def __init__(self, values: Values) -> None:
        self.values = dict(values)
        self.state = "waiting for the next hook"
        """`applied`, `watching`, `kept`, `kept, not proven`, `undone: why`, `refused: why`, or what it waits for."""
        self.reason = ""
        """The watch's sentence."""
        self.judgement: Judgement | None = None
        """The watch as it stands, or as it ended."""
        self.outcome: Outcome | None = None
        """What was read back, or why it was not applied."""
        self.snapshot: Snapshot | None = None
        """What the learner was before, while it may be needed."""

    @property
    def over(self) -> bool:
        """Nothing more will become of it."""
        return self.state.startswith(("applied", "kept", "undone", "refused"))

    @property
    def effect(self) -> float | None:
        """What the change did to the return; None: unknown."""
        return self.judgement.effect if self.judgement else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 90 % interval of the effect."""
        found = self.judgement
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    def __repr__(self) -> str:
        """Show state and effect."""
        effect = "" if self.effect is None else f", effect {self.effect:+.3g}"
        return f"<Attempt {self.values}: {self.state}{effect}>"


class LocalWatch:
    """One attempt and its watch."""

    def __init__(self, learner: AttachedLearner, attempt: Attempt, length: int) -> None:
        self._learner, self._attempt, self._length = learner, attempt, length
        self._watch: watching.Watch | None = None
        self._before: dict[str, Value] = {}
        self._undoing = self._diverged = False
        self._release: Callable[[], None] = lambda: None

    def begin(self) -> None:
        """Leave the change for the thread that trains."""
        reload = _reload(self._learner, self._attempt.values)
        if self._length:
            self._learner.leave(Change(reload, self._tried, self._is_ready, Stage.BOUNDARY))
        else:
            self._learner.reload(reload, self._tried)

    def _is_ready(self) -> bool:
        """A watch compares with what was before: wait for it, then copy what may have to come back."""
        known = sum(map(math.isfinite, self._slots()))
        if len(self._learner.returns) < BEFORE or known < LEAST_PRE:
            self._attempt.state = f"waiting: {known} of {BEFORE} episodes before the change"
            return False
        self._attempt.snapshot, self._before = self._learner.adapter.snapshot(), self._learner.values()
        return True

    def _slots(self) -> list[float]:
        return [_slot(returned) for returned in list(self._learner.returns)[-BEFORE:]]

    def _tried(self, outcome: Outcome) -> None:
        self._attempt.outcome = outcome
        if not isinstance(outcome, Applied):
            self._attempt.state = f"refused: {'; '.join(outcome.reasons)}"
        elif not self._length:
            self._attempt.state = "applied"
        else:
            self._start_watching()

    def _start_watching(self) -> None:
        before = self._slots()
        plan = replace(Plan.unnormalised(noise([before])), length=self._length)
        self._watch = watching.begin([before], [], plan)
        self._note("watching")
        self._learner.on_episode.append(self._after_episode)
        self._learner.on_hook.append(self._at_hook)
        self._release = self._learner.adapter.after_steps(self._after_step)

    def _after_episode(self, returned: float) -> None:
        if self._watch is None or self._undoing:
            return
        self._watch = watching.step(self._watch, (_slot(returned),), ())
        self._decide()

    def _after_step(self) -> None:
        """After each gradient step, until the old values are back: weights that are no numbers go back at once."""
        snapshot = self._attempt.snapshot
        if snapshot is None or self._learner.adapter.is_finite(thorough=False):
            return
        self._diverged = True
        self._learner.adapter.restore(snapshot)  # and once more with the values, where those may be written

    def _at_hook(self, hook: Hook) -> None:
        if self._diverged and not self._undoing and self._watch is not None and hook is not Hook.STEP:
            self._watch = watching.diverge(self._watch)
            self._decide()

    def _decide(self) -> None:
        watch = self._watch
        if watch is None:
            return
        found = watching.judgement(watch)
        self._attempt.judgement = found
        if found.verdict is Verdict.WATCH:
            return
        conclusion = keep_or_undo(found, widened=True)
        if conclusion.then == "undo":
            self._undo(conclusion.text)
        elif watch.over or watch.complete:
            self._close("kept" if found.verdict is Verdict.CONFIRM else "kept, not proven", conclusion.text)
        elif self._attempt.state == "watching":
            self._note("watching, kept so far", conclusion.text)

    def _undo(self, why: str) -> None:
        self._undoing = True
        self._note("undoing", why)

        def put_back() -> bool:
            if self._attempt.snapshot is not None:
                self._learner.adapter.restore(self._attempt.snapshot)
            return True

        def undone(outcome: Outcome) -> None:
            done = isinstance(outcome, Applied)
            self._close(why if done else f"not undone: {'; '.join(getattr(outcome, 'reasons', ()))}", why)

        reload = replace(_reload(self._learner, self._before), values=dict(self._before))
        self._learner.leave(Change(reload, undone, put_back, self._learner.adapter.restores))

    def _close(self, state: str, reason: str) -> None:
        self._watch = None
        self._release()
        self._learner.on_episode.remove(self._after_episode)
        self._learner.on_hook.remove(self._at_hook)
        self._attempt.snapshot = None
        self._note(state, reason)

    def _note(self, state: str, reason: str = "") -> None:
        said, self._attempt.state, self._attempt.reason = self._attempt.reason, state, reason
        if reason and reason == said:
            return
        changed = ", ".join(f"{name} {value}" for name, value in self._attempt.values.items())
        log.info("%s: %s: %s", self._learner.agent_id, changed, reason or state)


def objections(learner: AttachedLearner, values: Values, length: int) -> list[str]:
    """Why this cannot be tried, before anything is done."""
    if length and length < SHORTEST:
        return [f"watch = {length}: a watch needs at least {SHORTEST} episodes, and compares with {LEAST_PRE} before"]
    return learner.all_objections(values) or ([] if learner.changed(values) else ["these values are in use already"])


def _slot(returned: float) -> float:
    return returned if math.isfinite(returned) else FAILED


def _reload(learner: AttachedLearner, values: Values) -> Reload:
    return Reload(learner.version, LOCAL, {**learner.values(), **values})
