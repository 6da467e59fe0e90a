"""The projection on real servers: exact in Redis and in memory, whatever dies or goes away meanwhile."""

import asyncio
import random
from pathlib import Path

import pytest
import redis.asyncio
from ledgers import expected_stages, ledger

from folding import PATIENCE, STREAMS, assert_exact, counted, folded, projecting, until, without_redis
from tars.consumers.projection import Projection
from tars.runtime import view_changes as keys
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.servers import Server, start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.view_store import MemoryViews
from tars.schemas.message import Message

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
CAP = 25


async def publish(bus: Bus, messages: list[Message]) -> None:
    """Send messages in their order."""
    for message in messages:
        await bus.client.publish(message.subject, message.model_dump_json().encode())
    await bus.client.flush()


async def fill(bus: Bus, seed: int, count: int) -> None:
    """Put random messages into every stream, and wait until they are stored."""
    wanted = {}
    for stream in STREAMS:
        messages = ledger(stream, seed, count)
        wanted[stream] = (await bus.stream(stream)).state.last_seq + len(messages)
        await publish(bus, messages)
    async with asyncio.timeout(PATIENCE):
        for stream, last in wanted.items():
            while (await bus.stream(stream)).state.last_seq < last:
                await asyncio.sleep(0.02)


@pytest.fixture
def with_redis(settings: Settings, valkey: Server) -> Settings:
    """Settings of a consumer with Redis."""
    return settings.model_copy(update={"use_redis": True, "redis_url": valkey.url, "redis_max_history_length": CAP})


async def test_redis_and_memory_hold_what_was_published(bus: Bus, with_redis: Settings, valkey: Server) -> None:
    await fill(bus, seed=1, count=80)
    async with projecting(bus, with_redis) as memory:
        await assert_exact(bus, with_redis, valkey.url)
        assert {row.update_id: row.stage for row in memory.updates(0, 1000)} == expected_stages(ledger("EVENTS", 1, 80))


async def test_without_redis_memory_alone_is_kept(bus: Bus, settings: Settings) -> None:
    await fill(bus, seed=1, count=30)
    assert (await folded(bus, settings))["stats"].events == 30


async def test_what_cannot_be_read_is_skipped_and_counted(bus: Bus, with_redis: Settings) -> None:
    memory = MemoryViews(CAP)
    projection = Projection(bus, without_redis(with_redis), memory)
    await bus.client.publish("tars.event.update.confirmed.v1.u1", b"\xff{", headers={"Nats-Time-Stamp": "never"})
    await bus.client.publish("tars.event.update.invented.v1.u1", b"{}", headers={"traceparent": "?"})
    await fill(bus, seed=1, count=20)
    running = asyncio.create_task(projection.run("EVENTS"))
    await until(lambda: memory.stats().events == 22)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert projection.skipped["EVENTS"] == 2
    assert memory.updates()


async def test_measured_keys_expire_and_the_others_stay(
    bus: Bus, with_redis: Settings, store: redis.asyncio.Redis
) -> None:
    await fill(bus, seed=4, count=200)
    async with projecting(bus, with_redis) as memory:
        await until(lambda: counted(memory)["REPORTS"] == 200)
        await assert_exact(bus, with_redis, str(with_redis.redis))
    names = sorted(name.decode() for name in await store.keys("*") if isinstance(name, bytes))
    measured = ("agent_state:", "agent_history:", keys.CONFLICTS, keys.EQUILIBRIA, keys.METRICS, "websocket:")
    for name in names:
        left = await store.ttl(name)
        assert (0 < left <= with_redis.redis_ttl_seconds) if name.startswith(measured) else left == -1, name
    assert {name.split(":")[0] for name in names} >= {"agent_state", "agent_history", "update", "study", "cursor"}
    lengths = [int(await store.llen(name)) for name in names if name.endswith(":list") or name.startswith("agent_h")]
    assert max(lengths) == CAP


async def test_an_agent_that_expired_comes_back_with_its_values(
    bus: Bus, with_redis: Settings, store: redis.asyncio.Redis
) -> None:
    """It reported again after a long silence: what the ledger says of it is there too."""
    await fill(bus, seed=1, count=60)
    async with projecting(bus, with_redis):
        await assert_exact(bus, with_redis, str(with_redis.redis))
        before = await store.hget(keys.agent_state("a1"), "values")
        await store.delete(*[keys.agent_state(f"a{n}") for n in range(4)])
        await publish(bus, ledger("REPORTS", 2, 60))
        await assert_exact(bus, with_redis, str(with_redis.redis))
        assert await store.hget(keys.agent_state("a1"), "values") == before


async def test_two_workers_at_once_write_exactly(bus: Bus, with_redis: Settings, valkey: Server) -> None:
    async with projecting(bus, with_redis), projecting(bus, with_redis):
        for seed in range(4):
            await fill(bus, seed, count=40)
        await assert_exact(bus, with_redis, valkey.url)


async def test_an_emptied_redis_is_filled_again(
    bus: Bus, with_redis: Settings, valkey: Server, store: redis.asyncio.Redis
) -> None:
    await fill(bus, seed=1, count=60)
    async with projecting(bus, with_redis):
        await assert_exact(bus, with_redis, valkey.url)
        await store.flushall()
        await assert_exact(bus, with_redis, valkey.url)


async def test_a_redis_that_is_away_holds_nothing_up_and_is_filled_when_back(
    bus: Bus, with_redis: Settings, valkey: Server, tmp_path: Path
) -> None:
    await fill(bus, seed=1, count=40)
    async with projecting(bus, with_redis) as memory:
        await assert_exact(bus, with_redis, valkey.url)
        valkey.kill()
        await fill(bus, seed=2, count=40)
        await until(lambda: counted(memory)["EVENTS"] == 80)
        again = start_valkey(tmp_path / "valkey")
        try:
            await assert_exact(bus, with_redis, again.url)
        finally:
            again.stop()


@pytest.mark.slow
async def test_a_worker_killed_at_random_batches_leaves_exact_rows(
    bus: Bus, with_redis: Settings, valkey: Server
) -> None:
    dice = random.Random(7)
    for seed in range(12):
        await fill(bus, seed, count=60)
        async with projecting(bus, with_redis):
            await asyncio.sleep(dice.uniform(0, 0.15))
    async with projecting(bus, with_redis):
        await assert_exact(bus, with_redis, valkey.url)


@pytest.mark.slow
async def test_rows_are_exact_after_a_storm_of_flushes_under_two_workers(
    bus: Bus, with_redis: Settings, valkey: Server, store: redis.asyncio.Redis
) -> None:
    dice = random.Random(3)
    async with projecting(bus, with_redis), projecting(bus, with_redis):
        for seed in range(10):
            await fill(bus, seed, count=40)
            for _ in range(3):
                await asyncio.sleep(dice.uniform(0, 0.1))
                await store.flushall()
        await assert_exact(bus, with_redis, valkey.url)


@pytest.mark.slow
async def test_rows_are_exact_after_valkey_was_killed_again_and_again(
    bus: Bus, with_redis: Settings, valkey: Server, tmp_path: Path
) -> None:
    dice, server = random.Random(5), valkey
    async with projecting(bus, with_redis):
        for seed in range(6):
            await fill(bus, seed, count=40)
            await asyncio.sleep(dice.uniform(0, 0.3))
            server.kill()
            server = start_valkey(tmp_path / "valkey")
        await assert_exact(bus, with_redis, server.url)
    server.stop()


@pytest.mark.slow
async def test_a_projection_outlives_a_killed_nats_server(
    bus: Bus, with_redis: Settings, nats_server: Server, valkey: Server, tmp_path: Path
) -> None:
    await fill(bus, seed=1, count=60)
    async with projecting(bus, with_redis):
        await asyncio.sleep(0.05)
        nats_server.kill()
        await asyncio.sleep(0.5)
        again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
        try:
            other = await connect_bus(again.url, "test-2", patience=10)
            await fill(other, seed=2, count=60)
            await assert_exact(other, with_redis, valkey.url)
            await other.close()
        finally:
            again.stop()
