"""What a foreign learner has learnt, kept and put back: weights, optimisers, counters. No pickle anywhere."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from tars.agents.checkpoint import LARGEST, BadSnapshot
from tars.schemas.hyperparameters import Value, Values

FORMAT: Final = "tars.foreign.v1"

Json = dict[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """What a foreign learner was at some moment."""

    algorithm: str
    values: Values
    """The hyperparameters in use then."""
    weights_hash: str
    tensors: Mapping[str, Tensor]
    """`weights.<name>`, `optimiser.<name>.<parameter>.<key>`; where they were asked for, `buffer.<name>`."""
    optimisers: Json = field(default_factory=dict)
    """What optimisers keep beside tensors: `<name>` -> groups (their options) and numbers."""
    counters: Json = field(default_factory=dict)

    def dump(self) -> bytes:
        """Return it as safetensors bytes."""
        about = {
            "format": FORMAT, "algorithm": self.algorithm, "values": dict(self.values), "weights": self.weights_hash,
            "optimisers": self.optimisers, "counters": self.counters,
        }  # fmt: skip
        header = {"tars": json.dumps(about, sort_keys=True)}  # one entry: safetensors keeps no order among several
        return save({name: tensor.contiguous() for name, tensor in self.tensors.items()}, header)

    @classmethod
    def parse(cls, data: bytes) -> "Snapshot":
        """Read it back; raises BadSnapshot."""
        try:
            if len(data) > LARGEST:
                raise BadSnapshot(f"a snapshot of {len(data)} bytes is too large; up to {LARGEST} are read")
            length = int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["tars"])
            if about["format"] != FORMAT:
                raise BadSnapshot(f"a snapshot of format {about['format']!r} is not an attached learner's ({FORMAT})")
            kept = about["values"], about["weights"], load(data), about["optimisers"], about["counters"]
            return cls(about["algorithm"], *kept)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise BadSnapshot(f"these bytes are no snapshot of a learner: {type(error).__name__}: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self.dump())

    @classmethod
    def load(cls, path: Path | str) -> "Snapshot":
        """Read it from a file; raises BadSnapshot."""
        return cls.parse(Path(path).read_bytes())


class LearnerState:
    """The weights and optimisers of a learner, by name.

    The weights' tensors are looked up again only when the first one that is trained lies elsewhere (moved to another
    device, say): walking through a module's names takes longer than hashing a small network.
    """

    def __init__(self, weights: Callable[[], Mapping[str, Tensor]], optimisers: Mapping[str, Optimizer]) -> None:
        self._look_up, self.optimisers = weights, dict(optimisers)
        self._smallest = [min(_parameters(each), key=Tensor.numel) for each in self.optimisers.values()]
        self._first = next(_parameters(next(iter(self.optimisers.values()))))
        self._at = 0
        self._found: Mapping[str, Tensor] = {}
        self._bytes: list[Any] = []

    def weights(self) -> Mapping[str, Tensor]:
        """By name; they share memory with the learner's."""
        if (at := self._first.data_ptr()) != self._at:
            self._found, self._at = self._look_up(), at
            shared = all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in self._found.values())
            self._bytes = [_bytes(tensor) for tensor in self._found.values()] if shared else []
        return self._found

    def weights_hash(self) -> str:
        """The sha256, in hex, of all weights."""
        weights = self.weights()
        return _digest(self._bytes or [_bytes(tensor) for tensor in weights.values()])

    def is_finite(self, *, thorough: bool) -> bool:
        """No weight is NaN or infinite. Not thorough: look at the smallest tensor that each optimiser trains.

        A NaN gradient reaches every weight of a network in one step, so that finds a divergence a moment later at most.
        """
        if thorough:
            looked = [tensor for tensor in self.weights().values() if tensor.is_floating_point()]
        else:
            looked = self._smallest
        return all(math.isfinite(size) for size in torch.stack(torch._foreach_norm(looked, math.inf)).tolist())  # noqa: SLF001 - torch's own clipping uses it

    def after_steps(self, then: Callable[[], None]) -> Callable[[], None]:
        """Call `then` after each gradient step; return what ends that."""

        def stepped(*_: object) -> None:
            then()

        handles = [optimiser.register_step_post_hook(stepped) for optimiser in self.optimisers.values()]

        def end() -> None:
            for handle in handles:
                handle.remove()

        return end

    def copy(self, algorithm: str, values: Values, counters: Json) -> Snapshot:
        """Copy everything to the CPU."""
        weights = {name: _copy(tensor) for name, tensor in self.weights().items()}
        tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
        options: Json = {}
        for name, optimiser in self.optimisers.items():
            kept, options[name] = _optimiser_state(optimiser)
            tensors |= {f"optimiser.{name}.{key}": tensor for key, tensor in kept.items()}
        return Snapshot(algorithm, dict(values), _digest(map(_bytes, weights.values())), tensors, options, counters)

    def put_back(self, snapshot: Snapshot) -> None:
        """Put weights and optimisers back, in place; raises BadSnapshot before anything is changed."""
        weights = self.weights()
        saved = _below(snapshot.tensors, "weights")
        found, wanted = _shapes(saved), _shapes(weights)
        if unlike := sorted(set(found.items()) ^ set(wanted.items())):
            raise BadSnapshot(f"it is another learner's: {', '.join(sorted({name for name, _ in unlike})[:3])} differ")
        if set(snapshot.optimisers) != set(self.optimisers):
            raise BadSnapshot(
                f"it has the optimisers {', '.join(snapshot.optimisers)}, not {', '.join(self.optimisers)}"
            )
        with torch.no_grad():
            for name, tensor in weights.items():
                tensor.copy_(saved[name])
            for name, optimiser in self.optimisers.items():
                _restore(optimiser, _below(snapshot.tensors, f"optimiser.{name}"), snapshot.optimisers[name])


def _digest(parts: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:  # noqa: ANN401 - a numpy array; numpy has no bfloat16, so bytes are what is seen
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}


def _parameters(optimiser: Optimizer) -> Iterator[Tensor]:
    for group in optimiser.param_groups:
        yield from group["params"]


def _optimiser_state(optimiser: Optimizer) -> tuple[dict[str, Tensor], Json]:
    """Tensors by `<parameter>.<key>`, and everything else as JSON."""
    tensors: dict[str, Tensor] = {}
    numbers: Json = {}
    for index, parameter in enumerate(_parameters(optimiser)):
        for key, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{key}"] = _copy(value)
            elif value is None or isinstance(value, int | float):
                numbers[f"{index}.{key}"] = value
            else:
                kind = type(optimiser).__name__
                raise BadSnapshot(f"{kind} keeps a {type(value).__name__} for each parameter: it cannot be copied")
    return tensors, {"groups": [_options(group) for group in optimiser.param_groups], "numbers": numbers}


def _options(group: Mapping[str, Any]) -> Json:
    plain = {key: float(value) if isinstance(value, Tensor) else value for key, value in group.items()}
    return {key: value for key, value in plain.items() if isinstance(value, int | float | tuple | list | None)
            and key != "params"}  # fmt: skip


def _restore(optimiser: Optimizer, tensors: Mapping[str, Tensor], options: Json) -> None:
    """Write into the tensors that are there: a captured graph, or whoever holds them, goes on seeing them."""
    for index, parameter in enumerate(_parameters(optimiser)):
        saved: dict[str, Any] = _below(tensors, str(index))
        saved |= {k.partition(".")[2]: v for k, v in options["numbers"].items() if k.partition(".")[0] == str(index)}
        state = optimiser.state[parameter]
        for key in [key for key in state if key not in saved]:
            del state[key]
        for key, value in saved.items():
            there = state.get(key)
            if isinstance(there, Tensor):
                there.copy_(value)
            else:
                state[key] = _placed(value, key, parameter)
        if not state:
            del optimiser.state[parameter]
    for group, kept in zip(optimiser.param_groups, options["groups"], strict=True):
        for key, value in kept.items():
            write_option(group, key, value)


def _placed(value: Tensor | Value, key: str, parameter: Tensor) -> Tensor | Value:
    """Where torch keeps it: beside its parameter, but for Adam's step counts, which are on the CPU."""
    if not isinstance(value, Tensor):
        return value
    return value.clone() if key == "step" else value.to(parameter.device, parameter.dtype, copy=True)


def write_option(group: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401 - an optimiser's option
    """Set an option of a parameter group; a tensor (of a compiled loop) keeps its identity."""
    if isinstance(there := group.get(key), Tensor):
        there.fill_(value)
    else:
        group[key] = tuple(value) if isinstance(there, tuple) else value
