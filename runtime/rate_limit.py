"""How many commands a minute one sender gets through: in any sixty seconds, counted at each command's first delivery.

Workers that share a Redis count together. Where there is none, or it is away, each process counts for itself: whatever
ails the counting, no command is refused for it.
"""

import asyncio
import logging
import math
import time
from typing import Final

import redis.asyncio
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tars.runtime.settings import Settings
from tars.schemas.errors import Refused
from tars.schemas.message import Envelope

log = logging.getLogger(__name__)

UNPROVEN: Final = "unproven"
"""Where senders must be proven, all who are not count as one: a name that is only claimed could be new each time."""
REDIS_SECONDS: Final = 0.5
"""How long a command may wait for Redis to count it."""
AWAY_SECONDS: Final = 10.0
"""How long a Redis that did not answer is not asked again."""


class RateLimit:
    """Refuses a sender's command once `per_minute` of them were let through in the minute before; 0: never.

    seconds: how long that minute is.
    """

    def __init__(self, per_minute: int, redis_url: str | None = None, *, seconds: int = 60) -> None:
        self._item: RateLimitItem | None = RateLimitItemPerSecond(per_minute, seconds) if per_minute else None
        self._here = MovingWindowRateLimiter(MemoryStorage())
        self._redis = _connections(redis_url) if redis_url else None
        self._shared = MovingWindowRateLimiter(_storage(self._redis)) if self._redis else None
        self._ask_again = 0.0

    @classmethod
    def of(cls, settings: Settings) -> "RateLimit":
        """The limit that the settings name."""
        return cls(settings.rate_limit_per_minute, settings.redis)

    async def check(self, envelope: Envelope) -> None:
        """Count a command; raises Refused, with the seconds to wait, when it is one too many."""
        if self._item is None:
            return
        sender = envelope.by.principal if envelope.by.signed or envelope.barred is None else UNPROVEN
        seconds = await self._seconds_to_wait(self._item, sender)
        if seconds:
            raise Refused(
                f"{sender} sends more than {self._item.amount} commands a minute (RATE_LIMIT_PER_MINUTE): "
                f"try again in {seconds} s",
                retry_after=seconds,
            )

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._redis is not None:
            await self._redis.disconnect()

    async def _seconds_to_wait(self, item: RateLimitItem, sender: str) -> int:
        clock = asyncio.get_running_loop().time
        if self._shared is not None and clock() >= self._ask_again:
            try:
                return await _hit(self._shared, item, sender)
            except (RedisError, OSError, TimeoutError) as error:
                self._ask_again = clock() + AWAY_SECONDS
                log.warning("Redis is away: this process counts commands alone", extra={"error": repr(error)})
        return await _hit(self._here, item, sender)


async def _hit(limiter: MovingWindowRateLimiter, item: RateLimitItem, sender: str) -> int:
    """Count one; 0: it may go on, else the whole seconds until one may."""
    if await limiter.hit(item, sender):
        return 0
    reset, _ = await limiter.get_window_stats(item, sender)
    return max(1, math.ceil(reset - time.time()))


def _connections(url: str) -> redis.asyncio.ConnectionPool:
    return redis.asyncio.ConnectionPool.from_url(
        url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def _storage(pool: redis.asyncio.ConnectionPool) -> RedisStorage:
    return RedisStorage("async+redis://", implementation="redispy", key_prefix="tars:limit", connection_pool=pool)  # type: ignore[arg-type] # its annotation forgets the pool that it documents
