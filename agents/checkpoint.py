"""A lane of a population as safetensors bytes: tensors and text only, so that nothing is ever unpickled."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tars.agents.algorithm import Population
from tars.agents.game import ROLES, STATES, Joint, Role, coordination_game
from tars.schemas.errors import TarsError
from tars.schemas.hyperparameters import Values

FORMAT: Final = "tars.lane.v1"
TRANSITIONS: Final = "transitions"
PARTNERS: Final = "partners."
LARGEST: Final = 1 << 30
"""Bytes of a snapshot that is read; a header that promises more is not believed."""


class BadSnapshot(TarsError):
    """Bytes that are no snapshot of this learner; the message says why."""


@dataclass(frozen=True)
class Snapshot:
    """What a lane was between two episodes."""

    algorithm: str
    environment: str
    hyperparameters: Values
    """The whole set in use then; restoring leaves the lane's own."""
    tensors: dict[str, Tensor]
    """Parameters, optimisers, counters, random numbers; where they were asked for, `transitions` [n, width]."""
    partners: dict[str, Tensor] = field(default_factory=dict)
    """What each role of its world did then in every state [S]: the greedy action, of resource the capacity."""

    def partners_of(self, role: Role) -> Joint:
        """What the other roles of the game did; raises BadSnapshot where it does not say so."""
        actions = {other: self.partners[other] for other in ROLES if other != role and other in self.partners}
        unfit = [other for other, action in actions.items() if tuple(action.shape) != (STATES,)]
        if len(actions) < len(ROLES) - 1 or unfit:
            raise BadSnapshot(f"the snapshot does not say what those beside {role} do: it was not taken in a world")
        try:
            return coordination_game().joint({other: _as_action(other, a) for other, a in actions.items()})
        except RuntimeError as error:
            raise BadSnapshot(f"the snapshot names actions of partners that the game does not have: {error}") from error


def _as_action(role: Role, action: Tensor) -> Tensor:
    return action.nan_to_num(0.0).clamp(0, 1) if role == "resource" else action.long()


def dump(
    population: Population, member: int, *, transitions: bool = False, partners: Mapping[Role, Tensor] | None = None
) -> bytes:
    """Take a lane between two episodes, with its replay buffer if `transitions`; the same lane, the same bytes.

    `partners`: what the roles of its world do at this moment, as in Snapshot; its own role may be among them.
    """
    tensors = population.snapshot(member)
    if transitions:
        tensors[TRANSITIONS] = population.remembered(member).cpu().contiguous()
    tensors |= {f"{PARTNERS}{role}": actions for role, actions in (partners or {}).items()}
    names = population.DECLARED.names
    about = {
        "format": FORMAT,
        "algorithm": population.DECLARED.name,
        "environment": population.environment.name,
        "hyperparameters": {name: population.read(member, name) for name in names},
    }
    header = {"tars": json.dumps(about, sort_keys=True)}  # one entry: safetensors keeps no order among several
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, header)


def parse(data: bytes) -> Snapshot:
    """Read a snapshot; raises BadSnapshot."""
    try:
        if len(data) > LARGEST:
            raise BadSnapshot(f"a snapshot of {len(data)} bytes is too large; up to {LARGEST} are read")
        length = int.from_bytes(data[:8], "little")
        about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tars"])
        if about["format"] != FORMAT:
            raise BadSnapshot(f"a snapshot of format {about['format']!r} cannot be read, only {FORMAT}")
        if not isinstance(about["algorithm"], str) or not isinstance(about["environment"], str):
            raise BadSnapshot("these bytes are no snapshot of a lane: algorithm and environment are no names")
        tensors, partners = dict[str, Tensor](), dict[str, Tensor]()
        for name, tensor in load(data).items():
            of_partners = name.startswith(PARTNERS)
            (partners if of_partners else tensors)[name.removeprefix(PARTNERS)] = tensor
        return Snapshot(about["algorithm"], about["environment"], about["hyperparameters"], tensors, partners)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSnapshot(f"these bytes are no snapshot of a lane: {type(error).__name__}: {error}") from error


def restore(population: Population, member: int, data: bytes) -> None:
    """Go on in a lane as the one that was taken would; raises BadSnapshot.

    The lane keeps its own hyperparameters, and its transitions unless the snapshot has some.
    """
    snapshot = parse(data)
    _take_over(population, member, snapshot)
    if (rows := snapshot.tensors.get(TRANSITIONS)) is not None:
        _remember(population, member, rows)


def fork(population: Population, member: int, snapshot: Snapshot, seed: int) -> None:
    """Go on in a lane from what was taken, with chance of its own from `seed`; raises BadSnapshot.

    The lane keeps its own hyperparameters, structural ones too: of the transitions its buffer takes the newest that
    fit. A rollout in progress is left out: it was drawn by other values.
    """
    _take_over(population, member, snapshot)
    if (rows := snapshot.tensors.get(TRANSITIONS)) is not None and population.REPLAYS:
        _remember(population, member, rows)
    population.reseed(member, seed)


def _take_over(population: Population, member: int, snapshot: Snapshot) -> None:
    """Write all but transitions into a lane; raises BadSnapshot, before anything is changed."""
    found = (snapshot.algorithm, snapshot.environment)
    wanted = (population.DECLARED.name, population.environment.name)
    if found != wanted:
        raise BadSnapshot(f"a snapshot of {' in '.join(found)} does not fit {' in '.join(wanted)}")
    try:
        population.restore(member, {name: t for name, t in snapshot.tensors.items() if name != TRANSITIONS})
    except ValueError as error:
        raise BadSnapshot(str(error)) from error


def _remember(population: Population, member: int, rows: Tensor) -> None:
    try:
        population.remember(member, rows)
    except ValueError as error:
        raise BadSnapshot(str(error)) from error


def sequential(population: Population, member: int) -> dict[str, Tensor]:
    """A lane's policy as the state_dict of a plain torch.nn.Sequential: `0.weight`, `0.bias`, `2.weight`, ..."""
    return dict(population.policy(member).state_dict())
