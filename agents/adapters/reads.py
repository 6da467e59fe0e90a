"""Does anybody read this attribute? A class of its own, put under an object for a while, that counts reads of some."""

from collections.abc import Iterable
from typing import Any


class CannotWatch(Exception):
    """Reads of this object cannot be counted; the message says why."""


class CountedReads:
    """Counts reads of some attributes of an object, made by code: not those through vars() or pickle.

    Only these attributes become slower, and only until `stop`.
    """

    def __init__(self, owner: Any, names: Iterable[str]) -> None:  # noqa: ANN401 - anybody's namespace
        self.owner, self._kind = owner, type(owner)
        self.values: dict[str, Any] = {}
        """Of each attribute that was read, what was read last."""
        body = {name: property(self._getter(name), _setter(name)) for name in names}
        alike = {"__module__": self._kind.__module__, "__qualname__": self._kind.__qualname__}
        extra = {"__slots__": (), "__reduce_ex__": _reduced(self._kind)}
        try:
            owner.__class__ = type(self._kind.__name__, (self._kind,), {**alike, **extra, **body})
        except TypeError as error:
            raise CannotWatch(f"reads of a {self._kind.__name__} cannot be counted ({error})") from error

    def stop(self) -> None:
        """Give the object its class back."""
        if type(self.owner) is not self._kind:
            self.owner.__class__ = self._kind

    def _getter(self, name: str) -> Any:  # noqa: ANN401
        def read(owner: Any) -> Any:  # noqa: ANN401
            value = self.values[name] = peek(owner, name)
            return value

        return read


def _reduced(kind: type[Any]) -> Any:  # noqa: ANN401
    """Pickle and copy it as what it is."""

    def reduce(owner: Any, _: int) -> Any:  # noqa: ANN401
        counting, owner.__class__ = type(owner), kind
        try:
            return owner.__reduce_ex__(0)  # a later protocol's form makes pickle compare the classes
        finally:
            owner.__class__ = counting

    return reduce


def _setter(name: str) -> Any:  # noqa: ANN401
    def write(owner: Any, value: Any) -> None:  # noqa: ANN401
        vars(owner)[name] = value

    return write


def peek(owner: Any, name: str) -> Any:  # noqa: ANN401
    """Read an attribute without being counted; raises AttributeError."""
    if name in vars(owner):
        return vars(owner)[name]
    for kind in type(owner).__mro__:
        if name in vars(kind) and not isinstance(vars(kind)[name], property):
            return vars(kind)[name]
    raise AttributeError(name)


def why_not(owner: Any, name: str) -> str | None:  # noqa: ANN401
    """Why an attribute cannot be written, or reads of it not counted; None: both can be done."""
    kind = type(owner).__name__
    if isinstance(owner, type):
        return f"{owner.__name__} is a class: give the object that your loop reads"
    if not hasattr(owner, "__dict__"):
        return (
            f"reads of a {kind} cannot be counted: use argparse.Namespace or a dataclass, or give a getter and setter"
        )
    if getattr(getattr(owner, "__dataclass_params__", None), "frozen", False):
        return f"{kind} is a frozen dataclass"
    if isinstance(getattr(type(owner), name, None), property):
        return f"{kind}.{name} is a property"
    try:
        CountedReads(owner, ()).stop()
    except CannotWatch as error:
        return f"{error}: use argparse.Namespace or a dataclass, or give a getter and setter"
    return None
