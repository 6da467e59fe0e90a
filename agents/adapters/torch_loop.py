"""A plain torch loop, CleanRL style: optimisers, and a namespace of values that the loop reads again and again.

Nothing tells where such a loop uses a value, so a write is believed only when the loop has read it afterwards (a
learning rate: when a gradient step was made with it). What nobody reads is put back and refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tars.agents.adapters.adapter import NotApplied, Stage, put_back, write_all
from tars.agents.adapters.loop_keys import OWN_RATES, LoopKeys
from tars.agents.adapters.loop_places import Attribute, BadLoop, Functions, Key, Places, places
from tars.agents.adapters.loop_rates import LoopRates
from tars.agents.adapters.reads import CountedReads
from tars.agents.checkpoint import BadSnapshot
from tars.agents.learner_state import LearnerState, Snapshot
from tars.schemas.hyperparameters import ALGORITHMS, Moment, Value, Values, same

READ_BEFORE_LEARNING: Final = frozenset(
    {"exploration_initial_eps", "exploration_final_eps", "exploration_fraction", "learning_starts"}
)
"""Keys that a loop reads in every iteration; the others are read once it makes gradient steps."""
PERIODS: Final = {"tau": "target_update_interval"}
"""Keys that are read only every so many iterations: as many as another key says."""
NO_TARGETS: Final = "target networks are not known: give modules=[...], else snapshots are without them"


Modules = Module | Mapping[str, Module] | list[Module] | tuple[Module, ...] | None


@dataclass
class Written:
    """A change whose use by the loop is not proven yet."""

    change: dict[str, Value]
    before: dict[str, Value]
    reads: list[CountedReads]
    steps: int
    """Gradient steps done before it."""
    looks: int = 0
    """Iterations begun since, the one before which it was written included."""
    learnt_at: int | None = None
    """The look at which gradient steps on it were seen."""

    @property
    def waited(self) -> int:
        """Whole iterations since, of which the first made gradient steps."""
        return 0 if self.learnt_at is None else self.looks - self.learnt_at + 1


class TorchLoop:
    """The adapter of one loop."""

    def __init__(
        self,
        optimisers: Mapping[str, Optimizer],
        where: Places,
        *,
        modules: Mapping[str, Module],
        schedulers: Mapping[str, LRScheduler],
    ) -> None:
        self.algorithm, self.restores = where.algorithm, Stage.ANY
        self._places, self._rates = where, LoopRates(optimisers, schedulers)
        self._keys = LoopKeys(where, optimisers, self._rates)
        self._state = LearnerState(_weights(optimisers, modules), optimisers)
        self._written: Written | None = None
        self.notes = (*self._keys.notes(), *(() if modules else (NO_TARGETS,)))

    def values(self) -> dict[str, Value]:
        """Read every key that can be read."""
        return {name: self._keys.read(name) for name in self._keys.names if self._keys.refusal(name) is None}

    def objections(self, change: Values) -> list[str]:
        """Why these keys cannot be changed to that in this loop."""
        return self._keys.objections(change)

    def takes_effect(self, name: str) -> Moment:
        """As declared; what functions of the user's own write takes effect when they say."""
        if isinstance(self._places.found.get(name), Functions):
            return "boundary"
        return ALGORITHMS[self.algorithm][name].takes_effect["torch_loop"]

    def stage(self, name: str) -> Stage:  # noqa: ARG002 - the protocol's
        """Between two iterations nothing is in progress."""
        return Stage.ANY

    def write(self, change: Values) -> None:
        """Write all or none, and begin to count who reads."""
        if reasons := self.objections(change):
            raise NotApplied(*reasons)
        before = {name: self._keys.read(name) for name in change}
        write_all(change, self._keys.read, self._keys.write)
        self._rates.forget()
        self._written = Written(dict(change), before, self._count_reads(change), self._rates.steps)

    def proof(self) -> dict[str, Value] | None:
        """What the loop uses; None while it has not come to it. Called once at each beginning of an iteration."""
        written = self._written
        if written is None:
            return self.values()
        written.looks += 1
        if written.learnt_at is None and self._rates.steps > written.steps:
            written.learnt_at = written.looks
        unproven = {name: why for name in written.change if (why := self._unused(written, name)) is not None}
        if reasons := [why for why in unproven.values() if why]:
            self._stop(written)
            raise NotApplied(*reasons, *put_back(written.before, self._keys.read, self._keys.write))
        if unproven:
            return None
        self._stop(written)
        if "learning_rate" in written.change:
            self._keys.record_rate()
        return self.values()

    def before_collecting(self, then: Callable[[], None]) -> None:
        """Between two iterations it is always before the next rollout."""
        then()

    def after_steps(self, then: Callable[[], None]) -> Callable[[], None]:
        """Call `then` after each gradient step; return what ends that."""
        return self._state.after_steps(then)

    @property
    def steps(self) -> int:
        """Gradient steps of all optimisers since it was attached."""
        return self._rates.steps

    @property
    def stored(self) -> int:
        """A loop's buffer is its own."""
        return 0

    def weights_hash(self) -> str:
        """The sha256, in hex, of all weights that are known."""
        return self._state.weights_hash()

    def is_finite(self, *, thorough: bool) -> bool:
        """No weight is NaN or infinite."""
        return self._state.is_finite(thorough=thorough)

    def snapshot(self, *, buffer: bool = False) -> Snapshot:
        """Copy weights and optimisers."""
        if buffer:
            raise BadSnapshot("a loop's buffer is its own: it cannot be copied from here")
        return self._state.copy(self.algorithm, self.values(), {"steps": self.steps})

    def restore(self, snapshot: Snapshot, *, clock: bool = False) -> None:  # noqa: ARG002 - a loop counts for itself
        """Put weights and optimisers back."""
        if snapshot.algorithm != self.algorithm:
            raise BadSnapshot(f"a snapshot of {snapshot.algorithm} does not fit {self.algorithm}")
        self._state.put_back(snapshot)

    def release(self) -> None:
        """Stop counting."""
        self._rates.release()
        if self._written is not None:
            self._stop(self._written)

    def _count_reads(self, change: Values) -> list[CountedReads]:
        by_owner: dict[int, tuple[Any, list[str]]] = {}
        for name in change:
            place = self._places.found.get(name)
            if isinstance(place, Attribute) and self._is_read(name):
                by_owner.setdefault(id(place.owner), (place.owner, []))[1].append(place.name)
        return [CountedReads(owner, names) for owner, names in by_owner.values()]

    def _is_read(self, name: str) -> bool:
        """Its use shows by reads; that of a rate that the loop does not set anew shows in the optimiser."""
        return name not in OWN_RATES and (name != "learning_rate" or self._keys.anneals)

    def _unused(self, written: Written, name: str) -> str | None:
        """None: the loop uses the new value. Empty: it has not come to it. A text: it will not, and why."""
        if not self._is_read(name):
            return self._unused_rate(name)
        place = self._places.found[name]
        if isinstance(place, Functions):
            return None
        for reads in written.reads:
            if reads.owner is place.owner and place.name in reads.values:
                read = reads.values[place.name]
                return None if same(read, written.change[name]) else f"{name}: the loop read {read!r}"
        waited = written.looks - 1 if name in READ_BEFORE_LEARNING else written.waited
        if waited <= self._period(name):
            return ""
        return (
            f"{name}: no effect, nothing read {place.name} in {waited} iteration{'s' * (waited > 1)} after it was set"
        )

    def _period(self, name: str) -> int:
        """Iterations in which a used value may yet go unread."""
        other = self._places.found.get(PERIODS.get(name, ""))
        return 0 if other is None else int(other.get() or 0)

    def _unused_rate(self, name: str) -> str | None:
        for optimiser in self._keys.following(name):
            used = self._rates.used.get(optimiser)
            if used is None:
                return ""
            wanted = (*used.wanted, *self._rates.wanted(optimiser))
            for rate in (used.rate, self._rates.current(optimiser)):  # a scheduler may come only after the step
                if not any(same(rate, one) for one in wanted):
                    return f"{name}: something sets the rate anew, to {rate:g}: give the scheduler, scheduler=..."
        return None

    def _stop(self, written: Written) -> None:
        for reads in written.reads:
            reads.stop()
        self._written = None


def torch_loop(
    optimiser: Optimizer | Mapping[str, Optimizer],
    namespace: object = None,
    *,
    algorithm: str | None = None,
    keys: Mapping[str, Key] | None = None,
    modules: Modules = None,
    scheduler: LRScheduler | Mapping[str, LRScheduler] | None = None,
) -> TorchLoop:
    """Describe a loop; raises BadLoop when what was given is no loop."""
    optimisers = dict(optimiser) if isinstance(optimiser, Mapping) else {"optimiser": optimiser}
    if not optimisers or not all(isinstance(each, Optimizer) for each in optimisers.values()):
        raise BadLoop("optimizer= takes a torch optimiser, or several by name: {'actor': ..., 'critic': ...}")
    only = next(iter(optimisers))
    schedulers = dict(scheduler) if isinstance(scheduler, Mapping) else {only: scheduler} if scheduler else {}
    where = places(namespace, keys or {}, algorithm)
    return TorchLoop(optimisers, where, modules=_named(modules), schedulers=schedulers)


def _named(modules: Modules) -> dict[str, Module]:
    if isinstance(modules, Module):
        return {"0": modules}
    named = dict(modules) if isinstance(modules, Mapping) else dict(zip(map(str, count()), modules or (), strict=False))
    if not all(isinstance(each, Module) for each in named.values()):
        raise BadLoop("modules= takes torch modules: one, several, or several by name")
    return named


def _weights(optimisers: Mapping[str, Optimizer], modules: Mapping[str, Module]) -> Callable[[], dict[str, Tensor]]:
    """Everything in the modules, and what the optimisers train beside it."""

    def weights() -> dict[str, Tensor]:
        found = {f"{name}.{key}": t for name, module in modules.items() for key, t in module.state_dict().items()}
        known = {tensor.data_ptr() for tensor in found.values()}
        for name, optimiser in optimisers.items():
            trained = (parameter for group in optimiser.param_groups for parameter in group["params"])
            beside = (parameter.detach() for parameter in trained if parameter.data_ptr() not in known)
            found |= {f"{name}.{index}": parameter for index, parameter in enumerate(beside)}
        return found

    return weights
