"""Rows that a fold keeps for ever: those that have ended, which are nearly all, take little memory."""

import zlib
from collections.abc import Callable
from typing import Generic, TypeVar

from tars.schemas.message import Frozen

Row = TypeVar("Row", bound=Frozen)


class Rows(Generic[Row]):
    """Rows by name; what has ended and was told of lies packed until somebody asks for it again."""

    def __init__(self, model: type[Row], has_ended: Callable[[Row], bool]) -> None:
        self._model, self._has_ended = model, has_ended
        self._live: dict[str, Row] = {}
        self._packed: dict[str, bytes] = {}

    def get(self, name: str) -> Row | None:
        """Return a row; None: there is none."""
        if (row := self._live.get(name)) is not None:
            return row
        packed = self._packed.get(name)
        return None if packed is None else self._model.model_validate_json(zlib.decompress(packed))

    def put(self, name: str, row: Row) -> None:
        """Keep what a row has become."""
        self._live[name] = row
        self._packed.pop(name, None)

    def told(self, name: str) -> Row:
        """Return a row that is told of now, and pack it where it has ended: hardly ever does it change again."""
        row = self.get(name)
        if row is None:
            raise KeyError(name)
        if self._has_ended(row) and self._live.pop(name, None) is not None:
            self._packed[name] = zlib.compress(row.model_dump_json().encode())
        return row
