"""The one delivery policy: acknowledge after the effect, retry what is transient, dead-letter what is poison.

FastStream's own policies lose a message at any exception or redeliver it without delay or end (docs/reliability.md), so
acknowledgement is by hand, here. Long processes and trainers settle their messages by the same `settle`.
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import anyio
from fast_depends.exceptions import ValidationError as BindError
from faststream import BaseMiddleware
from faststream.message import StreamMessage
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError

from tars.runtime import metrics
from tars.runtime.bus import Bus, envelope_of, header_bytes
from tars.runtime.rate_limit import RateLimit
from tars.runtime.signing import TOKEN_HEADER
from tars.runtime.telemetry import mark_span, span
from tars.runtime.vouching import Vouching
from tars.schemas.errors import Conflict, Malformed, NewerVersion, Poison, Refused, Transient, UnknownKind
from tars.schemas.message import Answer, Command, Envelope, Event, Message
from tars.schemas.streams import decode

log = logging.getLogger(__name__)

ATTEMPTS: Final = 5
"""Deliveries that an unforeseen error may take before the message is put aside."""
DELIVERIES: Final = 25
"""Deliveries of any kind: a message that kills its process never gets a verdict."""
DELAYS: Final = (1.0, 5.0, 30.0, 120.0)
"""Seconds before the second, third, ... delivery."""
HANDOVERS: Final = 20
"""Deliveries of a command to workers that are too old for the history of its id: of both kinds, a newer one gets it."""
HANDOVER_SECONDS: Final = 0.3
CONFLICTS: Final = 20
"""Times that one delivery reads and decides again because somebody else appended first."""
HEADER_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
CUT_BYTES: Final = 100
"""Room for saying how long a body was that is cut."""
Settled = Literal["done", "refused", "retried", "returned", "dead"]
INVALID: Final = (BindError, ValidationError, json.JSONDecodeError, UnicodeDecodeError)
TOO_OLD: Final = (NewerVersion, UnknownKind)
"""What this process cannot read, and one of a newer version can."""
AWAY: Final = (Transient, NatsError, OSError, TimeoutError)
"""The world is not ready: not the message's fault."""


async def decoded(message: StreamMessage[Msg]) -> Message:
    """FastStream's decoder for durables: the body read as its subject says; raises Poison."""
    return decode(message.raw_message.subject, message.body)


async def keep_in_progress(message: Msg, every: float) -> None:
    """Tell the server that the work goes on, every so many seconds, until cancelled."""
    while True:
        await asyncio.sleep(every)
        try:
            await message.in_progress()
        except (
            NatsError,
            OSError,
        ) as error:  # back after the reconnect; the lease may be lost by then, and that is seen
            log.warning("heartbeat not sent", extra={"subject": message.subject, "error": repr(error)})


async def settle(bus: Bus, message: Msg, durable: str, error: BaseException | None) -> Settled:
    """Acknowledge, give back, delay or dead-letter `message`, as the class of `error` says; return which."""
    delivered = message.metadata.num_delivered
    if error is None or isinstance(error, Refused):
        await message.ack_sync(timeout=5)
        return "refused" if error else "done"
    if isinstance(error, asyncio.CancelledError):
        await message.nak()  # unfinished when this process stopped: another takes it now
        return "returned"
    if reason := _hopeless(error, message):
        await dead_letter(bus, message, durable, reason, error)
        return "dead"
    log.warning(
        "will be tried again",
        extra={"subject": message.subject, "attempt": delivered, "error": f"{type(error).__name__}: {error}"},
        exc_info=None if isinstance(error, AWAY) else error,
    )
    handover = isinstance(error, TOO_OLD) and message.metadata.stream == "COMMANDS"
    await message.nak(delay=HANDOVER_SECONDS if handover else DELAYS[min(delivered, len(DELAYS)) - 1])
    return "retried"


def _hopeless(error: BaseException, message: Msg) -> str | None:
    """Why no further delivery can help; None: one may."""
    delivered = message.metadata.num_delivered
    if isinstance(error, TOO_OLD):
        return error.reason if delivered >= _chances(error, message) else None
    if isinstance(error, Poison):
        return error.reason
    if isinstance(error, INVALID):
        return Malformed.reason
    return metrics.EXHAUSTED if delivered >= (DELIVERIES if isinstance(error, AWAY) else ATTEMPTS) else None


def _chances(error: NewerVersion | UnknownKind, message: Msg) -> int:
    """How many deliveries a newer worker has to come by it, while old and new ones run side by side.

    A command that is itself too new is put aside at once: its sender is waiting, and can send it again. What nobody can
    send again waits for the end of an upgrade.
    """
    if message.metadata.stream != "COMMANDS":
        return DELIVERIES
    return 1 if error.subject == message.subject else HANDOVERS


@dataclass(frozen=True)
class Unreadable:
    """A message that is put aside, and who could not use it."""

    stream: str
    reader: str
    """The durable, or the agent."""
    sequence: int
    subject: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 1


async def put_aside(bus: Bus, letter: Unreadable, reason: str, error: BaseException) -> None:
    """Store `letter` in DEAD with the reason: its original bytes as far as they fit, and once however often."""
    told = f"{type(error).__name__}: {error}".encode("ascii", "replace").decode().replace("\r", " ").replace("\n", " ")
    own = {
        "Nats-Msg-Id": f"dead:{letter.stream}:{letter.reader}:{letter.sequence}",
        "Tars-Dead-Reason": reason,
        "Tars-Dead-Error": told[:1000],
        "Tars-Dead-Subject": letter.subject,
        "Tars-Dead-Id": str(letter.headers.get("Nats-Msg-Id", "")),
        "Tars-Dead-Sequence": str(letter.sequence),
        "Tars-Dead-Attempts": str(letter.attempts),
    }
    headers, body = _fitting(letter, own, bus.client.max_payload)
    subject = f"tars.dead.{letter.stream}.{letter.reader}"
    await bus.jetstream.publish(subject, body, stream="DEAD", timeout=5, headers=headers)
    metrics.DEAD_LETTERS.labels(reason).inc()
    log.error("dead letter", extra={"subject": letter.subject, "reason": reason, "error": told[:300]})


def _fitting(letter: Unreadable, own: dict[str, str], max_payload: int) -> tuple[dict[str, str], bytes]:
    """What is stored: as much of the original as there is room for beside what is said about it."""
    headers = {key: str(value) for key, value in letter.headers.items() if _may_be_kept(key)} | own
    if max_payload - header_bytes(headers) < max_payload // 2:
        headers = own
    if (room := max_payload - header_bytes(headers) - CUT_BYTES) < len(letter.body):
        return headers | {"Tars-Dead-Cut": str(len(letter.body))}, letter.body[:room]
    return headers, letter.body


def _may_be_kept(header: str) -> bool:
    """No control header may act again; who logged in is kept, but not what proves it; no name that cannot be sent."""
    name = header.lower()
    return not name.startswith("nats-") and name != TOKEN_HEADER.lower() and HEADER_NAME.fullmatch(name) is not None


async def dead_letter(bus: Bus, message: Msg, durable: str, reason: str, error: BaseException) -> None:
    """Put `message` aside, then end its delivery: in this order nothing is lost."""
    meta = message.metadata
    sequence, attempts = meta.sequence.stream, meta.num_delivered
    letter = Unreadable(meta.stream, durable, sequence, message.subject, message.data, message.headers or {}, attempts)
    await put_aside(bus, letter, reason, error)
    await bus.client.publish(message.reply, f"+TERM {reason}".encode())  # nats-py's term() takes no reason
    message._ackd = True  # noqa: SLF001 - what term() does


def answer_to(envelope: Envelope, outcome: Iterable[Event] | Refused) -> Answer:
    """What the sender is told: every reason of a refusal, or the kinds of the events."""
    if isinstance(outcome, Refused):
        return Answer(command_id=envelope.id, done=False, reasons=outcome.reasons, retry_after=outcome.retry_after)
    return Answer.from_events(envelope.id, outcome)


class Delivery(BaseMiddleware[Any, Msg]):
    """FastStream's outermost middleware: one delivery of one message, from its arrival to its acknowledgement.

    Reads `bus`, `ack_wait` (seconds), `vouching` (a Vouching) and `rate_limit` (a RateLimit) from the broker's context;
    gives handlers `envelope`. A handler returns the events it appended; the sender gets them as its answer.
    """

    async def on_receive(self) -> None:
        """Start telling the server that the work goes on."""
        self._beat: asyncio.Task[None] | None = None
        self._answer: tuple[Envelope, Iterable[Event] | Refused] | None = None
        if _is_delivered(self.msg):
            self._kind, self._began = metrics.kind_of(self.msg.subject), time.perf_counter()
            self._span = span(f"handle {self._kind}", self.msg.headers)
            self._span.__enter__()  # left when it is settled, so that what is logged then belongs to the trace too
            self._beat = asyncio.create_task(keep_in_progress(self.msg, self.context.get("ack_wait") / 3))

    async def consume_scope(
        self,
        call_next: Callable[[StreamMessage[Msg]], Awaitable[Any]],
        msg: StreamMessage[Msg],
    ) -> Any:  # noqa: ANN401 - FastStream's signature
        """Run the handler; read and decide again at a conflict; keep what to answer."""
        if self._beat is None:
            return await call_next(msg)
        if self.msg.metadata.num_delivered > DELIVERIES:
            raise Poison("no process that handled it lived to say what became of it")
        command = await msg.decode()
        envelope = await self._envelope(command)
        with self.context.scope("envelope", envelope):
            try:
                await self._limit(command, envelope)
                self._answer = (envelope, await _until_no_conflict(call_next, msg) or ())
            except Refused as refusal:
                self._answer = (envelope, refusal)
        return None

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,  # noqa: ARG002 - FastStream's signature
        exc_val: BaseException | None = None,
        exc_tb: object = None,  # noqa: ARG002
    ) -> bool | None:
        """Settle the message, then answer its sender."""
        if self._beat is None:
            return False
        self._beat.cancel()
        with anyio.CancelScope(shield=True):  # a stopping process still settles
            try:
                await self._end(exc_val)
            except Exception:  # settling failed: the server delivers again after ack_wait
                log.exception("not settled", extra={"subject": self.msg.subject})
            finally:
                self._span.__exit__(None, None, None)
        return exc_val is None or isinstance(exc_val, Exception)  # an error ends here; a cancellation goes on

    async def _limit(self, message: object, envelope: Envelope) -> None:
        """Count a command at its first delivery: one that comes again was let through, and may be done already."""
        limit: RateLimit | None = self.context.get("rate_limit")
        if limit is not None and isinstance(message, Command) and self.msg.metadata.num_delivered == 1:
            await limit.check(envelope)

    async def _envelope(self, message: object) -> Envelope:
        """What is known of it; of a command, also whether its sender may send it."""
        if not isinstance(message, Command):
            return envelope_of(self.msg)
        found = envelope_of(self.msg, deadline=message.deadline)
        vouching: Vouching | None = self.context.get("vouching")
        return await vouching.of(found, message, self.msg.headers or {}, self.msg.data) if vouching else found

    async def _end(self, error: BaseException | None) -> None:
        bus: Bus = self.context.get("bus")
        refusal = self._answer[1] if self._answer and isinstance(self._answer[1], Refused) else None
        settled = await settle(bus, self.msg, str(self.msg.metadata.consumer), error or refusal)
        metrics.HANDLING.labels(self._kind, settled).observe(time.perf_counter() - self._began)
        mark_span(settled, error)
        if self._answer is not None:
            await bus.answer(self._answer[0].reply, answer_to(*self._answer))


async def _until_no_conflict(call_next: Callable[[StreamMessage[Msg]], Awaitable[Any]], msg: StreamMessage[Msg]) -> Any:  # noqa: ANN401 - what the handler returned
    for _ in range(CONFLICTS):
        try:
            return await call_next(msg)
        except Conflict as conflict:
            log.info("decided again", extra={"subject": msg.raw_message.subject, "why": str(conflict)})
    raise Transient("others keep appending first")


def _is_delivered(message: object) -> bool:
    """A JetStream delivery, not a core message or a publication."""
    return isinstance(message, Msg) and message.reply.startswith("$JS.ACK.")
