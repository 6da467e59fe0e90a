"""An export of the ledger, and one update's case in it: what an audit has in hand, without any server. Pure."""

import base64
import binascii
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Final, Literal

from pydantic import AwareDatetime

from tars.schemas.errors import Poison, TarsError
from tars.schemas.message import Frozen, Message, Signed
from tars.schemas.streams import decode
from tars.schemas.trust import Trust, TrustedKey
from tars.schemas.update import UpdateEvent, UpdateProposed

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
"""Header: the version that whoever appended had read, which the server held it to."""
KEY: Final = 5
"""Which token of a subject says whose message it is."""


class StoredMessage(Frozen):
    """A message as the server has it; a line of an export."""

    stream: str
    sequence: int
    subject: str
    time: AwareDatetime
    headers: dict[str, str]
    body: str
    encoding: Literal["utf-8", "base64"] = "utf-8"

    @classmethod
    def of(cls, data: bytes, **about: Any) -> "StoredMessage":  # noqa: ANN401 - the other fields
        """Take bytes as text where they are."""
        try:
            return cls(body=data.decode(), **about)
        except UnicodeDecodeError:
            return cls(body=base64.b64encode(data).decode(), encoding="base64", **about)

    @property
    def data(self) -> bytes:
        """The body's bytes; raises ValueError where the text is not what its encoding says."""
        return self.body.encode() if self.encoding == "utf-8" else base64.b64decode(self.body, validate=True)


class ExportHeader(Frozen):
    """The first line of an export."""

    kind: Literal["tars.export.v1"] = "tars.export.v1"
    version: str
    """Of TARS."""
    taken_at: AwareDatetime
    update_id: str | None
    """None: it is the whole ledger."""
    trust: Trust | None
    """Who was trusted with what where it was made: names, public keys, roles."""


class Seal(Frozen):
    """The last line of an export: what was before it, to the byte."""

    kind: Literal["tars.export.seal.v1"] = "tars.export.seal.v1"
    messages: int
    sha256: str
    """Of all lines before."""
    signed: Signed | None = None
    """The sha256, signed by who made the export; None: whoever alters the export can seal it again."""


class Check(Frozen):
    """What one check of an audit found."""

    name: str
    outcome: Literal["ok", "FAILED", "not checkable"]
    why: str
    """What was found; of a failure every fault."""


class NotCheckable(Exception):
    """The export does not hold what the check needs; the message says what."""


Verify = Callable[[Signed], TrustedKey | str]
"""Whose signature it is, or why it is nobody's."""


@dataclass(frozen=True)
class Told:
    """A message that could be read, and what the server knows about it."""

    message: Any
    """A message of `schemas/streams.py`'s KINDS."""
    id: str
    sequence: int
    time: datetime
    headers: dict[str, str]

    @property
    def cause(self) -> str:
        """The message that led to this event."""
        return self.id.rpartition(":")[0]

    @property
    def expected(self) -> int | None:
        """The version it was appended to; None: it says none, as all but the first of a batch."""
        text = self.headers.get(EXPECTED, "")
        return int(text) if text.isdecimal() else None


@dataclass(frozen=True)
class Case:
    """Everything in an export that concerns one update."""

    update_id: str
    stored: tuple[StoredMessage, ...] = ()
    """All of it as it lies there, in the export's order."""
    unreadable: tuple[str, ...] = ()
    told: tuple[Told, ...] = field(default=(), repr=False)
    """All of it that can be read."""

    def of(self, noun: str, key: str) -> tuple[Told, ...]:
        """The history of one id."""
        return tuple(self._by_id.get(("event", noun, key), ()))

    @property
    def update(self) -> tuple[Told, ...]:
        """The update's own history."""
        return self.of("update", self.update_id)

    @property
    def events(self) -> tuple[UpdateEvent, ...]:
        """Its events alone."""
        return tuple(one.message for one in self.update)

    @property
    def proposal(self) -> UpdateProposed:
        """What it is about; raises NotCheckable where it was never proposed."""
        for event in self.events:
            if isinstance(event, UpdateProposed):
                return event
        raise NotCheckable("it was never proposed")

    def configurations(self, agent_id: str) -> tuple[Told, ...]:
        """What an agent was told to run, by any update."""
        return tuple(self._by_id.get(("command", "agent", agent_id), ()))

    def trials(self, study_id: str) -> tuple[Told, ...]:
        """The trials of a study that were asked, and their outcomes."""
        return tuple(one for one in self.told if one.message.noun == "trial" and one.message.study_id == study_id)

    @cached_property
    def _by_id(self) -> dict[tuple[str, str, str], list[Told]]:
        """By channel, noun and id: an update of a thousand agents asks for each of them again and again."""
        found = defaultdict[tuple[str, str, str], list[Told]](list)
        for one in self.told:
            found[one.message.CHANNEL, one.message.noun, one.message.key].append(one)
        return found


def case_of(update_id: str, messages: Iterable[StoredMessage]) -> Case:
    """Pick what concerns an update: its history, its agents' and its study's, configurations and trials."""
    every = tuple(messages)
    own = [message for message in every if message.subject.startswith("tars.event.update.")]
    proposed = next((m for one in own if isinstance(m := _read(one), UpdateProposed) and m.key == update_id), None)
    keys = {update_id}
    if proposed is not None:
        keys |= {*proposed.base, proposed.study_id or update_id}
    stored = tuple(message for message in every if _concerns(message.subject, keys))
    read = [(message, _read(message)) for message in stored]
    return Case(
        update_id,
        stored,
        tuple(f"{m.stream} {m.sequence}: {why}" for m, why in read if isinstance(why, str)),
        tuple(_told(m, message) for m, message in read if not isinstance(message, str)),
    )


def _concerns(subject: str, keys: set[str]) -> bool:
    """Whether a subject is about one of these: `tars.<channel>.<noun>.<verb>.<version>.<key>`."""
    tokens = subject.split(".")
    return len(tokens) > KEY and tokens[KEY] in keys and tokens[1] != "report"


def _told(stored: StoredMessage, message: Message) -> Told:
    return Told(message, stored.headers.get("Nats-Msg-Id", ""), stored.sequence, stored.time, stored.headers)


def _read(stored: StoredMessage) -> Message | str:
    """The message, or why it cannot be read."""
    try:
        return decode(stored.subject, stored.data)
    except (Poison, ValueError, binascii.Error) as error:
        return str(error)


def checked(name: str, look: Callable[[], list[str] | str]) -> Check:
    """Ask one check: it answers with every fault it found, or in a sentence with what it found in order."""
    try:
        found = look()
    except NotCheckable as why:
        return Check(name=name, outcome="not checkable", why=str(why))
    except (ValueError, LookupError, TypeError, ArithmeticError, StopIteration, TarsError) as error:
        # An export is what somebody handed in: no message that contradicts itself may end the audit.
        return Check(name=name, outcome="FAILED", why=f"it contradicts itself: {type(error).__name__}: {error}")
    if isinstance(found, str):
        return Check(name=name, outcome="ok", why=found)
    return Check(name=name, outcome="FAILED", why="; ".join(found))
