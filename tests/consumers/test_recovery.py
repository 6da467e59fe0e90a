"""The projection where the world is not as it was left: another ledger, a made-up header, a stop at a bad moment."""

import asyncio
from contextlib import suppress

import pytest
import redis.asyncio
from ledgers import ledger

from tars.consumers.projection import OtherLedger, Projection
from tars.runtime import view_changes as keys
from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.provision import provision
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.runtime.view_changes import Changes
from tars.runtime.view_store import NEWER, SILENT_SECONDS, Epoch, MemoryViews, RedisViews, RedisWriter

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
EPOCH, OTHER = Epoch("this ledger", 7), Epoch("another ledger", 7)


def proposed(*names: str) -> Changes:
    changes = Changes()
    for name in names:
        changes.index(keys.PENDING, name, 1)
        changes.put(keys.update(name), {"update_id": f'"{name}"'})
    return changes


async def test_rows_of_another_ledger_are_removed(valkey: Server, store: redis.asyncio.Redis) -> None:
    writer = RedisWriter(valkey.url, 10)
    await store.set("somebody-elses", "1")
    assert await writer.open("EVENTS", OTHER, 5) == 0
    await writer.write("EVENTS", OTHER, (0, 5), proposed("old"))
    assert await writer.open("EVENTS", EPOCH, 5) == 0
    assert sorted(await store.keys("*")) == [b"cursor:EVENTS", b"somebody-elses"]
    await writer.close()


async def test_a_writer_of_another_ledger_is_fenced_off(valkey: Server) -> None:
    writer = RedisWriter(valkey.url, 10)
    await writer.write("EVENTS", EPOCH, (0, 5), proposed("new"))
    assert await writer.write("EVENTS", OTHER, (0, 9), proposed("old")) < 0
    views = RedisViews(valkey.url)
    assert views._index(keys.PENDING) == ["new"]  # noqa: SLF001 - below the typed rows
    views.close()
    await writer.close()


async def test_who_writes_rows_of_an_older_form_leaves_redis_to_who_writes_newer_ones(
    valkey: Server, store: redis.asyncio.Redis
) -> None:
    """Old and new consumers run side by side in an upgrade: each would remove the other's rows for ever."""
    writer, newer = RedisWriter(valkey.url, 10), EPOCH._replace(form=8)
    await writer.write("EVENTS", EPOCH, (0, 5), proposed("old"))
    assert await writer.open("EVENTS", newer, 5) == 0
    assert await writer.position("EVENTS", EPOCH) == NEWER
    assert await writer.open("EVENTS", EPOCH, 5) == NEWER
    assert await writer.write("EVENTS", EPOCH, (0, 5), proposed("old")) < 0
    await writer.write("EVENTS", newer, (0, 5), proposed("new"))
    assert await store.zrange(keys.PENDING, 0, -1) == [b"new"]
    await writer.close()


async def test_rows_of_a_newer_form_are_replaced_once_nobody_writes_them_any_more(
    valkey: Server, store: redis.asyncio.Redis
) -> None:
    """A release that was taken back."""
    writer, newer = RedisWriter(valkey.url, 10), EPOCH._replace(form=8)
    await writer.write("EVENTS", newer, (0, 5), proposed("new"))
    await store.hincrby(keys.cursor("EVENTS"), "seen", -SILENT_SECONDS)
    assert await writer.position("EVENTS", newer) == 5, "its writer was only silent"
    assert await writer.open("EVENTS", EPOCH, 5) == NEWER
    await store.hincrby(keys.cursor("EVENTS"), "seen", -SILENT_SECONDS)
    assert await writer.open("EVENTS", EPOCH, 5) == 0
    assert not await store.exists(keys.PENDING)
    await writer.close()


async def test_only_reports_may_lose_their_end(valkey: Server, store: redis.asyncio.Redis) -> None:
    """They are acknowledged before they are on disk; a ledger that is shorter than its rows is another one."""
    writer = RedisWriter(valkey.url, 10)
    await writer.write("REPORTS", EPOCH, (0, 9), Changes())
    await writer.write("EVENTS", EPOCH, (0, 9), proposed("u1"))
    assert await writer.open("REPORTS", EPOCH, 7) == 7
    assert await store.exists(keys.PENDING)
    assert await writer.open("EVENTS", EPOCH, 7) == 0
    assert not await store.exists(keys.PENDING)
    await writer.close()


async def test_a_stream_made_anew_under_a_running_projection_ends_it(bus: Bus, settings: Settings) -> None:
    """Its supervisor starts it again, with empty memory."""
    for message in ledger("REPORTS", 1, 5):
        await bus.client.publish(message.subject, message.model_dump_json().encode())
    running = asyncio.create_task(Projection(bus, settings, MemoryViews(10)).run("REPORTS"))
    await asyncio.sleep(0.3)
    await bus.jetstream.delete_stream("REPORTS")
    await provision(bus.jetstream, ack_wait=2)
    with pytest.raises(OtherLedger):
        await asyncio.wait_for(running, 20)


async def test_a_loop_ends_even_where_a_library_swallows_its_cancellation() -> None:
    """As nats-py does on Python 3.11 when an answer and the cancellation come in the same turn of the event loop."""

    async def swallow() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(5)

    async def loop() -> None:
        while True:
            end_if_cancelled()
            await swallow()

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    task.cancel()
    _, pending = await asyncio.wait({task}, timeout=2)
    assert not pending
    assert task.cancelled()
