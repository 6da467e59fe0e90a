"""The ledger by id: read the history of one noun's id, append to it if nobody else has."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, cast

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from tars.runtime import metrics
from tars.runtime.bus import PUBLISH_TIMEOUT, Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.telemetry import link_to
from tars.schemas.errors import Malformed, Poison, Transient
from tars.schemas.message import By, Event
from tars.schemas.streams import decode, history_subject, stream_of

log = logging.getLogger(__name__)

E = TypeVar("E", bound=Event)
_PAGE = 256
LAG_SECONDS: Final = 5.0
"""How long a copy of a stream may lag behind another before who reads it gives up."""
LAG_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True)
class Entry(Generic[E]):
    """A stored event, and what the ledger knows about it."""

    event: E
    id: str
    sequence: int
    time: datetime
    traceparent: str | None


@dataclass(frozen=True)
class History(Generic[E]):
    """All events of one id, oldest first. Its version is the sequence of the last one; 0: there is none."""

    noun: str
    key: str
    entries: tuple[Entry[E], ...] = ()
    skipped: int = 0
    """Sequence of the last message that nobody can read, where such were passed over."""

    @property
    def version(self) -> int:
        """What an append expects to find."""
        return max(self.skipped, self.entries[-1].sequence if self.entries else 0)

    @property
    def events(self) -> tuple[E, ...]:
        """The events alone."""
        return tuple(entry.event for entry in self.entries)

    def caused_by(self, cause: str) -> tuple[E, ...]:
        """The events that this message already led to: it was delivered twice."""
        return tuple(entry.event for entry in self.entries if entry.id.rpartition(":")[0] == cause)

    def extended(self, other: "History[E]") -> "History[E]":
        """Return this history with what was read after it."""
        return History(self.noun, self.key, self.entries + other.entries, max(self.skipped, other.skipped))


class Journal:
    """Histories in JetStream."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self, noun: str, key: str, *, after: int = 0, reach: int = 0) -> History[E]:
        """Read the history of one id, or only what came after a sequence; raises Transient when NATS is away.

        Where a stream has several copies any of them answers, and one may lack what another has acknowledged. reach:
        the sequence of a message of this id that is known to be stored; a copy that has not got it is asked again.
        """
        subject = history_subject(noun, key)
        return History(noun, key, await self.messages(stream_of(subject), subject, after=after, reach=reach))

    async def current(self, noun: str, key: str) -> History[E]:
        """Read the history of one id as its stream's leader has it, for who may decide that nothing is to be done.

        An append is protected by the version it expects, a refusal by nothing. Costs a request more; raises as `read`.
        """
        found: History[E]
        reach, found = await asyncio.gather(self._end(history_subject(noun, key)), self.read(noun, key))
        return found if found.version >= reach else await self.read(noun, key, reach=reach)

    async def _end(self, subject: str) -> int:
        """The sequence of the newest message there, by the leader; 0: there is none."""
        try:
            newest = await self._bus.last(stream_of(subject), subject)
        except (NatsError, TimeoutError) as error:
            raise Transient(f"{subject}: cannot be read ({type(error).__name__})") from error
        return newest.sequence if newest else 0

    async def newest(self, noun: str, key: str, *, whatever: bool = False) -> History[E]:
        """Read the newest event of each kind of one id: a few, however long its history; in their order.

        Enough for a noun whose events each say all that they change, as an agent's do. whatever: pass over what nobody
        can read, for who must go on all the same; otherwise it raises Poison.
        """
        subject, skipped = history_subject(noun, key), 0
        entries: list[Entry[E]] = []
        for message in await self._direct(stream_of(subject), subject, {"multi_last": [subject]}):
            try:
                entries.append(_entry(message))
            except Poison as error:
                if not whatever:
                    raise
                skipped = max(skipped, sequence_of(message))
                log.warning("unreadable event passed over", extra={"subject": subject, "error": str(error)[:300]})
        return History(noun, key, tuple(sorted(entries, key=lambda entry: entry.sequence)), skipped)

    async def messages(self, stream: str, subject: str, *, after: int = 0, reach: int = 0) -> tuple[Entry[Any], ...]:
        """Read whatever lies on a subject filter, oldest first; reach and errors as `read` has them."""
        found, waited = list[Msg](), 0.0
        while True:
            found += [message async for message in self.stored(stream, subject, after=after)]
            after = sequence_of(found[-1]) if found else after
            if after >= reach:
                return _entries(found)
            if waited >= LAG_SECONDS:
                raise Transient(f"{subject}: no copy of {stream} that answers has message {reach}")
            await asyncio.sleep(LAG_LOOK_SECONDS)
            waited += LAG_LOOK_SECONDS

    async def stored(self, stream: str, subject: str = ">", *, after: int = 0) -> AsyncIterator[Msg]:
        """Read the same as it lies there, whatever it says; raises Transient when NATS is away."""
        while page := await self.page(stream, after + 1, _PAGE, subject):
            for message in page:
                yield message
            if not _is_followed(page[-1]):
                return
            after = sequence_of(page[-1])

    async def since(self, stream: str, subject: str, time: datetime) -> tuple[Entry[Any], ...]:
        """Read what was stored on a subject filter from a moment on; raises Transient when NATS is away."""
        when = {"start_time": time.isoformat(), "next_by_subj": subject, "batch": _PAGE}
        found = await self._direct(stream, subject, when)
        if found and _is_followed(found[-1]):
            found += [message async for message in self.stored(stream, subject, after=sequence_of(found[-1]))]
        return _entries(found)

    async def page(self, stream: str, start: int, size: int, subject: str = ">") -> list[Msg]:
        """Read up to `size` messages of a stream from a sequence on; their headers give sequence, subject and time.

        Fewer are no sign of the end: the server sends some 64 MB at once.
        """
        return await self._direct(stream, subject, {"seq": start, "next_by_subj": subject, "batch": size})

    async def _direct(self, stream: str, subject: str, request: dict[str, Any]) -> list[Msg]:
        """One direct get: stateless, so nothing to restore after an outage."""
        client, inbox, found = self._bus.client, self._bus.client.new_inbox(), list[Msg]()
        ask = f"$JS.API.DIRECT.GET.{stream}"
        try:
            replies = await client.subscribe(inbox)
            try:
                async with self._bus.refusals.watched(ask, inbox):
                    await client.publish(ask, json.dumps(request).encode(), reply=inbox)
                    while (status := _status(message := await replies.next_msg(timeout=PUBLISH_TIMEOUT))) is None:
                        found.append(message)
                    end_if_cancelled()
            finally:
                if client.is_connected:
                    await replies.unsubscribe()
        except (NatsError, TimeoutError) as error:
            raise Transient(f"{subject}: cannot be read ({type(error).__name__})") from error
        if status not in {"204", "404"}:
            raise Transient(f"{subject}: cannot be read (status {status})")
        return found

    async def append(
        self, events: Sequence[E], history: History[E], *, cause: str, by: By | None = None
    ) -> tuple[E, ...]:
        """Append all `events` or none, if `history` is still all there is; return what the cause has led to.

        A cause that already led to events (the message was delivered twice) changes nothing. Raises Conflict when
        the id has moved on.
        """
        if done := history.caused_by(cause):
            return done
        if history.entries:
            link_to(history.entries[-1].traceparent)
        await self._commit(events, history, cause, by, 0)
        return tuple(events)

    async def extend(
        self, events: Sequence[E], history: History[E], *, cause: str, first: int, by: By | None = None
    ) -> int:
        """Append as a step of a long process, whose cause goes on; return the new version."""
        return await self._commit(events, history, cause, by, first)

    async def _commit(self, events: Sequence[E], history: History[E], cause: str, by: By | None, first: int) -> int:
        version, batch = history.version, secrets.token_hex(8)
        for index, event in enumerate(events):
            after = (history_subject(history.noun, history.key), history.version) if index == 0 else None
            place = (batch, index + 1, index + 1 == len(events)) if len(events) > 1 else None
            version = await self._bus.publish(event, id=f"{cause}:{first + index}", by=by, after=after, batch=place)
        for event in events[:-1]:  # stored with the last one, and counted only now
            metrics.STORED.labels(event.kind).inc()
        return version


def _status(message: Msg) -> str | None:
    """End of a page: 204 all sent, 404 nothing there; None: a stored message, whatever headers its sender made up."""
    headers = message.headers or {}
    return None if "Nats-Stream" in headers else str(headers.get("Status", "unknown"))


def _is_followed(message: Msg) -> bool:
    """Whether more of what was asked for came after it, when the page was read."""
    return int((message.headers or {})["Nats-Num-Pending"]) > 0


def _entries(messages: Iterable[Msg]) -> tuple[Entry[Any], ...]:
    """Raises Malformed, where one is, rather than that a newer release can read another: none can read them all."""
    found, newer = list[Entry[Any]](), list[Poison]()
    for message in messages:
        try:
            found.append(_entry(message))
        except Malformed:
            raise
        except Poison as error:
            newer.append(error)
    if newer:
        raise newer[0]
    return tuple(found)


def _entry(message: Msg) -> Entry[E]:
    headers = message.headers or {}
    return Entry(
        event=cast("E", decode(headers["Nats-Subject"], message.data)),
        id=headers.get("Nats-Msg-Id", ""),
        sequence=sequence_of(message),
        time=stored_time(headers["Nats-Time-Stamp"]),
        traceparent=headers.get("traceparent"),
    )


def sequence_of(message: Msg) -> int:
    """Where a message that was read lies in its stream."""
    return int((message.headers or {})["Nats-Sequence"])


def stored_time(text: str) -> datetime:
    """When a message was stored: RFC 3339 with nanoseconds, as the server writes it; Python keeps microseconds."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}+00:00")
