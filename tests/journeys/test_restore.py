"""A backup of a system at work, restored on an empty server: what was under way goes on, and people see what is so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ledgers import held
from working import at_work

from audited import Remembering, live_through
from people import GRACE, deliver, signed, soon
from reporting_fleet import ended
from story import CHANGE
from tars.agents.guard import Guard
from tars.agents.host import LiveAgent, last_run
from tars.agents.keeper import Keeper
from tars.consumers.boards import BOARDS
from tars.consumers.projection import Projection
from tars.runtime.backup import back_up, restore
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import History, Journal
from tars.runtime.servers import Server, start_nats
from tars.runtime.settings import Settings
from tars.runtime.signing import TrustFile
from tars.runtime.view_store import MemoryViews, RedisViews
from tars.schemas.agent import AgentBeat, AgentStopped
from tars.schemas.hyperparameters import Value
from tars.schemas.update import ApproveUpdate, ProposeUpdate, UpdateEvent, UpdateProposed, content_of
from tars.sync_worker.app import worker as sync
from tars.sync_worker.lifecycle import Stage, replay

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
AGAIN: dict[str, Value] = {"gamma": 0.95}


def settings_of(nats: Server, valkey: Server, keys: Path) -> Settings:
    """A worker's."""
    return Settings(
        nats_url=nats.url, redis_url=valkey.url, ack_wait_seconds=2, tars_data=keys, rate_limit_per_minute=0
    )


async def agents(bus: Bus, settings: Settings) -> list[LiveAgent]:
    found = []
    for name in ("a", "b"):
        learner, before = Remembering(name, None), await last_run(bus, name)
        learner.running, learner.version = dict(before.values), before.applied
        agent = LiveAgent(bus, learner, Keeper(bus), Guard(settings, TrustFile(settings.trust)))
        await agent.start(before)
        found.append(agent)
    return found


async def approve(bus: Bus, update_id: str) -> None:
    """GRACE proposes and approves, on her own."""
    command = ProposeUpdate(update_id=update_id, agents=("a", "b"), values=AGAIN)
    assert (answer := await deliver(bus, signed(GRACE, soon(command), f"{update_id}-propose"))).done, answer
    history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
    proposed = history.events[0]
    assert isinstance(proposed, UpdateProposed)
    command_ = ApproveUpdate(
        update_id=update_id, content=content_of(proposed).digest(), apply_until=proposed.expires_at
    )
    assert (answer := await deliver(bus, signed(GRACE, soon(command_), f"{update_id}-approve"))).done, answer


@asynccontextmanager
async def projected(bus: Bus, settings: Settings) -> AsyncIterator[MemoryViews]:
    """What the consumers do with the streams, for the length of the block; entered when they have read all."""
    memory, behind = MemoryViews(settings.redis_max_history_length), set(BOARDS)
    projection = Projection(bus, settings, memory, caught_up=behind.discard)
    async with at_work(*(projection.run(stream) for stream in BOARDS)):
        async with asyncio.timeout(60):
            while behind:
                await asyncio.sleep(0.05)
        yield memory
    if projection.writer is not None:
        await projection.writer.close()


async def test_a_restored_system_goes_on_where_the_backup_found_it(
    nats_server: Server, valkey: Server, tmp_path: Path
) -> None:
    keys, folder = tmp_path / "keys", tmp_path / "backup"
    await live_through(nats_server.url, keys, back=False)
    settings = settings_of(nats_server, valkey, keys)
    bus = await connect_bus(nats_server.url, "test", patience=5)

    async def write() -> None:
        for n in range(100_000):
            await bus.report(AgentBeat(agent_id="a", run_id="r", episode=n))
            stopped = AgentStopped(agent_id=f"x{n}", run_id="r", cause="finished")
            await Journal(bus).append([stopped], History("agent", f"x{n}"), cause=f"x{n}")

    async with at_work(sync(settings).serve(0), write()):
        await approve(bus, "v")  # its agents have gone: the rollout waits for them
        while Stage.RELOADING is not replay((await Journal(bus).read("update", "v")).events).stage:
            await asyncio.sleep(0.02)
        await back_up(bus, folder, reports=True, tell=lambda *_: None)
    async with projected(bus, settings):
        pass  # Redis follows the old server, beyond the backup
    before = (await bus.stream("EVENTS")).state.last_seq
    await bus.close()
    nats_server.stop()

    with start_nats(tmp_path / "other") as server:
        settings = settings_of(server, valkey, keys)
        bus = await connect_bus(server.url, "restored", patience=5)
        await restore(bus, folder, ack_wait=2, replicas=1, tell=lambda *_: None)
        assert (await bus.stream("EVENTS")).state.last_seq < before
        assert replay((await Journal(bus).read("update", "u")).events).stage is Stage.CONFIRMED
        living = await agents(bus, settings)
        running = [agent.run() for agent in living]
        async with at_work(sync(settings).serve(0), *running):
            events = await ended(bus, Stage.CONFIRMED, update_id="v")
            assert [event.kind for event in events].count("update.started.v1") == 1
        for name in "ab":
            values = (await last_run(bus, name)).values
            assert {key: values[key] for key in (*AGAIN, *CHANGE)} == {**AGAIN, **CHANGE}
        views = RedisViews(valkey.url)
        async with projected(bus, settings), projected(bus, settings.model_copy(update={"use_redis": False})) as fold:
            async with asyncio.timeout(30):
                while held(views) != held(fold):
                    await asyncio.sleep(0.2)
        views.close()
        await bus.close()
