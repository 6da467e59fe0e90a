"""What a person may want: commands with an id made once, a deadline and a name, for scripts, command line and page."""

import getpass
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeVar

from tars.runtime.settings import Settings
from tars.schemas.errors import TarsError
from tars.schemas.message import By, Command

DEADLINE: Final = timedelta(seconds=60)
"""How long a person waits for a command; afterwards it is refused."""

C = TypeVar("C", bound=Command)


class CommandRefused(TarsError):
    """A command was refused; `reasons` says why, each in words a person can act on."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class OutcomeUnknown(TarsError):
    """A command was sent, and nobody has answered in time: it may still be carried out."""


class NotSent(TarsError):
    """A command could not be sent: nothing will happen."""


@dataclass(frozen=True)
class Outcome:
    """A command was carried out."""

    command_id: str
    events: tuple[str, ...] = field(default=())
    """The kinds of the events it led to; none: it changed nothing, because it was so already."""


def sender(settings: Settings) -> By:
    """Who sends from here: TARS_USER, or the login name."""
    return By(principal=settings.tars_user or getpass.getuser())


def with_deadline(command: C, after: timedelta = DEADLINE) -> C:
    """Return the command with a deadline from now, unless it has one."""
    if command.deadline is not None:
        return command
    return command.model_copy(update={"deadline": datetime.now(UTC) + after})


def nats_address(settings: Settings) -> str:
    """NATS_URL; else that of the `tars up` that runs in the data folder; else nats://localhost:4222."""
    if settings.nats_url:
        return settings.nats_url
    return str(endpoints(settings.tars_data).get("nats") or settings.nats)


def endpoints(folder: Path) -> dict[str, object]:
    """Read what `tars up` wrote for others; empty while none runs in that folder."""
    try:
        found = json.loads((folder / "endpoints.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
