"""Ending a loop whose cancellation a library has swallowed; and what a cancelled task still does."""

import asyncio
from collections.abc import Coroutine
from typing import Any


def end_if_cancelled() -> None:
    """Raise CancelledError where this task was asked to end.

    `asyncio.wait_for` of Python 3.11 returns its result when it and a cancellation come at once (bpo-42130), and
    nats-py waits with it: a loop that only awaits would then run on for ever. Call it once in each round.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def last_words(work: Coroutine[Any, Any, None]) -> None:
    """Await it in a task of its own: in one that was cancelled, what looks for a cancellation finds it again."""
    await asyncio.create_task(work)
