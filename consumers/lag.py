"""What waits before each durable consumer, measured now and then."""

import asyncio
import logging
from typing import Final

from nats.errors import Error as NatsError
from prometheus_client import CollectorRegistry, Gauge
from redis.exceptions import RedisError

from tars.runtime import view_changes as keys
from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.view_changes import Changes
from tars.runtime.view_store import MemoryViews, RedisWriter
from tars.schemas.streams import DURABLES
from tars.schemas.views import PipelineRow

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 5.0


async def watch_lag(bus: Bus, memory: MemoryViews, writer: RedisWriter | None, registry: CollectorRegistry) -> None:
    """Measure until cancelled: as a gauge, in memory and in Redis."""
    gauge = Gauge("tars_consumer_waiting_messages", "Messages before a durable.", ["durable"], registry=registry)
    while True:
        end_if_cancelled()
        try:
            rows = [await _measure(bus, name) for name in DURABLES]
            for row in rows:
                gauge.labels(row.durable).set(row.waiting)
            changes = Changes()
            changes.put(keys.PIPELINE, {row.durable: row.model_dump_json() for row in rows})
            memory.apply(changes)
            if writer is not None:
                await writer.pipeline(rows)
        except (NatsError, RedisError, OSError, TimeoutError) as error:
            log.debug("lag not measured", extra={"error": repr(error)})
        await asyncio.sleep(EVERY_SECONDS)


async def _measure(bus: Bus, name: str) -> PipelineRow:
    info = await bus.jetstream.consumer_info(DURABLES[name].stream, name)
    return PipelineRow(
        durable=name,
        stream=DURABLES[name].stream,
        waiting=info.num_pending or 0,
        unacknowledged=info.num_ack_pending or 0,
        redelivered=info.num_redelivered or 0,
    )
