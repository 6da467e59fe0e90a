"""What every message is: an event, a command or a report; and what the bus knows about one in hand."""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""One token of a subject."""
Principal = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""Who: a name that a key vouches for, or only claims to be (see `By.signed`)."""
Reason = Annotated[str, StringConstraints(max_length=1000)]
Role = Literal["viewer", "proposer", "approver", "worker", "gateway"]
"""viewer: reads; proposer: starts studies and proposes; approver: lets through; worker: a process of TARS; gateway: a
page that speaks for those who logged in there."""
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


class Login(Frozen):
    """Who logged in at a gateway: what their id token said that counts here, and its hash; never the token."""

    issuer: Annotated[str, StringConstraints(min_length=1)]
    subject: Annotated[str, StringConstraints(min_length=1)]
    """The issuer's name for this person, never another's."""
    name: str = ""
    """What people call them, as an e-mail address. It may change, and be chosen by them: for the eye alone."""
    groups: tuple[str, ...]
    """Those that give a role here."""
    roles: tuple[Role, ...]
    issued_at: AwareDatetime
    expires_at: AwareDatetime
    token: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """sha256 of the id token."""

    @property
    def principal(self) -> str:
        """Who this is to TARS: `<issuer>#<subject>`."""
        return f"{self.issuer}#{self.subject}"


class By(Frozen):
    """Who did something, and whether a signature proves it."""

    principal: Principal
    signed: bool = False
    login: Login | None = None
    """Of somebody for whom a gateway signed: the id token that proved who they are."""

    def __str__(self) -> str:
        """For people: the name, marked when nothing proves it."""
        if self.login is not None and self.login.name:
            return f"{self.login.name} ({self.principal})"
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

    def upcast(self) -> "Message":
        """The same as the next version of its kind says it. A version that was succeeded overrides this."""
        return self


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
    on_behalf: str | None = None
    """Signed by a gateway: the Login it speaks for, as the JSON that it signed too. One line."""

    @property
    def covered(self) -> bytes:
        """The bytes that are signed: a line for each of the others, which hold no line's end, before the body."""
        if self.on_behalf is None:
            return f"tars command v1\n{self.id}\n{self.subject}\n{self.body}".encode()
        return f"tars command of a gateway v1\n{self.id}\n{self.subject}\n{self.on_behalf}\n{self.body}".encode()


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

    @classmethod
    def from_events(cls, command_id: str, events: Iterable[Event]) -> "Answer":
        """What became of a command that led to these events; where one refuses it, with every reason."""
        led_to = tuple(events)
        reasons = tuple(why for event in led_to if "refused" in event.kind for why in getattr(event, "reasons", ()))
        kinds = tuple(event.kind for event in led_to)
        return cls(command_id=command_id, done=not reasons, reasons=reasons, events=kinds)
