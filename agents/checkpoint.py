"""A lane of a population as safetensors bytes: tensors and text only, so that nothing is ever unpickled."""

import json
from dataclasses import dataclass
from typing import Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tars.agents.algorithm import Population
from tars.schemas.errors import TarsError
from tars.schemas.hyperparameters import Values

FORMAT: Final = "tars.lane.v1"
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


def dump(population: Population, member: int, *, transitions: bool = False) -> bytes:
    """Take a lane between two episodes, with its replay buffer if `transitions`; the same lane, the same bytes."""
    tensors = population.snapshot(member)
    if transitions:
        tensors["transitions"] = population.remembered(member).cpu().contiguous()
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
        return Snapshot(about["algorithm"], about["environment"], about["hyperparameters"], load(data))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BadSnapshot(f"these bytes are no snapshot of a lane: {type(error).__name__}: {error}") from error


def restore(population: Population, member: int, data: bytes) -> None:
    """Go on in a lane as the one that was taken would; raises BadSnapshot, before anything is changed.

    The lane keeps its own hyperparameters, and its transitions unless the snapshot has some.
    """
    snapshot = parse(data)
    found = (snapshot.algorithm, snapshot.environment)
    wanted = (population.DECLARED.name, population.environment.name)
    if found != wanted:
        raise BadSnapshot(f"a snapshot of {' in '.join(found)} does not fit {' in '.join(wanted)}")
    try:
        tensors = dict(snapshot.tensors)
        transitions = tensors.pop("transitions", None)
        population.restore(member, tensors)
        if transitions is not None:
            population.remember(member, transitions)
    except ValueError as error:
        raise BadSnapshot(str(error)) from error


def sequential(population: Population, member: int) -> dict[str, Tensor]:
    """A lane's policy as the state_dict of a plain torch.nn.Sequential: `0.weight`, `0.bias`, `2.weight`, ..."""
    return dict(population.policy(member).state_dict())
