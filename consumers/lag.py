"""What waits before each durable, what the streams hold and how many rows there are, measured now and then."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from nats.errors import Error as NatsError
from nats.js.api import StreamInfo
from redis.exceptions import RedisError

from tars.runtime import metrics
from tars.runtime import view_changes as keys
from tars.runtime.bus import Bus, copies_away
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.view_changes import Changes
from tars.runtime.view_store import MemoryViews, RedisWriter
from tars.schemas.streams import BUCKETS, DURABLES, STREAMS
from tars.schemas.views import PipelineRow, StatsRow

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 5.0
BETWEEN_FETCHES: Final = 0.1
"""Seconds in which a worker that has nothing to do fetches again."""
COUNTED: Final = ("agents", "studies", "updates", "pending", "dead", "sessions")
"""Of StatsRow, what is a number of rows now."""


async def watch_lag(bus: Bus, memory: MemoryViews, writer: RedisWriter | None, history_cap: int) -> None:
    """Measure until cancelled: as gauges, and what waits, and what Redis holds, also in memory and in Redis."""
    while True:
        end_if_cancelled()
        try:
            rows = [await _measure(bus, name) for name in DURABLES]
            show(rows, memory.stats())
            changes = Changes()
            changes.put(keys.PIPELINE, {row.durable: row.model_dump_json() for row in rows})
            changes.put(keys.METRICS, {"history_cap": str(history_cap)})
            memory.apply(changes)
            for stream in (*STREAMS, *(bucket.stream for bucket in BUCKETS.values())):
                show_stream(stream, await bus.stream(stream))
            if writer is not None:
                used = await writer.use()
                changes.put(keys.METRICS, {name: str(value) for name, value in used.items()})
                memory.apply(changes)
                await writer.measured(changes)
        except (NatsError, RedisError, OSError, TimeoutError) as error:
            log.debug("lag not measured", extra={"error": repr(error)})
        await asyncio.sleep(EVERY_SECONDS)


def show(rows: Sequence[PipelineRow], stats: StatsRow) -> None:
    """Put what was measured on the gauges."""
    for row in rows:
        metrics.WAITING.labels(row.durable).set(row.waiting)
        metrics.UNACKNOWLEDGED.labels(row.durable).set(row.unacknowledged)
        metrics.REDELIVERED.labels(row.durable).set(row.redelivered)
    for view in COUNTED:
        metrics.VIEW_ROWS.labels(view).set(getattr(stats, view))


def show_stream(name: str, info: StreamInfo) -> None:
    """Put what a stream holds, and what it lacks, on the gauges."""
    metrics.STREAM_MESSAGES.labels(name).set(info.state.messages)
    metrics.STREAM_BYTES.labels(name).set(info.state.bytes)
    metrics.STREAM_AWAY.labels(name).set(len(copies_away(info)))


async def _measure(bus: Bus, name: str) -> PipelineRow:
    found = await _look(bus, name)
    if found.listening or found.unacknowledged:
        return found
    await asyncio.sleep(BETWEEN_FETCHES)  # a worker may have been between two fetches
    return await _look(bus, name)


async def _look(bus: Bus, name: str) -> PipelineRow:
    info = await bus.jetstream.consumer_info(DURABLES[name].stream, name)
    return PipelineRow(
        durable=name,
        stream=DURABLES[name].stream,
        waiting=info.num_pending or 0,
        unacknowledged=info.num_ack_pending or 0,
        redelivered=info.num_redelivered or 0,
        listening=info.num_waiting or 0,
    )
