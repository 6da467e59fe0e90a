"""Backups of a server that works, and what comes back from them on an empty one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from tars.runtime.backup import MANIFEST, BackupFailed, back_up, restore
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import History, Journal
from tars.runtime.provision import check_provisioned
from tars.runtime.servers import start_nats
from tars.runtime.snapshots import Snapshots
from tars.schemas.agent import AgentAccepted, AgentReported, ConfigureAgent
from tars.schemas.backup import ORDER, Manifest
from tars.schemas.message import By
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.streams import BUCKETS, STREAMS
from tars.schemas.update import UpdateEvent, UpdateReleased

pytestmark = pytest.mark.anyio
ADA = By(principal="ada")


def silent(stream: str, done: int, total: int | None) -> None:
    """Nobody watches."""


async def saved(bus: Bus, folder: Path) -> Manifest:
    return await back_up(bus, folder, reports=True, tell=silent)


@asynccontextmanager
async def empty(folder: Path) -> AsyncIterator[Bus]:
    """A connection to a server of its own."""
    with start_nats(folder) as server:
        bus = await connect_bus(server.url, "restored", patience=5)
        yield bus
        await bus.close()


async def loaded(bus: Bus, folder: Path) -> Manifest:
    return await restore(bus, folder, ack_wait=2, replicas=1, tell=silent)


async def digest(bus: Bus, stream: str, up_to: int) -> str:
    """Of everything about its messages: subject, sequence, time, headers, body."""
    found, at, journal = sha256(), 1, Journal(bus)
    while page := await journal.page(stream, at, 256):
        for message in page:
            headers = message.headers or {}
            at = int(headers["Nats-Sequence"]) + 1
            if at <= up_to + 1:
                kept = {k: v for k, v in headers.items() if k != "Nats-Num-Pending"}
                found.update(repr(sorted(kept.items())).encode() + message.data)
    return found.hexdigest()


async def fill(bus: Bus, count: int = 20) -> None:
    """Something in every stream."""
    for n in range(count):
        await bus.publish(UpdateReleased(update_id=f"u{n}", by=ADA), id=f"u{n}:0")
        await bus.report(AgentReported(agent_id="a", run_id="r", episode=n, step=n, score=0.5, version=0))
    await configure(bus, 0)
    await bus.publish(AgentAccepted(agent_id="a", version=1, update_id="u", applies="live"), id="a:1")
    data = b"weights" * 50_000
    ref = SnapshotRef(name="a.r.1", agent_id="a", sha256=sha256(data).hexdigest(), episode=1, step=1, version=0)
    await Snapshots(bus).put(ref, data)


async def configure(bus: Bus, base: int) -> int:
    command = ConfigureAgent(agent_id="a", update_id="u", purpose="update", base=base, values={"gamma": 0.9}, by=ADA)
    return await bus.publish(command, id=f"a.{base}")


def test_every_stream_has_its_place_in_the_order() -> None:
    assert set(ORDER) == {*STREAMS, *(bucket.stream for bucket in BUCKETS.values())}


async def test_what_comes_back_is_what_was_there(bus: Bus, tmp_path: Path) -> None:
    await fill(bus)
    manifest = await saved(bus, tmp_path / "backup")
    async with empty(tmp_path / "other") as other:
        await loaded(other, tmp_path / "backup")
        for stream in manifest.streams:
            assert await digest(other, stream.stream, stream.last) == await digest(bus, stream.stream, stream.last)
            assert (await other.stream(stream.stream)).config == (await bus.stream(stream.stream)).config
        await check_provisioned(other.jetstream, ("run-rollout", "update-command", "run-trial"), ("SNAPSHOTS",))
        newest = await Snapshots(other).newest("a")
        assert newest is not None
        assert await Snapshots(other).get(newest) == b"weights" * 50_000
        assert await configure(other, 1) == 2  # versions go on where they were


async def test_a_backup_while_others_write_fits_together(bus: Bus, tmp_path: Path) -> None:
    """Nobody's events lack their configuration, and no configuration its event."""

    async def write() -> None:
        for n in range(10_000):
            history: History[UpdateEvent] = History("update", f"w{n}")
            await Journal(bus).append([UpdateReleased(update_id=f"w{n}", by=ADA)], history, cause=f"w{n}")
            version = await configure(bus, n)
            await bus.publish(
                AgentAccepted(agent_id="a", version=version, update_id=f"w{n}", applies="live"), id=f"a-{n}"
            )
            await asyncio.sleep(0.005)  # faster than any fleet, slower than a stream can be taken

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.2)
    manifest = {found.stream: found for found in (await saved(bus, tmp_path / "backup")).streams}
    assert not writing.done()
    writing.cancel()
    events, agents = manifest["EVENTS"], manifest["AGENTS"]
    async with empty(tmp_path / "other") as other:
        await loaded(other, tmp_path / "backup")
        found = await Journal(other).messages("EVENTS", "tars.event.>")
        told = [entry.event.version for entry in found if isinstance(entry.event, AgentAccepted)]
        started = [entry for entry in found if isinstance(entry.event, UpdateReleased)]
    assert events.last == len(found) > 20
    assert max(told) <= agents.last <= len(started)


async def test_leases_and_queues_come_back_as_they_were_before_the_snapshot(bus: Bus, tmp_path: Path) -> None:
    await fill(bus, 3)
    leases = await bus.jetstream.pull_subscribe_bind(consumer="run-rollout", stream="EVENTS")
    first, _ = await leases.fetch(2)
    await first.ack_sync()
    await saved(bus, tmp_path / "backup")
    async with empty(tmp_path / "other") as other:
        await loaded(other, tmp_path / "backup")
        leases = await other.jetstream.pull_subscribe_bind(consumer="run-rollout", stream="EVENTS")
        assert [message.metadata.sequence.stream for message in await leases.fetch(2)] == [2, 3]


async def test_a_server_that_holds_something_is_left_alone(bus: Bus, tmp_path: Path) -> None:
    await fill(bus)
    await saved(bus, tmp_path / "backup")
    with pytest.raises(BackupFailed, match="the server has EVENTS with 21 messages.*restore into an empty server"):
        await loaded(bus, tmp_path / "backup")
    assert (await bus.stream("EVENTS")).state.last_seq == 21


@pytest.mark.parametrize("name", ["EVENTS.snapshot", "OBJ_SNAPSHOTS.snapshot", MANIFEST])
async def test_a_damaged_backup_is_refused_before_anything_is_touched(bus: Bus, tmp_path: Path, name: str) -> None:
    await fill(bus)
    await saved(bus, tmp_path / "backup")
    path = tmp_path / "backup" / name
    whole = path.read_bytes()
    async with empty(tmp_path / "other") as other:
        for damaged in (whole[:-1], bytes([*whole[:200], whole[200] ^ 1, *whole[201:]])):
            path.write_bytes(damaged)
            with pytest.raises(BackupFailed, match=f"{name}.*nothing was restored"):
                await loaded(other, tmp_path / "backup")
        assert (await other.jetstream.account_info()).streams == 0


async def test_a_folder_with_something_in_it_is_no_place_for_a_backup(bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "thing").touch()
    with pytest.raises(BackupFailed, match="is not empty"):
        await saved(bus, tmp_path)
