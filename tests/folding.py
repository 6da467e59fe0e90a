"""Projections in a test's own loop, and what an undisturbed one makes of the streams."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ledgers import held
from redis.exceptions import RedisError

from tars.consumers.boards import BOARDS
from tars.consumers.projection import Projection
from tars.runtime.bus import Bus
from tars.runtime.settings import Settings
from tars.runtime.view_store import MemoryViews, RedisViews

STREAMS = ("EVENTS", "TRIALS", "REPORTS")
PATIENCE = 60.0
"""Seconds until a projection that does not catch up fails its test."""


def without_redis(settings: Settings) -> Settings:
    """The same, for memory alone; made afresh, for a copy would keep the address that was worked out once."""
    return Settings(
        nats_url=settings.nats_url, use_redis=False, redis_max_history_length=settings.redis_max_history_length
    )


@asynccontextmanager
async def projecting(bus: Bus, settings: Settings) -> AsyncIterator[MemoryViews]:
    """A projection that runs inside the block, and is cut off at its end as a killed worker is."""
    memory = MemoryViews(settings.redis_max_history_length)
    projection = Projection(bus, settings, memory)
    tasks = [asyncio.create_task(projection.run(stream)) for stream in BOARDS]
    try:
        yield memory
        assert not any(task.done() for task in tasks), "a projection ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if projection.writer is not None:
            await projection.writer.close()


async def until(true: Callable[[], bool]) -> None:
    """Wait until something holds; Redis may be away meanwhile."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                if await asyncio.to_thread(true):
                    return
            except RedisError:
                pass  # it is being restarted
            await asyncio.sleep(0.05)


async def folded(bus: Bus, settings: Settings) -> dict[str, Any]:
    """What a projection makes of the streams that starts now, without Redis: nothing ever went wrong for it."""
    async with projecting(bus, without_redis(settings)) as memory:
        last = {stream: (await bus.stream(stream)).state.last_seq for stream in STREAMS}
        await until(lambda: counted(memory) == last)
        return held(memory)


def counted(views: MemoryViews | RedisViews) -> dict[str, int]:
    """Up to which sequence views have each stream."""
    stats = views.stats()
    return {"EVENTS": stats.events, "TRIALS": stats.trials, "REPORTS": stats.reports}


async def assert_exact(bus: Bus, settings: Settings, url: str) -> None:
    """Redis comes to hold what an undisturbed fold holds."""
    wanted, views = await folded(bus, settings), RedisViews(url)
    try:
        await until(lambda: held(views) == wanted)
    finally:
        assert held(views) == wanted
        views.close()
