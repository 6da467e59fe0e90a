"""The protocol of an adapter: one foreign learner, its hyperparameters, and what it has learnt.

Everything here is called from the thread that trains, at a hook of the learner's loop, unless it says otherwise.
"""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Protocol

from tars.agents.learner_state import Snapshot
from tars.schemas.errors import TarsError
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value, Values, same


class Hook(Enum):
    """A place in a learner's loop at which TARS is called."""

    STEP = auto()
    """After an environment step, inside a rollout."""
    ROLLOUT_END = auto()
    """A rollout is whole; the gradient steps on it come next."""
    AFTER_TRAIN = auto()
    """The gradient steps are done; the next rollout's length is not yet decided."""
    ROLLOUT_START = auto()
    """A rollout begins: its length and its buffer are decided, its first action is not."""
    BETWEEN = auto()
    """Nothing is in progress: before learning, or between two iterations of a plain loop."""


class Stage(Enum):
    """When something may be written: the hooks at which it neither tears a rollout nor comes too late."""

    ANY = frozenset(Hook)
    BOUNDARY = frozenset(Hook) - {Hook.STEP}
    REPLAY_BUFFER = frozenset({Hook.ROLLOUT_END, Hook.BETWEEN})
    """At another hook the rollout in progress goes into the old buffer and is lost."""
    ROLLOUT_BUFFER = frozenset({Hook.AFTER_TRAIN, Hook.BETWEEN})
    """At another hook the old buffer and the old length are in use already: SB3 crashes."""
    NEW_ROLLOUT = frozenset({Hook.ROLLOUT_START, Hook.AFTER_TRAIN, Hook.BETWEEN})
    """Weights of a learner that learns from its rollout: another's gradient steps on it would harm them."""


class CannotAttach(TarsError):
    """What was given to attach() cannot be attached; the message says why."""


class NotApplied(TarsError):
    """A change that was tried and put back, or that may not be tried; `reasons` says why."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class Adapter(Protocol):
    """One foreign learner."""

    algorithm: AlgorithmName
    restores: Stage
    """Where weights may be put back."""
    notes: tuple[str, ...]
    """What cannot be reached, or means something else here: said once, when it is attached."""

    def values(self) -> dict[str, Value]:
        """Read every key that can be read, from where the learner uses it."""

    def objections(self, change: Values) -> list[str]:
        """Why these keys cannot be changed to that here; from any thread, so it is asked again before writing."""

    def takes_effect(self, name: str) -> Moment:
        """Say when a change of a key is in use."""

    def stage(self, name: str) -> Stage:
        """Say where a key may be written."""

    def write(self, change: Values) -> None:
        """Write all or none; raises NotApplied, with everything put back."""

    def proof(self) -> dict[str, Value] | None:
        """What the learner uses since the last write; None: not used yet. Raises NotApplied, with all put back."""

    def before_collecting(self, then: Callable[[], None]) -> None:
        """Call `then` once, after the next gradient steps and before the next rollout is begun."""

    def after_steps(self, then: Callable[[], None]) -> Callable[[], None]:
        """Call `then` after each gradient step; return what ends that."""

    @property
    def steps(self) -> int:
        """Gradient steps done."""

    @property
    def stored(self) -> int:
        """Transitions in the replay buffer; 0 where there is none, or none that can be seen."""

    def weights_hash(self) -> str:
        """The sha256, in hex, of all weights."""

    def is_finite(self, *, thorough: bool) -> bool:
        """No weight is NaN or infinite; not thorough: as far as one small tensor tells."""

    def snapshot(self, *, buffer: bool = False) -> Snapshot:
        """Copy what was learnt; with `buffer` also the replay buffer."""

    def restore(self, snapshot: Snapshot, *, clock: bool = False) -> None:
        """Put weights and optimisers back; with `clock` also the counters of steps. Values are the caller's.

        Raises BadSnapshot, before anything is changed, when it is another learner's.
        """

    def release(self) -> None:
        """Take out of the learner whatever was hung into it."""


def write_all(change: Values, read: Callable[[str], Value], write: Callable[[str, Value], None]) -> None:
    """Write each key and read it back; at the first that fails or differs, put every one back and raise NotApplied."""
    before = {name: read(name) for name in change}
    try:
        for name, value in change.items():
            write(name, value)
        reasons = [
            f"{name}: {value!r} was written, {found!r} is read back"
            for name, value in change.items()
            if not same(found := read(name), value)
        ]
    except Exception as error:  # noqa: BLE001 - whatever a foreign learner raises, its values go back
        reasons = [f"writing {', '.join(change)} failed: {type(error).__name__}: {error}"]
    if reasons:
        raise NotApplied(*reasons, *put_back(before, read, write))


def put_back(
    before: Mapping[str, Value], read: Callable[[str], Value], write: Callable[[str, Value], None]
) -> list[str]:
    """Write what was there before, where it is no more; say what that failed for."""
    failed = []
    for name, value in before.items():
        try:
            if not same(read(name), value):
                write(name, value)
        except Exception as error:  # noqa: BLE001 - the others must be put back all the same
            failed.append(f"{name} could not be put back: {type(error).__name__}: {error}")
    return failed
