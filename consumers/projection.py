"""The one loop that folds a stream into rows: in memory for queries, and in Redis for the page."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from redis.exceptions import RedisError

from tars.consumers.boards import BOARDS, Board, Stored
from tars.runtime import metrics
from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.journal import Journal, stored_time
from tars.runtime.settings import Settings
from tars.runtime.view_changes import Changes
from tars.runtime.view_store import NEWER, Epoch, MemoryViews, RedisWriter
from tars.schemas.errors import Poison, TarsError, Transient
from tars.schemas.streams import KINDS, STREAMS

log = logging.getLogger(__name__)

BATCH: Final = 500
IDLE_SECONDS: Final = 1.0
"""Without news the position in Redis is looked at this often: an emptied Redis is noticed, and rebuilt."""
GATHER_SECONDS: Final = 0.02
"""How long news may gather, so that many small messages are one write."""
RETRY_SECONDS: Final = 0.5
LONGEST_RETRY: Final = 30.0
"""Seconds before rows are written anew once more, where that keeps failing."""
REVISION: Final = 3
"""Raise it when rows change their form or meaning: what Redis holds is then written anew."""
FORM: Final = 10_000 * REVISION + len(KINDS)
"""Who knows more kinds makes more of the same ledger, so those rows are others too; kinds only ever come to be."""
CONTIGUOUS: Final = frozenset({"EVENTS"})
"""Streams that never lose a message: a gap in what is read means that the reading went wrong."""


class Rewind(Exception):
    """Redis holds less than was folded, so fold from the beginning again."""


class OtherLedger(TarsError):
    """The stream is not the one that memory was folded from: this process has to start afresh."""


class Projection:
    """Folds every stream; each process for itself into memory, all together into one Redis.

    caught_up: hears of a stream whenever it was read to its end.
    """

    def __init__(
        self, bus: Bus, settings: Settings, memory: MemoryViews, *, caught_up: Callable[[str], None] = lambda _: None
    ) -> None:
        self._bus, self._journal, self._settings = bus, Journal(bus), settings
        self._memory = memory
        self._in_memory: Counter[str] = Counter()
        """By stream, up to which sequence memory has it."""
        self._epochs: dict[str, Epoch] = {}
        self._caught_up = caught_up
        self.skipped: Counter[str] = Counter()
        """By stream, messages that nobody could read."""
        self.writer = RedisWriter(settings.redis, settings.redis_max_history_length) if settings.redis else None

    async def run(self, stream: str) -> None:
        """Fold a stream until cancelled, whatever goes away meanwhile; raises OtherLedger when it was made anew."""
        metrics.VIEW_SKIPPED.labels(stream)  # a zero, so that the first one is an increase
        clock, delay, since = asyncio.get_running_loop().time, RETRY_SECONDS, 0.0
        while True:
            end_if_cancelled()
            since, before = clock(), since
            try:
                await self._follow(stream)
            except Rewind:
                # Redis that answers reads and refuses writes (full, read-only) must not keep this process busy.
                delay = min(2 * delay, LONGEST_RETRY) if since - before < LONGEST_RETRY else RETRY_SECONDS
                log.warning("rows are written anew from the ledger", extra={"stream": stream, "seconds": delay})
                await asyncio.sleep(delay)
            except (NatsError, Transient, OSError, TimeoutError) as error:
                log.warning("NATS is away", extra={"stream": stream, "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, stream: str) -> None:
        """Fold from the beginning; raises Rewind when Redis has less than it had, or is back."""
        info = await self._bus.stream(stream)
        epoch = self._epoch(stream, info)
        board: Board = BOARDS[stream](self._settings.redis_ttl_seconds)
        redis = InRedis(self.writer, stream, epoch)
        await redis.open(info.state.last_seq)
        at = max(board.first(0, info.state.last_seq), info.state.first_seq, 1)
        async with Bell.on(self._bus, *STREAMS[stream].subjects) as bell:
            while True:
                end_if_cancelled()
                bell.clear()
                batch = [_stored(message) for message in await self._journal.page(stream, at, BATCH)]
                if not batch:
                    self._caught_up(stream)
                    metrics.VIEW_CURRENT.labels(stream).set_to_current_time()
                    await redis.look()
                    if await bell.wait(IDLE_SECONDS):
                        await asyncio.sleep(GATHER_SECONDS)
                    else:
                        at = self._end(stream, await self._bus.stream(stream), at)
                    continue
                if stream in CONTIGUOUS and batch[-1].sequence - at + 1 != len(batch):
                    raise Rewind(stream)
                at = batch[-1].sequence + 1
                changes = self._fold(stream, board, batch)
                self._remember(stream, batch[-1].sequence, changes)
                await redis.write(batch[-1].sequence, changes)

    def _epoch(self, stream: str, info: StreamInfo) -> Epoch:
        """Name the stream and the form of its rows; raises OtherLedger when memory knows another one."""
        epoch = Epoch(info.created.isoformat() if info.created else "", FORM)
        if self._epochs.setdefault(stream, epoch) != epoch:
            raise OtherLedger(f"{stream} was made anew at {info.created}")
        return epoch

    def _end(self, stream: str, info: StreamInfo, at: int) -> int:
        """Return where to read on: `at`, unless a stream that may lose its end has lost it."""
        self._epoch(stream, info)
        if info.state.last_seq >= at - 1:
            return at
        if not STREAMS[stream].asynchronous:
            raise OtherLedger(f"{stream} ends at {info.state.last_seq}, and was read up to {at - 1}")
        self._in_memory[stream] = info.state.last_seq
        raise Rewind(stream)

    def _remember(self, stream: str, last: int, changes: Changes) -> None:
        """Memory may have it already, when only Redis is written anew."""
        if last > self._in_memory[stream]:
            self._memory.apply(changes.after(self._in_memory[stream]))
            self._in_memory[stream] = last

    def _fold(self, stream: str, board: Board, batch: list[Stored]) -> Changes:
        for stored in batch:
            try:
                board.fold(stored)
            except Poison as error:
                self.skipped[stream] += 1
                metrics.VIEW_SKIPPED.labels(stream).inc()
                log.warning("not readable", extra={"stream": stream, "sequence": stored.sequence, "error": str(error)})
        return board.changes()


class InRedis:
    """How far a stream's rows are in Redis, as this process last saw it."""

    def __init__(self, writer: RedisWriter | None, stream: str, epoch: Epoch) -> None:
        self._writer, self._stream, self._epoch = writer, stream, epoch
        self._written: int | None = None
        """None: Redis is away or a newer process's, so rows go to memory alone, and are written anew when that ends."""
        self._looked = 0.0

    async def open(self, last: int) -> None:
        """Find out how far rows are written of the stream, which ends at `last`."""
        if self._writer is None:
            return
        try:
            found = await self._writer.open(self._stream, self._epoch, last)
        except RedisError as error:
            self._lose(error)
            return
        if found == NEWER:
            log.warning("a newer version writes Redis: rows are kept in memory", extra={"stream": self._stream})
        else:
            self._written = found
        metrics.VIEW_IN_REDIS.labels(self._stream).set(found != NEWER)

    async def look(self) -> None:
        """Read the position; raises Rewind when rows are missing there, or Redis is back."""
        if self._writer is None:
            return
        self._looked = asyncio.get_running_loop().time()
        try:
            found = await self._writer.position(self._stream, self._epoch)
        except RedisError as error:
            self._lose(error)
            return
        if self._written is None and found == NEWER:
            return
        if self._written is None or found < self._written:
            raise Rewind(self._stream)
        self._written = found

    async def write(self, last: int, changes: Changes) -> None:
        """Write a batch; where another process was ahead, go on from there."""
        if self._writer is None:
            return
        if self._written is None:
            if asyncio.get_running_loop().time() - self._looked >= IDLE_SECONDS:  # memory must not wait for Redis
                await self.look()
            return
        try:
            while last > self._written:
                found = await self._writer.write(self._stream, self._epoch, (self._written, last), changes)
                if found < self._written:
                    raise Rewind(self._stream)
                self._written = found
        except RedisError as error:
            self._lose(error)

    def _lose(self, error: RedisError) -> None:
        if self._written is not None:
            log.warning("Redis is away: rows are kept in memory", extra={"stream": self._stream, "error": str(error)})
        self._written = None
        metrics.VIEW_IN_REDIS.labels(self._stream).set(0)


def _stored(message: Msg) -> Stored:
    headers = {key: str(value) for key, value in (message.headers or {}).items()}
    time = stored_time(headers["Nats-Time-Stamp"])
    return Stored(int(headers["Nats-Sequence"]), time, headers["Nats-Subject"], message.data, headers)
