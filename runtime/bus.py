"""The way to NATS: connecting, and publishing with headers stamped in one place."""

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoServersError, OutboundBufferLimitError
from nats.js import JetStreamContext
from nats.js.api import Header, StreamInfo
from nats.js.errors import APIError, NotFoundError

from tars.runtime import metrics
from tars.runtime.access import Access
from tars.runtime.refusals import PromptClient, Refusals, Unencrypted
from tars.runtime.settings import bare
from tars.runtime.signing import Signs
from tars.runtime.telemetry import trace_headers
from tars.schemas.errors import Conflict, TarsError, Transient
from tars.schemas.message import Answer, By, Command, Envelope, Message
from tars.schemas.permissions import REPLY_PREFIX
from tars.schemas.streams import STREAMS, stream_of

log = logging.getLogger(__name__)

WRONG_LAST_SEQUENCE: Final = 10071
DUPLICATE_IN_BATCH: Final = 10201
PUBLISH_TIMEOUT: Final = 5.0
"""Seconds until a publish without an answer has an unknown outcome."""
LASTING: Final[Mapping[str, Any]] = {
    "connect_timeout": 2,
    "max_reconnect_attempts": -1,
    "reconnect_time_wait": 0.2,  # seconds; a fraction works, whatever nats-py's annotation says
    # So after half a minute of silence a connection counts as lost. A network that drops packets says nothing, nor does
    # a server that vanished; nats-py's own 120 seconds make six minutes.
    "ping_interval": 10,
    "max_outstanding_pings": 2,
}
"""How every connection is made, the bus's and FastStream's: a lost one is noticed, and renewed for ever."""
NOT_KNOWN: Final = "authorization violation"
FIRST_CONNECTION: Final = 5.0
"""Seconds between two log lines of a worker that waits for NATS."""


def _status_of(message: Msg | None) -> str | None:
    """What the server says of a request for messages; None: this is a message, whatever headers its sender made up."""
    if message is None or message.reply.startswith("$JS.ACK."):
        return None
    return (message.headers or {}).get(Header.STATUS)


# nats-py takes any delivery with a header Status for the server's own word, and drops it: it would come again for ever.
JetStreamContext.is_status_msg = staticmethod(_status_of)  # type: ignore[method-assign,assignment]


class Unreachable(TarsError):
    """No NATS server answers at the given address."""


class NotAdmitted(Unreachable):
    """A server answers, and does not let this process in, or is not whom it should be."""


class TooLarge(TarsError):
    """A message has more bytes than its stream takes; the message says how many it takes."""


class Stored(NamedTuple):
    """A stored message."""

    sequence: int
    id: str
    body: bytes
    time: datetime
    """When the server stored it."""


class Bus:
    """A connection to NATS that publishes messages and reads streams."""

    def __init__(self, client: PromptClient, source: str) -> None:
        self.client = client
        self.refusals = client.refusals
        self.source = source
        self.signer: Signs | None = None
        """Signs every command that is published here."""
        self.jetstream: JetStreamContext = client.jetstream(timeout=PUBLISH_TIMEOUT)

    async def publish(
        self,
        message: Message,
        *,
        id: str,  # noqa: A002 - the bus's own word
        by: By | None = None,
        after: tuple[str, int] | None = None,
        reply: str | None = None,
        batch: tuple[str, int, bool] | None = None,
    ) -> int:
        """Store `message` and return its sequence in its stream; inside a batch only the last one has a sequence.

        after: (subject filter, the last sequence expected there); raises Conflict when another one is found.
        batch: (batch id, position from 1, is it the last): all of a batch are stored, or none.
        Raises Transient when the outcome is unknown, TooLarge, or NotPermitted.
        """
        headers = self._headers(message.kind, id, by, reply)
        if after is not None:
            headers[Header.EXPECTED_LAST_SUBJECT_SEQUENCE] = str(after[1])
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = after[0]
        if batch is not None:
            headers |= {"Nats-Batch-Id": batch[0], "Nats-Batch-Sequence": str(batch[1])}
            headers |= {"Nats-Batch-Commit": "1"} if batch[2] else {}
        body = message.model_dump_json().encode()
        if isinstance(message, Command):
            headers |= self._signature(id, message.subject, body)
        if batch is not None and not batch[2]:
            self._fits(message.subject, body, headers)
            await self.client.publish(message.subject, body, headers=headers)
            return 0
        return await self._store(message.subject, body, headers)

    async def resend(self, subject: str, body: bytes, *, id: str, by: By, reply: str) -> int:  # noqa: A002 - as above
        """Store a command's bytes, unread, under a new id and signed by who sends now; raises as `publish`."""
        headers = self._headers(metrics.kind_of(subject), id, by, reply) | self._signature(id, subject, body)
        return await self._store(subject, body, headers)

    def _signature(self, command_id: str, subject: str, body: bytes) -> dict[str, str]:
        """The headers that vouch for a command; none where nobody signs here."""
        return self.signer.sign(command_id, subject, body) if self.signer is not None else {}

    def _fits(self, subject: str, body: bytes, headers: dict[str, str]) -> None:
        """Refuse before sending what the stream would refuse after."""
        stream, server_takes = STREAMS[stream_of(subject)], self.client.max_payload
        limit = min(server_takes, stream.max_msg_size) if stream.max_msg_size >= 0 else server_takes
        if (size := len(body) + header_bytes(headers)) > limit:
            raise TooLarge(f"{subject} has {size:,} bytes: {stream.name} takes at most {limit:,}")

    async def report(self, message: Message) -> None:
        """Send a measurement without waiting for its storage; raises NatsError when it cannot be sent."""
        await self.client.publish(
            message.subject, message.model_dump_json().encode(), headers=self._headers(message.kind, fresh_id("r"))
        )
        metrics.REPORTS_SENT.labels(message.kind).inc()

    async def _store(self, subject: str, body: bytes, headers: dict[str, str]) -> int:
        stream, began = stream_of(subject), time.perf_counter()
        headers[Header.EXPECTED_STREAM] = stream
        self._fits(subject, body, headers)
        try:
            ack = await self.jetstream.publish(subject, body, timeout=PUBLISH_TIMEOUT, headers=headers)
        except APIError as error:
            if error.err_code in {WRONG_LAST_SEQUENCE, DUPLICATE_IN_BATCH}:
                raise Conflict(f"{subject}: {error.description}") from error
            raise
        except OutboundBufferLimitError:
            raise  # nothing was sent, and nothing will be
        except (NatsError, TimeoutError) as error:
            raise Transient(f"{subject}: not acknowledged ({type(error).__name__})") from error
        metrics.STORING.labels(stream).observe(time.perf_counter() - began)
        if not ack.duplicate:
            metrics.STORED.labels(metrics.kind_of(subject)).inc()
        return ack.seq

    def _headers(self, kind: str, message_id: str, by: By | None = None, reply: str | None = None) -> dict[str, str]:
        stamped = {
            "Nats-Msg-Id": message_id,
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-id": message_id,
            "ce-type": f"tars.{kind}",
            "ce-source": f"tars/{self.source}",
            "ce-time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        told = {"Tars-By": ascii_name(by.principal)} if by else {}
        return stamped | trace_headers() | told | ({"Tars-Reply": reply} if reply else {})

    async def answer(self, subject: str | None, answer: Answer) -> None:
        """Tell a waiting sender; any other subject than a reply's is ignored."""
        if subject is not None and subject.startswith(REPLY_PREFIX):
            await self.client.publish(subject, answer.model_dump_json().encode(), headers=trace_headers() or None)

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message on `subject`, or None."""
        try:
            found = await self.jetstream.get_last_msg(stream, subject)
        except NotFoundError:
            return None
        message_id = (found.headers or {}).get("Nats-Msg-Id", "")
        return Stored(found.seq or 0, message_id, found.data or b"", found.time or datetime.min.replace(tzinfo=UTC))

    async def stream(self, name: str) -> StreamInfo:
        """The stream's state as the server has it."""
        return await self.jetstream.stream_info(name)

    async def close(self) -> None:
        """Send what is pending and close."""
        try:
            if self.client.is_connected:
                await self.client.flush(timeout=2)
            await self.client.close()
        except (NatsError, OSError, TimeoutError) as error:
            log.debug("closed without a farewell", extra={"error": repr(error)})


def copies_away(info: StreamInfo) -> list[str]:
    """Servers that should have a copy of this stream, and are gone or do not keep up."""
    peers = (info.cluster.replicas if info.cluster else None) or ()
    return [str(peer.name) for peer in peers if peer.offline or not peer.current]


def header_bytes(headers: Mapping[str, str]) -> int:
    """How many bytes headers have on the wire: the server counts them as it does the body's."""
    lines = sum(len(key.encode()) + len(value.encode()) + len(": \r\n") for key, value in headers.items())
    return len("NATS/1.0\r\n\r\n") + lines


def ascii_name(text: str) -> str:
    """Headers are ASCII on the wire; other letters become a question mark."""
    return text.encode("ascii", "replace").decode()


def fresh_id(prefix: str) -> str:
    """A new random id, made once by a sender: `<prefix>-<16 hex digits>`."""
    return f"{prefix}-{secrets.token_hex(8)}"


def envelope_of(message: Msg, *, deadline: datetime | None = None) -> Envelope:
    """What the bus knows about a message that a durable consumer delivered."""
    headers = message.headers or {}
    meta = message.metadata
    sequence = meta.sequence.stream
    return Envelope(
        id=headers.get("Nats-Msg-Id") or f"{meta.stream}-{sequence}",
        subject=message.subject,
        sequence=sequence,
        time=meta.timestamp,
        by=By(principal=headers.get("Tars-By") or "unknown"),
        late=deadline is not None and datetime.now(UTC) > deadline,  # the edge: judged once, on arrival
        reply=headers.get("Tars-Reply"),
        traceparent=headers.get("traceparent"),
    )


async def connect_bus(
    url: str,
    source: str,
    *,
    access: Access | None = None,
    patience: float | None = None,
    on_reconnect: Callable[[], Awaitable[None]] | None = None,
) -> Bus:
    """Connect to NATS; a lost connection is renewed for ever.

    access: the role of this process, and how it proves it; None: it has none, which a secured server does not let in.
    patience: seconds to wait for the first connection, then raise Unreachable; None: for ever (a worker).
    Raises BadSeed.
    """
    line = _Line(url, source, access, on_reconnect)
    until = None if patience is None else asyncio.get_running_loop().time() + patience
    while True:
        try:
            # With endless reconnects it never gives up itself.
            async with asyncio.timeout(patience or FIRST_CONNECTION) as limit:
                return Bus(await line.connect(limit if until else None), source)
        except (NatsError, OSError, TimeoutError) as error:
            if until is not None and (line.is_barred or asyncio.get_running_loop().time() >= until):
                raise line.why_not() from error
            log.warning("waiting for NATS", extra={"url": bare(url), "error": str(line.error or type(error).__name__)})
            await asyncio.sleep(0.2)


class _Line:
    """A connection that is to be made."""

    def __init__(
        self, url: str, source: str, access: Access | None, on_reconnect: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._url, self._source, self._on_reconnect = url, source, on_reconnect
        self._role = access.role if access else source
        self._options = access.connecting(url) if access else {}
        self.error: Exception | None = None
        """What went wrong last."""

    @property
    def is_barred(self) -> bool:
        """The server does not know who comes, or nobody here knows the server: no patience helps."""
        return NOT_KNOWN in str(self.error).lower() or isinstance(self.error, ssl.SSLError | Unencrypted)

    async def connect(self, limit: asyncio.Timeout | None = None) -> PromptClient:
        """Connect; try again for ever, or until barred, which ends `limit`."""
        client = PromptClient(Refusals(self._role))

        async def lost() -> None:
            if not client.is_closed:  # closing is no loss
                log.warning("NATS connection lost")

        async def back() -> None:
            log.info("NATS connection is back")
            client.refusals.deaf = None  # its rights may be others by now
            metrics.RECONNECTIONS.inc()
            if self._on_reconnect is not None:
                await self._on_reconnect()

        async def failed(error: Exception) -> None:
            self.error = error
            if limit is not None and self.is_barred and not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())
            if not client.refusals.hear(error):
                quiet = isinstance(error, NoServersError | OSError) or self.is_barred
                log.log(logging.DEBUG if quiet else logging.WARNING, "NATS: %r", error)

        await client.connect(
            self._url.split(","),
            name=self._source,
            allow_reconnect=True,
            # What could not be sent now must not be sent later: its sender has been told that it failed.
            pending_size=0,
            disconnected_cb=lost,
            reconnected_cb=back,
            error_cb=failed,
            **LASTING,
            **self._options,
        )
        limit = None  # a server that bars it later may let it in again
        return client

    def why_not(self) -> Unreachable:
        """Say why there is no connection, and what to do."""
        where = bare(self._url)
        if NOT_KNOWN in str(self.error).lower():
            return NotAdmitted(
                f"NATS at {where} does not know this process as {self._role}: set NATS_NKEY_FILE to the seed "
                "of that role, or TARS_DATA to the folder of `tars up --secure`"
            )
        if isinstance(self.error, ssl.SSLError):
            return NotAdmitted(f"NATS at {where} has a certificate that does not count here: set NATS_CA_FILE")
        if isinstance(self.error, Unencrypted):
            return NotAdmitted(f"NATS at {where} speaks no TLS, so nothing was sent: secure it (docs/deployment.md)")
        return Unreachable(f"no NATS server answers at {where}: start one with `tars up`, or set NATS_URL")
