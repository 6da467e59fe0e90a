"""Long processes, leased by an event: fetch, resume, keep the lease, follow, append, give back."""

import asyncio
import itertools
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import anyio
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from tars.runtime import metrics
from tars.runtime.bus import Bus, envelope_of
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.delivery import TOO_OLD, dead_letter, keep_in_progress
from tars.runtime.journal import LAG_LOOK_SECONDS, Entry, History, Journal
from tars.runtime.telemetry import span
from tars.schemas.errors import Conflict, Poison, TarsError
from tars.schemas.message import Envelope, Event
from tars.schemas.streams import DURABLES

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
"""Long processes that one worker runs side by side."""
DELAYS: Final = (1.0, 2.0, 5.0, 10.0, 20.0)
"""Seconds before the lease of a process that broke down is offered again."""
TOO_OLD_SECONDS: Final = 5.0
"""Before a process whose history this worker is too old for is offered again: a newer worker takes it."""
RESUMPTIONS: Final = 5
"""Resumptions in a row after which a process is given up."""
SHORT_LIFE: Final = 60.0
"""Seconds: a resumption that came sooner after the one before is one of the row."""

E = TypeVar("E", bound=Event)
Process = Callable[["Lease[Any]"], Awaitable[None]]


class LostLease(TarsError):
    """Somebody else holds it now: stop at once, without an effect."""


def is_exhausted(history: History[Any]) -> bool:
    """Say whether the last RESUMPTIONS holders each died young without a single step: the next must give up.

    A refused command is no step. Times are the ledger's.
    """
    row: list[float] = []
    for entry in reversed(history.entries):
        verb = entry.event.kind.split(".")[1]
        if verb == "resumed":
            row.append(entry.time.timestamp())
        elif verb != "command-refused":
            break
    gaps = [later - earlier for later, earlier in itertools.pairwise(row)]
    return len(row) >= RESUMPTIONS and all(gap < SHORT_LIFE for gap in gaps[: RESUMPTIONS - 1])


def holder_name() -> str:
    """Who holds a lease: this process, at this start."""
    host = "".join(c for c in socket.gethostname() if c.isalnum() or c == "-")[:32]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Lease(Generic[E]):
    """One delivery of a leasing event: the right to append to its id until another holder resumes."""

    def __init__(self, bus: Bus, message: Msg, holder: str) -> None:
        self.envelope: Envelope = envelope_of(message)
        self.holder = holder
        self.delivery = message.metadata.num_delivered
        self.noun, self.key = message.subject.split(".")[2], message.subject.split(".", 5)[5]
        self.history: History[E] = History(self.noun, self.key)
        self.cause = f"{self.envelope.id}.{holder}.{self.delivery}"
        """What names this process's events: two rivals, or two deliveries, never share one."""
        self._journal = Journal(bus)
        self._appended = 0
        self._resumed = False
        self._known = self.envelope.sequence
        """The newest message of this id that is known to be stored: not to see it could look like an end."""

    async def follow(self) -> History[E]:
        """Read what is new about this id; raises LostLease when another holder has resumed it."""
        new: History[E] = await self._journal.read(self.noun, self.key, after=self.history.version, reach=self._known)
        self.history = self.history.extended(new)
        if self._resumed and any(self._is_rival(entry) for entry in new.entries):
            raise LostLease(f"{self.noun} {self.key} has another holder")
        return self.history

    async def append(self, decide: Callable[[History[E]], Sequence[E]]) -> tuple[E, ...]:
        """Append what `decide` makes of the history; at a conflict read what is new and decide again.

        Returns the events appended, none when `decide` wants none. Side effects come only after it returns.
        """
        while True:
            events = tuple(decide(self.history))
            if not events:
                return ()
            try:
                self._known = await self._journal.extend(events, self.history, cause=self.cause, first=self._appended)
            except Conflict:
                await self._follow_rival()
                continue
            self._appended += len(events)
            self._resumed = True
            await self.follow()
            return events

    async def _follow_rival(self) -> None:
        """Somebody has appended: what, may take a copy of the stream a moment to know."""
        version = self.history.version
        if (await self.follow()).version == version:
            await asyncio.sleep(LAG_LOOK_SECONDS)

    def _is_rival(self, entry: Entry[E]) -> bool:
        """Somebody else's resumption: of another holder, another delivery, or another leasing event."""
        return entry.event.kind.split(".")[1] == "resumed" and entry.id.rpartition(":")[0] != self.cause


async def hold(bus: Bus, durable: str, holder: str, process: Process, *, ack_wait: float) -> None:
    """Run `process` for every leasing event of `durable`, up to AT_ONCE side by side, until cancelled."""
    stream = DURABLES[durable].stream
    leases = await bus.jetstream.pull_subscribe_bind(consumer=durable, stream=stream)
    running: set[asyncio.Task[None]] = set()
    try:
        while True:
            if len(running) >= AT_ONCE:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            messages = await _fetch(leases)
            for message in messages:
                task = asyncio.create_task(_run(bus, message, durable, holder, process, ack_wait))
                running.add(task)
                task.add_done_callback(running.discard)
            end_if_cancelled()
    finally:
        for task in running:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*running, return_exceptions=True)


async def _fetch(leases: Any) -> list[Msg]:  # noqa: ANN401 - nats-py's subscription class is private
    try:
        return list(await leases.fetch(1, timeout=1))
    except TimeoutError:
        return []
    except (NatsError, OSError) as error:
        log.warning("cannot fetch", extra={"error": repr(error)})
        await asyncio.sleep(0.5)
        return []


async def _run(bus: Bus, message: Msg, durable: str, holder: str, process: Process, ack_wait: float) -> None:
    beat = asyncio.create_task(keep_in_progress(message, ack_wait / 3))
    error: BaseException | None = None
    ended, held = metrics.LEASES_ENDED, metrics.LEASES_HELD.labels(durable)
    held.inc()
    try:
        with span(f"run {durable}", message.headers):
            await process(Lease(bus, message, holder))
    except LostLease as lost:
        log.warning("lease lost", extra={"durable": durable, "why": str(lost)})
        ended.labels(durable, "lost").inc()
        return  # the new holder acknowledges
    except BaseException as caught:  # noqa: BLE001 - settled by its class; a cancellation gives the lease back
        error = caught
    finally:
        beat.cancel()
        held.dec()
    with anyio.CancelScope(shield=True):
        try:
            ended.labels(durable, await _settle(bus, message, durable, error)).inc()
        except (NatsError, OSError, TimeoutError):
            log.exception("not settled", extra={"durable": durable})


async def _settle(bus: Bus, message: Msg, durable: str, error: BaseException | None) -> str:
    """Give a broken process's lease back: it ends as a failed study or update, never as a dead letter."""
    if error is None:
        await message.ack_sync(timeout=5)
        return "done"
    if isinstance(error, asyncio.CancelledError):
        await message.nak()  # this worker stops: another takes it now
        return "returned"
    if isinstance(error, TOO_OLD):
        log.warning("left to a newer worker", extra={"durable": durable, "subject": message.subject, "why": str(error)})
        await message.nak(delay=TOO_OLD_SECONDS)
        return "outdated"
    if isinstance(error, Poison):
        await dead_letter(bus, message, durable, error.reason, error)
        return "dead"
    log.error("process broke down", extra={"durable": durable, "subject": message.subject}, exc_info=error)
    await message.nak(delay=DELAYS[min(message.metadata.num_delivered, len(DELAYS)) - 1])
    return "broken"
