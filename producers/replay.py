"""A dead letter's original bytes, sent again to their original subject under a new id. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg

from tars.producers.commands import DEADLINE, CommandRefused
from tars.runtime.journal import stored_time
from tars.schemas import dead_letters
from tars.schemas.views import DeadRow


@dataclass(frozen=True)
class Replay:
    """A command that nobody here has read: what its subject says of it, and its bytes."""

    subject: str
    body: bytes
    deadline: datetime

    @property
    def kind(self) -> str:
        """Its kind, as its subject says, e.g. `update.approve.v1`."""
        return ".".join(self.subject.split(".")[2:5])

    @property
    def noun(self) -> str:
        """What it is about."""
        return self.kind.split(".", 1)[0]

    @property
    def key(self) -> str:
        """Whose it is: what ends its subject."""
        return ".".join(self.subject.split(".")[5:])


def letter_of(message: Msg) -> DeadRow:
    """A message of the stream DEAD, whole."""
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    at, sequence = stored_time(headers["Nats-Time-Stamp"]), int(headers["Nats-Sequence"])
    return dead_letters.row(sequence, at, headers["Nats-Subject"], message.data, headers)


def replay_of(message: Msg, now: datetime) -> Replay:
    """What is sent for a dead letter; raises CommandRefused where it is no command that people send."""
    letter = letter_of(message)
    if letter.not_again is not None:
        raise CommandRefused(f"dead letter {letter.sequence} cannot be sent again: {letter.not_again}")
    return Replay(letter.subject, renewed(message.data, now), now + DEADLINE)


def renewed(body: bytes, now: datetime) -> bytes:
    """The bytes as they are, but where their deadline has passed, or is missing: then with one from now.

    It says how long the sender waits, and that is somebody else now; everything else stays. What is no JSON object
    stays as it is: whoever reads it says what is wrong with it.
    """
    try:
        found = json.loads(body)
    except ValueError:
        return body
    if not isinstance(found, dict) or _is_ahead(found, now):
        return body
    return json.dumps(found | {"deadline": (now + DEADLINE).isoformat()}, separators=(",", ":")).encode()


def _is_ahead(body: Mapping[str, Any], now: datetime) -> bool:
    """Whether the deadline is still to come, as far as it can be read."""
    deadline = body.get("deadline")
    if deadline is None:
        return False
    try:
        read = datetime.fromisoformat(str(deadline))
    except ValueError:
        return True  # not ours to mend
    return read.replace(tzinfo=read.tzinfo or UTC) > now
