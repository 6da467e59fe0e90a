"""Going on where NATS is away for a while."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from nats.errors import Error as NatsError

from tars.runtime.cancellation import end_if_cancelled
from tars.schemas.errors import Transient

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 0.5

T = TypeVar("T")


async def until_possible(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again while NATS is away, for as long as it takes; said once in an outage."""
    level = logging.WARNING
    while True:
        try:
            return await attempt()
        except (Transient, NatsError, OSError, TimeoutError) as error:
            log.log(level, "NATS does not answer", extra={"error": f"{type(error).__name__}: {error}"})
            level = logging.DEBUG
            await asyncio.sleep(RETRY_SECONDS)
            end_if_cancelled()
