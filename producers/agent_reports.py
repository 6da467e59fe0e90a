"""Measurements on their way to the stream REPORTS: never waited for, dropped rather than kept for long."""

import asyncio
import logging
from collections import deque
from typing import Final

from nats.errors import Error as NatsError

from tars.runtime import metrics
from tars.runtime.bus import Bus
from tars.schemas.message import Report

log = logging.getLogger(__name__)

KEPT: Final = 1000
"""Reports that wait at most; the oldest is dropped for a new one."""
FLUSH_SECONDS: Final = 0.05


class Reporter:
    """Takes reports from any thread and sends them from the event loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: deque[Report] = deque(maxlen=KEPT)
        self.lost = 0
        """Reports that were dropped or could not be sent."""

    def report(self, message: Report) -> None:
        """Send soon; returns at once, from whatever thread."""
        if len(self._waiting) == KEPT:
            self._lose(1)  # the oldest is dropped for it
        self._waiting.append(message)

    async def run(self) -> None:
        """Send what waits, until cancelled; while NATS is away, what waits is lost and counted."""
        while True:
            while self._waiting:
                try:
                    await self._bus.report(self._waiting.popleft())
                except (NatsError, OSError) as error:
                    self._lose(1 + len(self._waiting))
                    self._waiting.clear()
                    log.debug("reports lost", extra={"lost": self.lost, "error": repr(error)})
            await asyncio.sleep(FLUSH_SECONDS)

    def _lose(self, number: int) -> None:
        self.lost += number
        metrics.REPORTS_LOST.inc(number)
