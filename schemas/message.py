"""What every message is: an event, a command or a report; and what the bus knows about one in hand."""

import hashlib
import json
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""One token of a subject."""
Principal = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""Who: a name that a key vouches for, or only claims to be (see `By.signed`)."""
Reason = Annotated[str, StringConstraints(max_length=1000)]
Holder = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""The process that holds a lease: `<host>-<pid>-<random>`."""


class Frozen(BaseModel):
    """A value: immutable, finite, comparable."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="ignore")

    def canonical(self) -> bytes:
        """Its JSON with sorted keys and no spaces: equal values give equal bytes."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True
        ).encode()

    def digest(self) -> str:
        """The sha256 of its canonical JSON, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()


class By(Frozen):
    """Who did something, and whether a signature proves it."""

    principal: Principal
    signed: bool = False

    def __str__(self) -> str:
        """For people: the name, marked when nothing proves it."""
        return self.principal if self.signed else f"{self.principal} (unsigned)"


class Message(Frozen):
    """Anything on the bus. `kind` is `<noun>.<verb>.v<version>`; the subject is `tars.<channel>.<kind>.<key>`."""

    CHANNEL: ClassVar[Literal["event", "command", "report"]]
    kind: str

    @property
    def noun(self) -> str:
        """What it is about: study, trial, update, agent, game or session."""
        return self.kind.split(".", 1)[0]

    @property
    def key(self) -> str:
        """Whose message it is: what ends its subject."""
        return str(getattr(self, f"{self.noun}_id"))

    @property
    def subject(self) -> str:
        """The subject it travels on, e.g. `tars.event.update.approved.v1.u-17`."""
        return f"tars.{self.CHANNEL}.{self.kind}.{self.key}"


class Event(Message):
    """Something that happened. Readers skip fields they do not know yet."""

    CHANNEL = "event"


class Command(Message):
    """Something someone wants. A field nobody knows is a mistake, so it is refused."""

    CHANNEL = "command"
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    deadline: AwareDatetime | None = None
    """After this moment it is refused: whoever sent it has stopped waiting."""


class Report(Message):
    """A measurement; losing one harms nobody."""

    CHANNEL = "report"


class Signed(Frozen):
    """A signed command as it was sent: whoever has the public key can check it, now or later.

    Covered are its id, its subject and the bytes of its body, so none of them can be another's. The body holds its
    deadline, and the id makes a repetition the same command: that is all there is to replay.
    """

    key: str
    """Id of the key: half of its sha256, in hex."""
    id: str
    subject: str
    body: str
    """The body's bytes, which are UTF-8."""
    signature: str
    """ed25519, in base64."""

    @property
    def covered(self) -> bytes:
        """The bytes that are signed: a line for each of the others, which hold no line's end, before the body."""
        return f"tars command v1\n{self.id}\n{self.subject}\n{self.body}".encode()


class Envelope(Frozen):
    """What the bus knows about the message in hand, and whether its sender is proven."""

    id: str
    """Made once by the sender, kept over retries."""
    subject: str
    sequence: int
    time: datetime
    """When the server stored it."""
    by: By
    signed: Signed | None = None
    """The command as it was signed, where that proves who sent it."""
    barred: str | None = None
    """Why whoever sent it may not: unsigned, forged, or without the role; None: nothing is in the way."""
    late: bool = False
    """It is handled after its deadline."""
    reply: str | None = None
    """Where its sender waits for an Answer."""
    traceparent: str | None = None


class Answer(Frozen):
    """What became of a command."""

    command_id: str
    done: bool
    reasons: tuple[str, ...] = ()
    """Why not, each in words a person can act on."""
    events: tuple[str, ...] = ()
    """The kinds of the events it led to."""
    retry_after: float | None = None
    """Seconds after which the same command, sent anew, may be carried out; None: sending it again does not help."""
