"""Work that goes on beside a test."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def at_work(*working: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Let each run for the length of the block, and cut it off at its end."""
    tasks = [asyncio.create_task(one) for one in working]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
