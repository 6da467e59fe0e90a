"""What every algorithm is: P lanes that learn in lockstep, each with values of its own.

Shapes everywhere: P lanes, E copies of the environment in each, B batch, F features, A actions. No sum or mean crosses
P: a loss is the sum of the members' mean losses, so each member's gradient is its own.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from tars.agents.environments import Actions, Environment, Evaluation, Transition
from tars.agents.optimisers import Optimiser
from tars.agents.random_streams import RandomStreams
from tars.schemas.hyperparameters import Algorithm, Moment, Value, Values


@dataclass(frozen=True)
class Lane:
    """One member of a population."""

    seed: int
    hyperparameters: Mapping[str, Value]
    """The whole set."""


class Population(ABC):
    """Lanes [P] of one algorithm in one environment."""

    DECLARED: ClassVar[Algorithm]
    STRUCTURE: ClassVar[tuple[str, ...]]
    """Hyperparameters that lanes must share to be one population."""
    ACTIONS: ClassVar[tuple[type[Actions], ...]]
    """The kinds of action it can choose."""
    REPLAYS: ClassVar[bool] = False
    """What a lane remembers is of use to other values too; a rollout in progress is not."""

    def __init__(self, environment: Environment, lanes: Sequence[Lane]) -> None:
        self._check(environment, lanes)
        self.environment, self.members = environment, len(lanes)
        seeds = [lane.seed for lane in lanes]
        environment.open(seeds)
        self._random = RandomStreams(seeds, environment.dtype, environment.device)
        self._columns = {name: self._column(name) for name in self.DECLARED.names}
        self._vector_steps = torch.zeros(self.members, dtype=torch.long, device=environment.device)
        self._pending: dict[str, dict[int, Value]] = {}
        for name in self.STRUCTURE:
            self._columns[name][:] = self._number(name, lanes[0].hyperparameters[name])
        self._at = environment.horizon
        self.between: Callable[[], None] = lambda: None
        """Called before each gradient step: live values may be written then."""
        self._build()
        for member, lane in enumerate(lanes):
            self.refill(member, lane)

    @classmethod
    def _check(cls, environment: Environment, lanes: Sequence[Lane]) -> None:
        if not isinstance(environment.actions, cls.ACTIONS):
            able = " and ".join(kind.__name__ for kind in cls.ACTIONS)
            raise ValueError(  # noqa: TRY004 - a value of the trial's, not a slip of the caller's
                f"{cls.DECLARED.name} learns {able} actions; {environment.name} has {environment.actions}"
            )
        for lane in lanes:
            cls._numbers(lane.hyperparameters)
        structures = {cls.structure(lane.hyperparameters) for lane in lanes}
        if len(structures) != 1:
            raise ValueError(f"lanes of one population must share {', '.join(cls.STRUCTURE)}; these have {structures}")

    @classmethod
    def _numbers(cls, hyperparameters: Values) -> dict[str, float | int]:
        """What the columns hold of a whole set; raises KeyError or ValueError with the name of what is wrong."""
        if unknown := [name for name in hyperparameters if name not in cls.DECLARED.names]:
            raise ValueError(f"{', '.join(unknown)}: {cls.DECLARED.name} has no such hyperparameter")
        return {name: cls._number(name, hyperparameters[name]) for name in cls.DECLARED.names}

    @classmethod
    def _number(cls, name: str, value: Value) -> float | int:
        """A column's number; None, where the declaration allows it, is NaN."""
        declared = cls.DECLARED[name]
        if value is None and declared.default is None:
            return nan
        kinds = (int,) if declared.type is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            whole = "whole number" if declared.type is int else "number"
            raise ValueError(f"{name} = {value!r} is no {whole}")  # noqa: TRY004 - a value, not a slip of the caller's
        return value

    @classmethod
    def structure(cls, hyperparameters: Values) -> tuple[Value, ...]:
        """What lanes must share to be one population; KeyError names what is missing."""
        return tuple(hyperparameters[name] for name in cls.STRUCTURE)

    @classmethod
    def takes_effect(cls, name: str) -> Moment:
        """When a change of this key is in use: live, at the next gradient step; boundary, rebuild: next episode."""
        return cls.DECLARED[name].takes_effect["ours"]

    # What an algorithm is made of.

    @abstractmethod
    def _build(self) -> None:
        """Make networks, optimisers and memory for all members."""

    @abstractmethod
    def _initialise(self, member: int, generator: torch.Generator) -> None:
        """Draw one member's networks."""

    @abstractmethod
    def _prepare(self) -> None:
        """Draw and work out, for the episode, what no state decides."""

    @abstractmethod
    def act(self) -> Tensor:
        """Choose the actions of this step, exploring; without gradients."""

    @abstractmethod
    def _learn(self, transition: Transition) -> None:
        """Store what happened, and learn where it is time to."""

    @abstractmethod
    def greedy(self, state: Tensor) -> Tensor:
        """The best actions [P, n] or [P, n, size] in states [P, n, width]."""

    @abstractmethod
    def policy(self, member: int) -> nn.Sequential:
        """One member's policy as plain torch modules: observation -> logits, action values or action."""

    @abstractmethod
    def _parameters(self) -> dict[str, Tensor]:
        """Every network's parameters [P, n], targets too, as the tensors themselves."""

    @abstractmethod
    def _optimisers(self) -> dict[str, Optimiser]:
        """What moves them."""

    @abstractmethod
    def stored(self, member: int) -> int:
        """Transitions that one lane remembers."""

    @abstractmethod
    def remembered(self, member: int) -> Tensor:
        """Those transitions, as rows of floats [n, width], the oldest first."""

    @abstractmethod
    def remember(self, member: int, rows: Tensor) -> None:
        """Remember these instead."""

    @abstractmethod
    def _forget(self, member: int) -> None:
        """Remember nothing of one lane."""

    # What all share.

    def refill(self, member: int, lane: Lane) -> None:
        """Start another trial in a lane, between episodes: everything of the old one is gone.

        Raises KeyError or ValueError, before anything is changed, where the set does not fit this population.
        """
        numbers = self._numbers(lane.hyperparameters)
        if unlike := [name for name in self.STRUCTURE if numbers[name] != self._shared(name)]:
            raise ValueError(f"lanes of one population must share {', '.join(unlike)}")
        self.reseed(member, lane.seed)
        for name, number in numbers.items():
            self._columns[name][member] = number
        self._pending = {name: {m: v for m, v in new.items() if m != member} for name, new in self._pending.items()}
        self._initialise(member, self._random.generators[member])
        for optimiser in self._optimisers().values():
            optimiser.reset(member)
        self._forget(member)
        self._vector_steps[member] = 0

    def reseed(self, member: int, seed: int) -> None:
        """Draw all chance of a lane, and of its environment, from another seed from here on."""
        self._random.reseed(member, seed)
        self.environment.reseed(member, seed)

    @torch.no_grad()
    def begin(self, state: Tensor | None = None) -> None:
        """Begin an episode, in `state` [P, E, width] if somebody else steps the environment.

        What was written for a boundary comes into use.
        """
        for name, values in self._pending.items():
            for member, value in values.items():
                self._columns[name][member] = self._number(name, value)
        written, self._pending = set(self._pending), {}
        self._rebuild(written)
        self._at = 0
        self._prepare()
        self._state = self.environment.begin() if state is None else state

    def _rebuild(self, written: set[str]) -> None:  # noqa: B027 - not every algorithm has such a value
        """Replace what a changed structural value makes unfit."""

    def receive(self, transition: Transition) -> bool:
        """Learn from what the action of `act` led to; say whether the episode goes on."""
        self._vector_steps += 1
        self._learn(transition)
        self._state = transition.state
        self._at += 1
        return self._at < self.environment.horizon

    def step(self) -> bool:
        """Act once in every copy, and learn; say whether the episode goes on."""
        with torch.no_grad():
            transition = self.environment.step(self.act())
        return self.receive(transition)

    def episode(self) -> Tensor:
        """Run a whole episode; return its behaviour score [P], normalised, exploration included."""
        self.begin()
        while self.step():
            continue
        return self.environment.behaviour()

    @torch.no_grad()
    def evaluate(self, episodes: int, seeds: Sequence[int]) -> Evaluation:
        """How the greedy policies do over evaluation episodes, lane k's chance drawn from seeds[k]."""
        return self.environment.evaluate(self.greedy, episodes, seeds)

    @torch.no_grad()
    def exact_score(self) -> Tensor | None:
        """What `evaluate` estimates [P], where the environment is finite."""
        return self.environment.exact_score(self.greedy)

    def write(self, member: int, name: str, value: Value) -> None:
        """Set one hyperparameter of one lane: at once if it is live, else when the next episode begins.

        Raises ValueError for what is no number of its type, and for a structural key where there are several lanes;
        IndexError for a lane that is not there.
        """
        number = self._number(name, value)
        if not 0 <= member < self.members:
            raise IndexError(f"there is no lane {member} among {self.members}")
        if name in self.STRUCTURE and self.members > 1:
            raise ValueError(f"{name} is shared by all lanes of a population")
        if self.takes_effect(name) == "live":
            self._columns[name][member] = number
        else:
            self._pending.setdefault(name, {})[member] = value

    def read(self, member: int, name: str) -> Value:
        """The value in use: the very number that the next gradient step, draw or action is computed with."""
        number = self._columns[name][member].item()
        if self.DECLARED[name].type is int:
            return int(number)
        return None if number != number and self.DECLARED[name].default is None else float(number)  # noqa: PLR0124

    @property
    def is_between_rollouts(self) -> bool:
        """Whether a lane that is refilled now begins as a fresh population does."""
        return True

    def gradient_steps(self, member: int) -> int:
        """Gradient steps done."""
        return int(next(iter(self._optimisers().values())).steps[member])

    def finite(self) -> Tensor:
        """Which lanes have finite parameters only [P]."""
        return torch.stack([flat.sum(1) for flat in self._parameters().values()]).isfinite().all(0)

    def weights_hash(self, member: int) -> str:
        """The sha256, in hex, of all parameters of a lane."""
        digest = hashlib.sha256()
        for flat in self._parameters().values():
            digest.update(flat[member].cpu().numpy().tobytes())
        return digest.hexdigest()

    def snapshot(self, member: int) -> dict[str, Tensor]:
        """Copy a lane between two episodes: parameters, optimisers, counters, random numbers; not its transitions."""
        found = {name: tensor[member].cpu().clone() for name, tensor in self._tensors().items()}
        found["random"] = self._random.state(member)
        chance = self.environment.random_state(member)
        return found if chance is None else {**found, "environment.random": chance}

    def restore(self, member: int, snapshot: Mapping[str, Tensor]) -> None:
        """Go on in a lane as the one that was copied would; its hyperparameters and transitions stay as they are.

        Raises ValueError, before anything is changed, when the snapshot is another learner's.
        """
        tensors, mine = self._tensors(), self.snapshot(member)
        names = [*mine, *(name for name in snapshot if name not in mine)]
        given, wanted = ({n: tuple(s[n].shape) if n in s else None for n in names} for s in (snapshot, mine))
        unlike = [f"{name} is {given[name]}, not {wanted[name]}" for name in names if given[name] != wanted[name]]
        unlike += [
            f"{name} is no state of a generator" for name in names if name in snapshot and not _is_sound(name, snapshot)
        ]
        if unlike:
            raise ValueError(f"no snapshot of {self.DECLARED.name} in {self.environment.name}: {'; '.join(unlike)}")
        for name, tensor in tensors.items():
            tensor[member] = snapshot[name].to(tensor)
        self._random.set_state(member, snapshot["random"])
        if "environment.random" in snapshot:
            self.environment.set_random_state(member, snapshot["environment.random"])

    def _tensors(self) -> dict[str, Tensor]:
        """Everything of each member [P, ...] that a snapshot holds."""
        found = {f"parameters.{name}": flat for name, flat in self._parameters().items()}
        for name, optimiser in self._optimisers().items():
            found |= {f"optimiser.{name}.{moment}": tensor for moment, tensor in optimiser.moments().items()}
        found |= {f"environment.{name}": tensor for name, tensor in self.environment.tensors().items()}
        return {**found, "vector_steps": self._vector_steps}

    @staticmethod
    def _who(due: Tensor) -> list[Tensor | Literal[False] | None]:
        """Which lanes do after each step what is due [H, P]; None: all, False: none. So a step asks no tensor."""
        everyone, anyone = due.all(1).tolist(), due.any(1).tolist()
        steps = zip(due.unbind(0), everyone, anyone, strict=True)
        return [(None if whole else row) if some else False for row, whole, some in steps]

    def _column(self, name: str) -> Tensor:
        whole = self.DECLARED[name].type is int
        dtype = torch.long if whole else self.environment.dtype
        return torch.zeros(self.members, dtype=dtype, device=self.environment.device)

    def _shared(self, name: str) -> int:
        """A structural number, equal in all lanes."""
        return int(self._columns[name][0])


def _is_sound(name: str, snapshot: Mapping[str, Tensor]) -> bool:
    """Whether a generator takes what a snapshot says of random numbers; of anything else, yes."""
    if name.rpartition(".")[2] != "random":
        return True
    try:
        torch.Generator().set_state(snapshot[name])
    except (RuntimeError, TypeError):
        return False
    return True
