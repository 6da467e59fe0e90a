"""The wiring of the consumers: projections, queries, lag."""

import asyncio

from tars.consumers.boards import BOARDS
from tars.consumers.lag import watch_lag
from tars.consumers.projection import Projection
from tars.consumers.queries import serve_queries
from tars.runtime.app import Worker
from tars.runtime.settings import Settings
from tars.runtime.view_store import MemoryViews


def worker(settings: Settings) -> Worker:
    """Keeps the views in memory and in Redis, and answers queries."""
    behind = set(BOARDS)
    complete = asyncio.Event()

    def caught_up(stream: str) -> None:
        behind.discard(stream)
        if not behind:
            complete.set()

    async def answer_when_complete(running: Worker, memory: MemoryViews) -> None:
        await complete.wait()  # rows that are still missing would be answered as if there were none
        await serve_queries(running.bus, memory)

    async def project(running: Worker) -> None:
        memory = MemoryViews(settings.redis_max_history_length)
        projection = Projection(running.bus, settings, memory, caught_up=caught_up)
        try:
            async with asyncio.TaskGroup() as group:
                for stream in BOARDS:
                    group.create_task(projection.run(stream))
                group.create_task(answer_when_complete(running, memory))
                group.create_task(watch_lag(running.bus, memory, projection.writer, settings.redis_max_history_length))
        finally:
            if projection.writer is not None:
                await projection.writer.close()

    return Worker("consumers", settings, tasks=(project,), is_ready=lambda: not behind)
