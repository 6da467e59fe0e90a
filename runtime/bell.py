"""A bell for those who read streams: it rings when something was published, so that nobody has to look all the time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tars.runtime.bus import Bus


class Bell:
    """Rings at messages on some subjects; it can ring before one is readable, and a ring can be lost: look anyway."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def on(cls, bus: Bus, *subjects: str) -> "AsyncIterator[Bell]":
        """Listen on subjects for the length of the block."""
        bell = cls()

        async def ring(_: object) -> None:
            bell._rung.set()

        subscriptions = [await bus.client.subscribe(subject, cb=ring) for subject in subjects]
        try:
            yield bell
        finally:
            for subscription in subscriptions:
                if bus.client.is_connected:
                    await subscription.unsubscribe()

    def clear(self) -> None:
        """Forget what rang: call it before looking, so that nothing that comes meanwhile goes unheard."""
        self._rung.clear()

    async def wait(self, seconds: float) -> bool:
        """Wait until it rings, at most so long; say whether it did."""
        try:
            async with asyncio.timeout(seconds):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True
