"""What a person may want: commands with an id made once, a deadline and a name, for scripts, command line and page."""

import getpass
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypedDict, TypeVar

from pydantic import ValidationError

from tars.runtime.settings import Settings
from tars.schemas.errors import TarsError, complaints
from tars.schemas.evidence import Objective, Start
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By, Command
from tars.schemas.study import Sampler
from tars.schemas.trial import Normalize
from tars.schemas.update import APPLY_WITHIN, ApproveUpdate, UpdateProposed, content_of

DEADLINE: Final = timedelta(seconds=60)
"""How long a person waits for a command; afterwards it is refused."""

C = TypeVar("C", bound=Command)


class CommandRefused(TarsError):
    """A command was refused; `reasons` says why, each in words a person can act on.

    retry_after: the seconds after which it may be carried out; None: sending it again does not help.
    """

    def __init__(self, *reasons: str, retry_after: float | None = None) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.retry_after = retry_after


class OutcomeUnknown(TarsError):
    """A command may have reached NATS, and nobody has answered in time: it may still be carried out.

    Sent again with this `command_id` it counts once.
    """

    def __init__(self, why: str, command_id: str = "") -> None:
        super().__init__(why)
        self.command_id = command_id


class NotSent(TarsError):
    """A command could not be sent: nothing will happen."""


@dataclass(frozen=True)
class Outcome:
    """A command was carried out."""

    command_id: str
    events: tuple[str, ...] = field(default=())
    """The kinds of the events it led to; none: it changed nothing, because it was so already."""


class StudyOptions(TypedDict, total=False):
    """What StartStudy takes beside its target and its number of trials; `schemas/study.py` says what each means."""

    candidates: Sequence[Mapping[str, Value]]
    start: Start
    objective: Objective
    weights: Mapping[str, float]
    wall_seconds: float | None
    warm_start: bool
    explain: bool
    propose: bool
    quick: bool | None
    sampler: Sampler
    seed: int
    structural: bool
    environment: str | None
    score_range: tuple[float, float] | None
    normalize: Sequence[Normalize]
    trainer: str


@contextmanager
def well_formed() -> Iterator[None]:
    """Turn what no message can hold into CommandRefused, with every field that is wrong, before anything is sent."""
    try:
        yield
    except ValidationError as error:
        raise CommandRefused(*complaints(error)) from error


def sender(settings: Settings) -> By:
    """Who sends from here: TARS_USER, or the login name."""
    return By(principal=settings.tars_user or getpass.getuser())


def with_deadline(command: C, after: timedelta = DEADLINE) -> C:
    """Return the command with a deadline from now, unless it has one."""
    if command.deadline is not None:
        return command
    return command.model_copy(update={"deadline": datetime.now(UTC) + after})


def endorsing(command: ApproveUpdate, proposed: UpdateProposed) -> ApproveUpdate:
    """Return an approval that names what it approves, and until when agents may take it, unless it does so already."""
    named = {
        "content": command.content or content_of(proposed).digest(),
        "apply_until": command.apply_until or datetime.now(UTC) + APPLY_WITHIN,
    }
    return command.model_copy(update=named)


def seconds_left(deadline: datetime | None) -> float:
    """How long until a deadline; infinite without one."""
    return (deadline - datetime.now(UTC)).total_seconds() if deadline else math.inf


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
