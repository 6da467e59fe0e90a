"""How often one sender may ask: counted by one process, by several that share a Redis, and while Redis is away."""

import asyncio
import time
from datetime import UTC, datetime

import pytest

from tars.runtime.rate_limit import RateLimit
from tars.runtime.servers import Server
from tars.schemas.errors import Refused
from tars.schemas.message import By, Envelope

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def command(sender: str, *, signed: bool = False, barred: str | None = None) -> Envelope:
    """A command in hand."""
    by = By(principal=sender, signed=signed)
    return Envelope(id="c", subject="s", sequence=1, time=NOW, by=by, barred=barred)


async def passes(limit: RateLimit, envelope: Envelope) -> bool:
    try:
        await limit.check(envelope)
    except Refused:
        return False
    return True


async def test_a_sender_over_its_rate_is_stopped_and_the_others_are_not() -> None:
    limit = RateLimit(2)
    assert [await passes(limit, command("ada")) for _ in range(3)] == [True, True, False]
    assert await passes(limit, command("bob"))


async def test_who_is_stopped_is_told_how_long_to_wait_and_gets_through_then() -> None:
    limit = RateLimit(1, seconds=1)
    await limit.check(command("ada"))
    with pytest.raises(Refused, match="ada sends more than 1 commands a minute.*try again in 1 s") as refused:
        await limit.check(command("ada"))
    assert refused.value.retry_after == 1
    await asyncio.sleep(1.05)
    await limit.check(command("ada"))


async def test_all_who_must_be_proven_and_are_not_count_as_one() -> None:
    limit = RateLimit(1)
    assert await passes(limit, command("somebody", barred="it is not signed"))
    assert not await passes(limit, command("somebody-else", barred="it is not signed"))
    assert await passes(limit, command("ada", signed=True, barred="ada may not"))


async def test_no_limit_lets_everything_through() -> None:
    limit = RateLimit(0)
    assert all([await passes(limit, command("ada")) for _ in range(200)])


async def test_processes_that_share_a_redis_count_together(valkey: Server) -> None:
    one, other = RateLimit(2, valkey.url), RateLimit(2, valkey.url)
    assert [await passes(limit, command("ada")) for limit in (one, other, one, other)] == [True, True, False, False]
    await asyncio.gather(one.close(), other.close())


async def test_a_redis_that_is_away_stops_nobody_and_each_process_counts_for_itself(valkey: Server) -> None:
    limit = RateLimit(2, valkey.url)
    assert await passes(limit, command("ada"))
    valkey.stop()
    began = time.monotonic()
    assert [await passes(limit, command("ada")) for _ in range(3)] == [True, True, False]
    assert time.monotonic() - began < 5  # a command waits half a second for Redis, once
    await limit.close()
