"""A foreign learner between two threads: changes come from anywhere, and are made by the thread that trains.

That thread calls `at` at every hook of its loop; the bus, or whoever calls `link.apply`, only leaves changes here.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tars.agents.adapters.adapter import Adapter, Hook, NotApplied, Stage
from tars.agents.checkpoint import BadSnapshot
from tars.agents.host import Applied, Declined, Outcome, Reload
from tars.agents.keeper import Taken
from tars.agents.learner_state import Snapshot
from tars.agents.problems import Problems
from tars.schemas.bounds import ill_typed, objections
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Moment, Value, Values, same

log = logging.getLogger(__name__)

ORDER: Final[tuple[Moment, ...]] = ("live", "boundary", "rebuild", "fixed")
FINITE_SHARE: Final = 2000
"""The weights are looked at for at most one part in so many of the time."""
KEPT_RETURNS: Final = 1000


@dataclass
class Change:
    """A change on its way into the learner."""

    reload: Reload
    done: Callable[[Outcome], None]
    before_writing: Callable[[], bool] = lambda: True
    """Called at the hook where it would be written; false: not yet."""
    stage: Stage = Stage.ANY
    """Where else than its keys say it may not be written."""
    heard_at: float = field(default_factory=time.perf_counter)
    hashes: tuple[str, str] = ("", "")
    stored: tuple[int, int] = (0, 0)
    taken: Taken | None = None
    restored: str | None = None


class AttachedLearner:
    """One foreign learner, as its host and its hooks see it."""

    world: str | None = None

    def __init__(self, adapter: Adapter, agent_id: str, role: str, problems: Problems) -> None:
        self.adapter, self.agent_id, self.role, self.problems = adapter, agent_id, role, problems
        self.version, self.episodes = 0, 0
        self.returns: deque[float] = deque(maxlen=KEPT_RETURNS)
        """Of the newest episodes, the newest last."""
        self.finite = True
        self.on_episode: list[Callable[[float], None]] = []
        """Called after each episode, with its return."""
        self.on_hook: list[Callable[[Hook], None]] = []
        """Called at each hook, before changes are made; for who watches every step."""
        self.on_values: list[Callable[[dict[str, Value]], None]] = []
        """Called with the whole set after each change."""
        self._values = adapter.values()
        self._inbox: deque[Change] = deque()
        self._current: Change | None = None
        self._look_again = 0.0
        self._awaits_train = False

    @property
    def waiting(self) -> deque[Change]:
        """Changes that wait for a hook: while it is empty nothing need be asked at every step."""
        return self._inbox

    @property
    def algorithm(self) -> AlgorithmName:
        """What it learns by."""
        return self.adapter.algorithm

    def values(self) -> dict[str, Value]:
        """Return the whole set in use, as last read back."""
        return dict(self._values)

    def takes_effect(self, names: Sequence[str]) -> Moment:
        """Say when a change of these keys is in use: the latest of them."""
        return max((self.adapter.takes_effect(name) for name in names), key=ORDER.index, default="live")

    def objections(self, values: Values) -> list[str]:
        """Why this learner cannot run these values, beyond what its algorithm forbids."""
        declared = ALGORITHMS[self.algorithm]
        numbers = {k: v for k, v in values.items() if k in declared.names and not ill_typed(declared[k], v)}
        return self.adapter.objections(self.changed(numbers))

    def all_objections(self, change: Values) -> list[str]:
        """Why these values may not be laid over what it runs: types, bounds, invariants, and what it cannot do."""
        broken = objections(ALGORITHMS[self.algorithm], change, self._values, "low", None)
        return broken + self.objections(change)

    def changed(self, values: Values) -> dict[str, Value]:
        """What these values change."""
        running = self._values
        return {k: v for k, v in values.items() if k not in running or not same(running[k], v)}

    def reload(self, reload: Reload, done: Callable[[Outcome], None]) -> None:
        """Leave a change for the thread that trains."""
        stage = self.adapter.restores if reload.restore else Stage.BOUNDARY if reload.snapshot_first else Stage.ANY
        self._inbox.append(Change(reload, done, stage=stage))

    def leave(self, change: Change) -> None:
        """Leave a change with conditions of its own."""
        self._inbox.append(change)

    def at(self, hook: Hook) -> None:
        """Make what changes may be made here. Called by the thread that trains, at every hook: fast when none waits."""
        try:
            for listener in tuple(self.on_hook):
                listener(hook)
            if self._current is not None or self._inbox:
                self._work(hook)
        except Exception as error:  # noqa: BLE001 - the loop that we are guests of must go on
            self.problems.add(f"at {hook.name}", error)

    def episode(self, returned: float) -> None:
        """Note that an episode ended; where its return is not finite, it failed."""
        try:
            value = float(returned)
            self.returns.append(value)
            self.episodes += 1
            self._look_at_weights()
            for listener in tuple(self.on_episode):
                listener(value)
        except Exception as error:  # noqa: BLE001 - as above
            self.problems.add("after an episode", error)

    def _work(self, hook: Hook) -> None:
        change = self._current
        if change is not None:  # written; is it used yet?
            self._prove(change)
        while self._current is None and self._inbox and self._begin(self._inbox[0], hook):
            self._prove(self._inbox.popleft())

    def _begin(self, change: Change, hook: Hook) -> bool:
        """Write a change if it may be written here; say whether it is on its way (or ended at once)."""
        differing = self.changed(change.reload.values)
        stages = {change.stage, *(self.adapter.stage(name) for name in differing)}
        if not all(hook in stage.value for stage in stages):
            if Stage.ROLLOUT_BUFFER in stages and hook is Hook.ROLLOUT_END and not self._awaits_train:
                self._awaits_train = True
                self.adapter.before_collecting(self._after_train)
            return False
        try:
            if not change.before_writing():
                return False
            self._prepare(change)
            before, stored = self.adapter.weights_hash(), self.adapter.stored
            self.adapter.write(differing)
        except Exception as error:  # noqa: BLE001 - it must not be tried again at every step
            if not isinstance(error, NotApplied):
                self.problems.add("changing values", error)
            self._inbox.popleft()
            reasons = error.reasons if isinstance(error, NotApplied) else (f"{type(error).__name__}: {error}",)
            self._end(change, Declined(change.reload, reasons))
            return False
        change.hashes, change.stored = (before, self.adapter.weights_hash()), (stored, self.adapter.stored)
        self._current = change
        return True

    def _prepare(self, change: Change) -> None:
        """Copy what the learner is, or make it again what it was, as the configuration asks."""
        reload = change.reload
        if reload.snapshot_first:
            data, steps = self.adapter.snapshot().dump(), self.adapter.steps
            change.taken = Taken(self.agent_id, self.episodes, steps, self.version, data, reload.version)
        if reload.restore is not None:
            try:
                self.adapter.restore(Snapshot.parse(reload.restore))
                change.restored = self.adapter.weights_hash()
            except BadSnapshot as error:
                self.problems.add("a snapshot does not fit, so the values alone go back", error)

    def _after_train(self) -> None:
        self._awaits_train = False
        self.at(Hook.AFTER_TRAIN)

    def _prove(self, change: Change) -> None:
        """End a change whose values are in use; one that proved to be without effect was put back."""
        try:
            used = self.adapter.proof()
        except NotApplied as error:
            self._end(change, Declined(change.reload, error.reasons))
            return
        if used is None:
            return
        reload, self._values, self.version = change.reload, used, change.reload.version
        self._end(
            change,
            Applied(
                reload=reload,
                effective={name: used[name] for name in reload.values if name in used},
                step=self.adapter.steps,
                weights_before=change.hashes[0],
                weights_after=change.hashes[1],
                buffer_before=change.stored[0],
                buffer_after=change.stored[1],
                milliseconds=(time.perf_counter() - change.heard_at) * 1000,
                taken=change.taken,
                restored=change.restored,
            ),
        )

    def _end(self, change: Change, outcome: Outcome) -> None:
        self._current = None
        if isinstance(outcome, Applied):
            for listener in self.on_values:
                listener(self.values())
        change.done(outcome)

    def _look_at_weights(self) -> None:
        """Are they finite? Asked seldom enough to cost nothing."""
        began = time.perf_counter()
        if began < self._look_again:
            return
        self.finite = self.adapter.is_finite(thorough=True)
        ended = time.perf_counter()
        self._look_again = ended + (ended - began) * FINITE_SHARE
