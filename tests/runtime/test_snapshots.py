"""Snapshots on a real server: named, verified, pruned, copied; as any NATS client sees them; and when NATS is away."""

import asyncio
import json
from hashlib import sha256
from pathlib import Path

import pytest

from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import NotProvisioned, check_provisioned, provision
from tars.runtime.servers import Server, start_nats
from tars.runtime.snapshots import CHUNK, KEPT, NoSnapshot, Snapshots
from tars.schemas.errors import Transient
from tars.schemas.snapshot import SnapshotRef, copied

pytestmark = pytest.mark.anyio
LARGE = bytes(range(256)) * (5 * CHUNK // 512 + 1)
"""Two chunks and a half, and a bit."""


def ref(episode: int, data: bytes, agent_id: str = "policy-0", run: str = "run-1") -> SnapshotRef:
    return SnapshotRef(
        name=f"{agent_id}.{run}.{episode}", agent_id=agent_id, sha256=sha256(data).hexdigest(), episode=episode,
        step=episode * 32, version=7,
    )  # fmt: skip


async def subjects(bus: Bus) -> dict[str, int]:
    """Everything that the store holds."""
    info = await bus.jetstream.stream_info("OBJ_SNAPSHOTS", subjects_filter=">")
    return info.state.subjects or {}


async def test_what_is_put_is_got_back_with_its_reference(bus: Bus) -> None:
    snapshots = Snapshots(bus)
    for data in (LARGE, b"x"):
        wanted = ref(len(data), data)
        assert await snapshots.put(wanted, data) == wanted
        assert await snapshots.get(wanted) == data
        assert await snapshots.newest("policy-0") == wanted


async def test_the_newest_is_the_last_put_whole_whatever_its_run_and_whoever_else_has_some(
    bus: Bus,
) -> None:
    snapshots = Snapshots(bus)
    assert await snapshots.newest("policy-0") is None
    for episode, run in ((50, "run-1"), (100, "run-1"), (5, "run-2")):
        await snapshots.put(ref(episode, b"mine", run=run), b"mine")
    await snapshots.put(ref(900, b"other", "policy-00"), b"other")
    await snapshots.copy(ref(100, b"mine"), "policy-0.policy-0")  # a study may be called like an agent
    await bus.jetstream.publish("$O.SNAPSHOTS.C.policy-0.run-2.55.part-1", b"half", stream="OBJ_SNAPSHOTS")
    assert await snapshots.newest("policy-0") == ref(5, b"mine", run="run-2")


async def test_the_last_eight_of_an_agent_are_kept_and_nothing_of_the_others_remains(bus: Bus) -> None:
    snapshots = Snapshots(bus)
    for episode in range(KEPT + 3):
        await snapshots.put(ref(episode, LARGE), LARGE)
    await snapshots.put(ref(1, b"other", "ethical-0"), b"other")
    await bus.jetstream.publish("$O.SNAPSHOTS.C.policy-0.run-0.9.part-1", b"half", stream="OBJ_SNAPSHOTS")
    await snapshots.prune("policy-0")
    for episode in range(3):
        with pytest.raises(NoSnapshot, match=f"policy-0.run-1.{episode} is gone"):
            await snapshots.get(ref(episode, LARGE))
    for episode in range(3, KEPT + 3):
        assert await snapshots.get(ref(episode, LARGE)) == LARGE
    assert await snapshots.newest("ethical-0") is not None
    assert len(await subjects(bus)) == 2 * (KEPT + 1)


async def test_bytes_that_were_altered_or_lost_are_refused(bus: Bus) -> None:
    snapshots = Snapshots(bus)
    await snapshots.put(ref(1, LARGE), LARGE)
    await snapshots.put(ref(1, b"another"), b"another")
    assert set((await subjects(bus)).values()) == {1}  # nothing of the three chunks is left
    with pytest.raises(NoSnapshot, match="policy-0.run-1.1 was altered"):
        await snapshots.get(ref(1, LARGE))
    await bus.jetstream.purge_stream("OBJ_SNAPSHOTS", subject="$O.SNAPSHOTS.C.>")
    with pytest.raises(NoSnapshot, match="policy-0.run-1.1 is gone"):
        await snapshots.get(ref(1, b"another"))
    with pytest.raises(ValueError, match="not those of its reference"):
        await snapshots.put(ref(2, LARGE), b"something else")
    with pytest.raises(ValueError, match="not those of its reference"):
        await snapshots.put(ref(2, b""), b"")


async def test_a_description_that_makes_no_sense_is_no_snapshot(bus: Bus) -> None:
    snapshots = Snapshots(bus)
    await snapshots.put(ref(1, b"x"), b"x")
    (subject,) = [name for name in await subjects(bus) if ".M." in name]
    for body in (b"", b"[]", b"{", b'{"metadata": 3}', json.dumps({"nuid": "x", "chunks": "many"}).encode()):
        await bus.jetstream.publish(subject, body, stream="OBJ_SNAPSHOTS")
        assert await snapshots.newest("policy-0") is None
        with pytest.raises(NoSnapshot, match="is gone"):
            await snapshots.get(ref(1, b"x"))


async def test_a_copy_outlives_what_it_was_made_of_and_is_made_once(bus: Bus) -> None:
    snapshots = Snapshots(bus)
    original = await snapshots.put(ref(50, LARGE), LARGE)
    wanted = copied("s-17", original)
    assert wanted.name == "s-17.policy-0"
    both = await asyncio.gather(*(snapshots.copy(original, wanted.name) for _ in range(2)))  # two by accident
    assert both == [wanted, wanted]
    await snapshots.delete(original.name)
    before = await subjects(bus)
    assert await snapshots.copy(original, wanted.name) == wanted
    assert await subjects(bus) == before
    assert await snapshots.get(wanted) == LARGE
    await snapshots.delete(wanted.name)
    await snapshots.delete(wanted.name)
    assert await subjects(bus) == {}
    with pytest.raises(NoSnapshot, match="policy-0.run-1.50 is gone"):
        await snapshots.copy(original, wanted.name)


async def test_any_nats_client_reads_and_deletes_them(bus: Bus) -> None:
    snapshots = Snapshots(bus)
    await snapshots.put(ref(50, LARGE), LARGE)
    store = await bus.jetstream.object_store("SNAPSHOTS")
    found = await store.get("policy-0.run-1.50")
    assert found.data == LARGE
    assert [info.name for info in await store.list()] == ["policy-0.run-1.50"]
    await store.delete("policy-0.run-1.50")
    assert await snapshots.newest("policy-0") is None
    with pytest.raises(NoSnapshot, match="is gone"):
        await snapshots.get(ref(50, LARGE))


async def test_a_worker_that_needs_the_store_says_what_to_run_where_it_is_missing(bus: Bus) -> None:
    await bus.jetstream.delete_stream("OBJ_SNAPSHOTS")
    with pytest.raises(NotProvisioned, match="the server has no SNAPSHOTS: run `tars provision`"):
        await check_provisioned(bus.jetstream, [], ["SNAPSHOTS"])


async def test_while_nats_is_away_everything_is_to_be_tried_again(nats_server: Server, tmp_path: Path) -> None:
    own = await connect_bus(nats_server.url, "test", patience=5)
    await provision(own.jetstream, ack_wait=2)
    snapshots, one = Snapshots(own), ref(1, b"x")
    await snapshots.put(one, b"x")
    nats_server.stop()
    own.jetstream._timeout = 0.2  # noqa: SLF001 - five seconds for each would prove no more
    for attempt in (
        snapshots.put(one, b"x"), snapshots.newest("policy-0"), snapshots.get(one), snapshots.copy(one, "s.policy-0"),
        snapshots.delete(one.name), snapshots.prune("policy-0"),
    ):  # fmt: skip
        with pytest.raises(Transient):
            await attempt
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    try:
        async with asyncio.timeout(20):
            while not own.client.is_connected:
                await asyncio.sleep(0.05)
        assert await snapshots.get(one) == b"x"
    finally:
        await own.close()
        again.stop()
