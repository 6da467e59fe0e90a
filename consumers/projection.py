"""The one loop that folds a stream into rows: in memory for queries, and in Redis for the page."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from redis.exceptions import RedisError

from tars.consumers.boards import BOARDS, Board, Stored
from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal, stored_time
from tars.runtime.settings import Settings
from tars.runtime.view_changes import Changes
from tars.runtime.view_store import MemoryViews, RedisWriter
from tars.schemas.errors import Poison, Transient
from tars.schemas.streams import STREAMS

log = logging.getLogger(__name__)

BATCH: Final = 500
IDLE_SECONDS: Final = 1.0
"""Without news the position in Redis is looked at this often: an emptied Redis is noticed, and rebuilt."""
GATHER_SECONDS: Final = 0.02
"""How long news may gather, so that many small messages are one write."""
RETRY_SECONDS: Final = 0.5
CONTIGUOUS: Final = frozenset({"EVENTS"})
"""Streams that never lose a message: a gap in what is read means that the reading went wrong."""


class Rewind(Exception):
    """Redis holds less than was folded, so fold from the beginning again."""


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
        self._caught_up = caught_up
        self.skipped: Counter[str] = Counter()
        """By stream, messages that nobody could read."""
        self.writer = RedisWriter(settings.redis, settings.redis_max_history_length) if settings.redis else None

    async def run(self, stream: str) -> None:
        """Fold a stream until cancelled, whatever goes away meanwhile."""
        while True:
            try:
                await self._follow(stream)
            except Rewind:
                log.warning("rows are written anew from the ledger", extra={"stream": stream})
            except (NatsError, Transient, OSError, TimeoutError) as error:
                log.warning("NATS is away", extra={"stream": stream, "error": str(error)})
                await asyncio.sleep(RETRY_SECONDS)

    async def _follow(self, stream: str) -> None:
        """Fold from the beginning; raises Rewind when Redis has less than it had, or is back."""
        info = await self._bus.stream(stream)
        board: Board = BOARDS[stream](self._settings.redis_ttl_seconds)
        redis = InRedis(self.writer, stream, info.created.isoformat() if info.created else "")
        await redis.look()
        at = max(board.first(0, info.state.last_seq), info.state.first_seq, 1)
        async with Bell.on(self._bus, *STREAMS[stream].subjects) as bell:
            while True:
                bell.clear()
                batch = [_stored(message) for message in await self._journal.page(stream, at, BATCH)]
                if not batch:
                    self._caught_up(stream)
                    await redis.look()
                    if await bell.wait(IDLE_SECONDS):
                        await asyncio.sleep(GATHER_SECONDS)
                    continue
                if stream in CONTIGUOUS and batch[0].sequence != at:
                    raise Rewind(stream)
                at = batch[-1].sequence + 1
                changes = self._fold(stream, board, batch)
                self._remember(stream, batch[-1].sequence, changes)
                await redis.write(batch[-1].sequence, changes)

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
                log.warning("not readable", extra={"stream": stream, "sequence": stored.sequence, "error": str(error)})
        return board.changes()


class InRedis:
    """How far a stream's rows are in Redis, as this process last saw it."""

    def __init__(self, writer: RedisWriter | None, stream: str, epoch: str) -> None:
        self._writer, self._stream, self._epoch = writer, stream, epoch
        self._written: int | None = None
        """None: Redis is away, so rows go to memory alone."""
        self._most = 0
        """The furthest position seen: less than that means that rows were lost there."""
        self._missed = False
        """Rows went by while it was away."""

    async def look(self) -> None:
        """Read the position; raises Rewind when rows are missing there."""
        if self._writer is None:
            return
        try:
            found = await self._writer.position(self._stream, self._epoch)
        except RedisError as error:
            self._lose(error)
            return
        if self._missed or found < self._most:
            raise Rewind(self._stream)
        self._written = self._most = found

    async def write(self, last: int, changes: Changes) -> None:
        """Write a batch; where another process was ahead, go on from there."""
        if self._writer is None:
            return
        if self._written is None:
            self._missed = True
            await self.look()
            return
        try:
            while last > self._written:
                found = await self._writer.write(self._stream, self._epoch, (self._written, last), changes)
                if found < self._most:
                    raise Rewind(self._stream)
                self._written = self._most = found
        except RedisError as error:
            self._missed = True
            self._lose(error)

    def _lose(self, error: RedisError) -> None:
        if self._written is not None:
            log.warning("Redis is away: rows are kept in memory", extra={"stream": self._stream, "error": str(error)})
        self._written = None


def _stored(message: Msg) -> Stored:
    headers = {key: str(value) for key, value in (message.headers or {}).items()}
    time = stored_time(headers["Nats-Time-Stamp"])
    return Stored(int(headers["Nats-Sequence"]), time, headers["Nats-Subject"], message.data, headers)
