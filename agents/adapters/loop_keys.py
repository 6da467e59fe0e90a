"""The hyperparameters of a plain torch loop: which can be changed, read and written where the loop keeps them."""

from collections.abc import Iterator, Mapping
from typing import Final

from torch.optim import Optimizer

from tars.agents.adapters.loop_places import Places
from tars.agents.adapters.loop_rates import LoopRates
from tars.schemas.hyperparameters import ALGORITHMS, Value, Values, same

OWN_RATES: Final = {"actor_learning_rate": "actor", "critic_learning_rate": "critic"}
UNREACHABLE: Final = (
    "what the loop has copied into local variables, closures or a compiled graph cannot be reached: such a value is "
    "found out when nothing reads the new one, and refused"
)


class LoopKeys:
    """The keys of one loop."""

    def __init__(self, where: Places, optimisers: Mapping[str, Optimizer], rates: LoopRates) -> None:
        self.places, self.algorithm, self.rates = where, where.algorithm, rates
        self.names = ALGORITHMS[where.algorithm].names
        self._optimisers = tuple(optimisers)
        given = where.found["learning_rate"].get() if "learning_rate" in where.found else None
        self._shared = rates.base(self._optimisers[0]) if given is None else float(given)
        self._own: dict[str, float | None] = {}
        for network in OWN_RATES.values():
            if network in optimisers:
                rate = rates.base(network)
                self._own[network] = None if same(rate, self._shared) else rate
        self._learnt_with = 0

    @property
    def anneals(self) -> bool:
        """The loop itself sets its rate anew in each iteration, as a share of the namespace's."""
        return bool(self.places.number("anneal_lr")) and "learning_rate" in self.places.found

    def notes(self) -> Iterator[str]:
        """What cannot be reached, or means something else here."""
        for name in self.names:
            if why := self.refusal(name):
                yield f"{name} cannot be changed: {why}"
        if self.anneals:
            yield "anneal_lr is on: learning_rate is managed by its start, and the loop uses its current share of that"
        yield UNREACHABLE

    def refusal(self, name: str) -> str | None:
        """Why a key cannot be changed at all; None: it can."""
        network = OWN_RATES.get(name)
        if network is not None:
            return self.rates.why_not() if network in self._own else f"there is no optimiser called {network}"
        return self.rates.why_not() if name == "learning_rate" else self.places.missing.get(name)

    def objections(self, change: Values) -> list[str]:
        """Why these keys cannot be changed to that."""
        found = [f"{name}: {why}" for name in change if (why := self.refusal(name))]
        return found or [why for rule in (self._divides, self._keeps_learning) if (why := rule(change))]

    def following(self, name: str) -> tuple[str, ...]:
        """The optimisers that a rate is the rate of."""
        if name in OWN_RATES:
            return (OWN_RATES[name],)
        return tuple(optimiser for optimiser in self._optimisers if self._own.get(optimiser) is None)

    def read(self, name: str) -> Value:
        """Read a key where the loop keeps it."""
        if name == "learning_rate":
            return self._rate()
        if name in OWN_RATES:
            rate = self.rates.base(OWN_RATES[name])
            return None if self._own[OWN_RATES[name]] is None and same(rate, self._shared) else rate
        value = self.places.found[name].get()
        return None if value is None else ALGORITHMS[self.algorithm][name].type(value)

    def write(self, name: str, value: Value) -> None:
        """Write a key."""
        if name == "learning_rate" and value is not None:
            self._write_rate(float(value))
        elif name in OWN_RATES:
            network = OWN_RATES[name]
            self._own[network] = None if value is None else float(value)
            self.rates.write(network, self._shared if value is None else float(value))
        else:
            self._write_place(name, value)

    def record_rate(self) -> None:
        """Write the shared rate into the namespace; a loop that does not anneal it never reads it again."""
        if (place := self.places.found.get("learning_rate")) is not None:
            place.set(self._shared)

    def _rate(self) -> float:
        place, following = self.places.found.get("learning_rate"), self.following("learning_rate")
        if self.anneals and place is not None:
            return float(place.get() or 0.0)
        return self.rates.base(following[0]) if following else self._shared

    def _write_rate(self, value: float) -> None:
        scale, self._shared = value / self._shared, value
        for name in self.following("learning_rate"):
            self.rates.write(name, self.rates.base(name) * scale if self.anneals else value)
        if self.anneals:
            self.record_rate()

    def _write_place(self, name: str, value: Value) -> None:
        if name == "learning_starts" and self.rates.steps:
            self._learnt_with = max(self._learnt_with, int(self.read(name) or 0))
        self.places.found[name].set(value)
        if name == "batch_size" and self.places.number("num_minibatches") is not None and value:
            self.places.namespace.num_minibatches = (self._rollout() or 0) // int(value)  # for the record

    def _divides(self, change: Values) -> str | None:
        batch, rollout = change.get("batch_size"), self._rollout()
        if batch is None or self.algorithm != "ppo" or rollout is None or rollout % int(batch) == 0:
            return None
        return f"batch_size = {batch} does not divide the rollout of {rollout} steps"

    def _rollout(self) -> int | None:
        """Steps of a rollout, all environments together, as CleanRL derives it."""
        whole = self.places.number("batch_size")
        if isinstance(whole, int):
            return whole
        steps, environments = self.places.number("num_steps"), self.places.number("num_envs")
        return steps * environments if isinstance(steps, int) and isinstance(environments, int) else None

    def _keeps_learning(self, change: Values) -> str | None:
        """How many steps the loop has done is not known here; but with what it learnt with, it can learn again."""
        new = change.get("learning_starts")
        if new is None or new <= max(self.read("learning_starts") or 0, self._learnt_with):
            return None
        return f"learning_starts = {new} is raised: past the steps done the loop would stop learning"
