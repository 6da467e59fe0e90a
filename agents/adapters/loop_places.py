"""Where a plain torch loop keeps its hyperparameters: names as CleanRL's scripts have them, or as the user says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from tars.agents.adapters.adapter import CannotAttach
from tars.agents.adapters.reads import peek, why_not
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Value

Getter = Callable[[], Value]
Setter = Callable[[Value], None]
Key = str | tuple[Any, str] | tuple[Getter, Setter]
"""An attribute of the namespace, an attribute of some other object, or two functions."""

ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "learning_rate": ("lr",),
    "actor_learning_rate": ("policy_lr", "actor_lr"),
    "critic_learning_rate": ("q_lr", "critic_lr"),
    "gamma": ("discount",),
    "exploration_initial_eps": ("start_e",),
    "exploration_final_eps": ("end_e",),
    "target_update_interval": ("target_network_frequency",),
    "train_freq": ("train_frequency",),
    "clip_range": ("clip_coef",),
    "n_epochs": ("update_epochs",),
    "n_steps": ("num_steps",),
    "noise_sigma": ("exploration_noise",),
}
"""What else a key is called."""
FIXED: Final[Mapping[str, str]] = {
    "n_steps": "the loop allocates its storage once: a shorter rollout trains on stale rows, a longer one crashes",
    "buffer_size": "the loop allocates its buffer once",
}
"""Keys that an attribute cannot change, and why; functions of the user's own can."""
SIGNS: Final[Mapping[AlgorithmName, tuple[str, ...]]] = {
    "ppo": ("clip_range",),
    "dqn": ("exploration_initial_eps", "exploration_fraction"),
    "ddpg": ("noise_sigma",),
    "a2c": ("gae_lambda",),
}
"""Keys by which an algorithm is told, in this order."""


class BadLoop(CannotAttach):
    """What was given to attach() describes no learner; the message says what is missing."""


@dataclass(frozen=True)
class Attribute:
    """A value that the loop reads from an object, again and again."""

    owner: Any
    name: str

    def get(self) -> Value:
        """Read it without being counted."""
        return cast("Value", peek(self.owner, self.name))

    def set(self, value: Value) -> None:
        """Write it."""
        setattr(self.owner, self.name, value)


@dataclass(frozen=True)
class Functions:
    """A value behind two functions of the user's own."""

    get: Getter
    set: Setter


Place = Attribute | Functions


@dataclass(frozen=True)
class Places:
    """Where each key of a loop's algorithm is, or why it cannot be reached."""

    algorithm: AlgorithmName
    found: Mapping[str, Place]
    missing: Mapping[str, str]
    namespace: Any

    def number(self, name: str) -> Any:  # noqa: ANN401 - whatever the user keeps there
        """Another attribute of the namespace; None where there is none."""
        return getattr(self.namespace, name, None)


def places(namespace: object, keys: Mapping[str, Key], algorithm: str | None) -> Places:
    """Find every key; raises BadLoop when the algorithm cannot be told, or a key is none of its."""
    learns = _told(namespace, keys) if algorithm is None else next((a for a in SIGNS if a == algorithm), None)
    if learns is None:
        raise BadLoop(f"algorithm = {algorithm!r} is none of {', '.join(ALGORITHMS)}")
    names = ALGORITHMS[learns].names
    if unknown := sorted(set(keys) - set(names)):
        raise BadLoop(f"{', '.join(unknown)}: no key of {learns}, which has {', '.join(names)}")
    found: dict[str, Place] = {}
    missing: dict[str, str] = {}
    for name in names:
        place = _place(namespace, learns, name, keys.get(name))
        if isinstance(place, str):
            missing[name] = place
        else:
            found[name] = place
    return Places(learns, found, missing, namespace)


def attribute_of(namespace: object, algorithm: AlgorithmName, name: str) -> str | None:
    """What the namespace calls a key; None: it has none."""
    called: tuple[str, ...] = (name, *ALIASES.get(name, ()))
    if algorithm == "ppo" and name == "batch_size":  # CleanRL's batch_size is the whole rollout, and derived
        called = ("minibatch_size",)
    return next((one for one in called if hasattr(namespace, one)), None)


def _told(namespace: object, keys: Mapping[str, Key]) -> AlgorithmName:
    for algorithm, signs in SIGNS.items():
        if any(sign in keys or attribute_of(namespace, algorithm, sign) for sign in signs):
            return algorithm
    raise BadLoop(f"which algorithm is this? Say algorithm= one of {', '.join(ALGORITHMS)}")


def _place(namespace: object, algorithm: AlgorithmName, name: str, key: Key | None) -> Place | str:
    match key:
        case (get, set_) if callable(get) and callable(set_):
            return Functions(get, set_)
        case (owner, str(attribute)):
            place = Attribute(owner, attribute)
        case _:
            called = key if isinstance(key, str) else attribute_of(namespace, algorithm, name)
            if called is None:
                return f"the {type(namespace).__name__} has no {' or '.join((name, *ALIASES.get(name, ())))}"
            place = Attribute(namespace, called)
    if name in FIXED:
        return FIXED[name]
    return why_not(place.owner, place.name) or _no_number(place) or place


def _no_number(place: Attribute) -> str | None:
    try:
        value: object = place.get()
    except AttributeError:
        return f"the {type(place.owner).__name__} has no attribute {place.name}"
    if value is None or type(value) in {int, float}:
        return None
    return f"{place.name} is a {type(value).__name__}, not a number"
