"""A backup: what each stream was when it was taken, and in which order streams must be taken."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from tars.schemas.message import Frozen

ORDER: Final = ("COMMANDS", "EVENTS", "AGENTS", "TRIALS", "OBJ_SNAPSHOTS", "REPORTS", "DEAD")
"""Streams as they are taken, so that what one of them tells of is there in the others.

COMMANDS before EVENTS: a command is gone from the queue once its events are stored, so the other way round one that is
decided in between would be in neither; this way it may be in both, and is found decided. EVENTS before the rest: what
events tell of (an agent's configuration, a trial, a snapshot) was stored before they were. AGENTS may tell of nothing
that EVENTS does not know: both are taken anew until AGENTS ends no later than EVENTS. A trial or a snapshot that no
event tells of yet harms nobody.
"""


class SavedStream(Frozen):
    """One stream in a backup."""

    stream: str
    file: Annotated[str, Field(pattern=r"^[A-Z_]+\.snapshot$")]
    bytes: int
    sha256: str
    """Of the file."""
    messages: int
    last: int
    """Sequence of the newest message."""
    last_time: datetime | None
    """When its last message was stored."""
    config: dict[str, Any]
    state: dict[str, Any]
    """Both as the server gave them."""
    floors: dict[str, int]
    """Durable -> the sequence up to which everything was acknowledged before the stream was taken."""


class Manifest(Frozen):
    """What a backup consists of; written last, so that a folder without it is none."""

    format: Literal[1] = 1
    version: str
    """Of TARS."""
    taken_at: datetime
    streams: tuple[SavedStream, ...]
    sha256: str = ""
    """Of all the rest."""

    def seal(self) -> str:
        """What `sha256` must be."""
        return self.model_copy(update={"sha256": ""}).digest()
