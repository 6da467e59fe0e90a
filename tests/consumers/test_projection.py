"""Rows in Redis and in memory equal a fold of the streams, whatever dies, doubles or is flushed on the way."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from story import ADA, AGENTS, CHANGE, NOW, VALUES
from tars.consumers import app
from tars.consumers.boards import BOARDS
from tars.consumers.projection import Projection
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.servers import Server, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.view_store import MemoryViews, RedisViews, Views
from tars.schemas.agent import AgentReported, AgentStarted
from tars.schemas.game import GameReported
from tars.schemas.message import By
from tars.schemas.queries import Ask
from tars.schemas.session import SessionReported
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialReported
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate, UpdateEvent
from tars.sync_worker.lifecycle import Facts, decide, replay

pytestmark = [pytest.mark.anyio, pytest.mark.slow]  # the quick tier has test_crashes.py
AGENT_IDS = ("a", "b", "c")


@pytest.fixture
def with_redis(settings: Settings, valkey: Server) -> Settings:
    return settings.model_copy(update={"use_redis": True, "redis_url": valkey.url, "redis_max_history_length": 20})


class Writer:
    """Fills the streams with a plausible, seeded past."""

    def __init__(self, bus: Bus, seed: int = 1) -> None:
        self.bus, self.journal = bus, Journal(bus)
        self.random = random.Random(seed)
        self.updates = 0
        self.trials = 0
        self.reports = 0

    async def agents(self) -> None:
        for name in AGENT_IDS:
            started = AgentStarted(
                agent_id=name, run_id="r", role="policy", algorithm="dqn", world="0", values=VALUES, heard_version=0,
                applied_version=0,
            )  # fmt: skip
            await self.journal.append([started], History("agent", name), cause=f"start-{name}")

    async def update(self) -> None:
        self.updates += 1
        name, facts = f"u{self.updates}", Facts(id="c", time=NOW, by=ADA, agents=AGENTS)
        commands = [ProposeUpdate(update_id=name, agents=("a", "b"), values=CHANGE)]
        history: History[UpdateEvent] = await self.journal.read("update", name)
        for number, command in enumerate([*commands, *self._next(name)]):
            events = decide(replay(history.events), command, facts)
            await self.journal.append(events, history, cause=f"{name}-{number}")
            history = await self.journal.read("update", name)

    def _next(self, name: str) -> list[ApproveUpdate | RejectUpdate]:
        follow_ups: list[list[ApproveUpdate | RejectUpdate]] = [
            [],
            [ApproveUpdate(update_id=name)],
            [RejectUpdate(update_id=name, reason="no")],
        ]
        return self.random.choice(follow_ups)

    async def trial(self) -> None:
        number = self.trials
        self.trials += 1
        run = RunTrial(
            study_id="s", number=number, phase="search", algorithm="dqn", environment="policy", hyperparameters=VALUES,
            seed=1, train_episodes=9, eval_episodes=1,
        )  # fmt: skip
        await self.bus.publish(run, id=f"t{number}")
        score = self.random.random()
        outcome = (
            TrialFailed(study_id="s", number=number, error="x", holder="h")
            if score < 0.2
            else TrialCompleted(study_id="s", number=number, score=score, cpu_seconds=1, holder="h")
        )
        await self.bus.publish(outcome, id=f"o{number}")

    async def report(self) -> None:
        self.reports += 1
        name, n = self.random.choice(AGENT_IDS), self.reports
        await self.bus.publish(
            AgentReported(agent_id=name, run_id="r", episode=n, step=n, score=n / 7, version=0), id=f"r{n}"
        )
        if n % 5 == 0:
            game = GameReported(
                game_id="0", episode=n, conflicts={"veto": 0.1}, latency=0.2, nash_conv=n / 10, gains={"policy": 0.1}
            )
            await self.bus.publish(game, id=f"g{n}")
            await self.bus.publish(SessionReported(session_id=f"p{n % 3}", page="agents"), id=f"p{n}")
            await self.bus.publish(TrialReported(study_id="s", number=0, episode=n % 9, score=0), id=f"tr{n}")

    async def some(self, count: int) -> None:
        for _ in range(count):
            await self.random.choice([self.update, self.trial, self.report, self.report])()


def rows(views: Views) -> dict[str, object]:
    """Everything that views can tell."""
    return {
        "agents": views.agents(),
        "history": {name: views.history(name) for name in AGENT_IDS},
        "updates": views.updates(),
        "pending": views.pending(),
        "trials": views.trials("s"),
        "conflicts": views.conflicts(),
        "equilibria": views.equilibria(),
        "dead": views.dead(),
        "stats": views.stats(),
    }


class Running:
    """A projection that runs in this process, and can be cut off."""

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self.memory = MemoryViews(settings.redis_max_history_length)
        projection = Projection(bus, settings, self.memory)
        self._projection = projection
        self._tasks = [asyncio.create_task(projection.run(stream)) for stream in BOARDS]

    async def cut(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._projection.writer is not None:
            await self._projection.writer.close()


async def folded(bus: Bus, settings: Settings) -> dict[str, object]:
    """An independent fold of all streams into fresh memory."""
    fresh = Running(bus, settings.model_copy(update={"use_redis": False}))
    async with asyncio.timeout(20):
        while not await is_complete(bus, fresh.memory):
            await asyncio.sleep(0.05)
    await fresh.cut()
    return rows(fresh.memory)


async def is_complete(bus: Bus, views: Views) -> bool:
    stats = views.stats()
    counts = {"EVENTS": stats.events, "TRIALS": stats.trials, "REPORTS": stats.reports, "DEAD": stats.dead}
    return all([(await bus.stream(name)).state.last_seq == count for name, count in counts.items()])


async def until_equal(views: Views, wanted: dict[str, object]) -> None:
    """Wait until these views tell the same; at the end show the difference."""
    for _ in range(200):
        try:
            if rows(views) == wanted:
                return
        except redis.RedisError:
            pass  # Redis is being brought back by the test: look again
        await asyncio.sleep(0.05)
    assert rows(views) == wanted


@pytest.fixture
async def views(with_redis: Settings) -> AsyncIterator[RedisViews]:
    found = RedisViews(str(with_redis.redis_url))
    yield found
    found.close()


async def test_redis_and_memory_tell_the_same_as_a_fold_of_the_streams(
    bus: Bus, with_redis: Settings, views: RedisViews
) -> None:
    writer, running = Writer(bus), Running(bus, with_redis)
    await writer.agents()
    await writer.some(60)
    wanted = await folded(bus, with_redis)
    await until_equal(views, wanted)
    await until_equal(running.memory, wanted)
    await running.cut()


async def test_a_projection_cut_off_at_any_moment_and_two_at_once_change_nothing(
    bus: Bus, with_redis: Settings, views: RedisViews
) -> None:
    writer, pace = Writer(bus, seed=2), random.Random(2)
    await writer.agents()
    for _ in range(6):
        running = [Running(bus, with_redis), Running(bus, with_redis)]
        await writer.some(12)
        await asyncio.sleep(pace.uniform(0, 0.1))
        for one in running:
            await one.cut()
    last = Running(bus, with_redis)
    await until_equal(views, await folded(bus, with_redis))
    await last.cut()


async def test_a_flushed_redis_is_written_anew(
    bus: Bus, with_redis: Settings, views: RedisViews, store: redis.asyncio.Redis
) -> None:
    writer, running = Writer(bus, seed=3), Running(bus, with_redis)
    await writer.agents()
    for _ in range(3):
        await writer.some(15)
        await store.flushall()
    await until_equal(views, await folded(bus, with_redis))
    await running.cut()


async def test_a_redis_that_was_killed_and_comes_back_empty_is_written_anew_and_memory_goes_on(
    bus: Bus, with_redis: Settings, views: RedisViews, valkey: Server
) -> None:
    writer, running = Writer(bus, seed=4), Running(bus, with_redis)
    await writer.agents()
    await writer.some(20)
    valkey.kill()
    await writer.some(10)
    wanted = await folded(bus, with_redis)
    await until_equal(running.memory, wanted)
    again = start_valkey(valkey.folder)
    await until_equal(views, wanted)
    await running.cut()
    again.stop()


async def test_keys_have_the_documented_types_caps_and_lifetimes(
    bus: Bus, with_redis: Settings, views: RedisViews, store: redis.asyncio.Redis
) -> None:
    writer, running = Writer(bus, seed=5), Running(bus, with_redis)
    await writer.agents()
    await writer.some(5)
    for _ in range(150):
        await writer.report()
    await until_equal(views, await folded(bus, with_redis))
    types = {
        "agent_state:a": b"hash", "agent_history:a": b"list", "conflicts:list": b"list", "equilibrium:list": b"list",
        "metrics:hash": b"hash", "websocket:subscribers": b"set",
    }  # fmt: skip
    assert {key: await store.type(key) for key in types} == types
    assert await store.llen("agent_history:a") == 20
    for key in types:
        assert 0 < await store.ttl(key) <= with_redis.redis_ttl_seconds
    for key in [key async for key in store.scan_iter("update:*")]:
        assert await store.ttl(key) == -1
    await running.cut()


async def test_what_nobody_can_read_is_skipped_and_the_rest_is_projected(bus: Bus, with_redis: Settings) -> None:
    for body in (b"{", b"\xff", b'{"kind":"update.proposed.v1"}'):
        await bus.jetstream.publish("tars.event.update.proposed.v1.u0", body, stream="EVENTS")
    await bus.jetstream.publish("tars.event.update.proposed.v9.u0", b"{}", stream="EVENTS")
    running = Running(bus, with_redis)
    writer = Writer(bus)
    await writer.update()
    async with asyncio.timeout(10):
        while not running.memory.updates():
            await asyncio.sleep(0.02)
    assert [row.update_id for row in running.memory.updates()] == ["u1"]
    await running.cut()


async def test_queries_are_answered_from_memory_and_nonsense_gets_the_reason(bus: Bus, settings: Settings) -> None:
    client = AsyncClient(bus, By(principal="ada"))
    serving = asyncio.create_task(app.worker(settings).serve(0))
    writer = Writer(bus, seed=6)
    await writer.agents()
    await writer.update()
    async with asyncio.timeout(15):
        while True:
            try:
                if await client.query("updates") and len(await client.query("agents")) == 3:
                    break
            except NobodyAnswers:
                await asyncio.sleep(0.05)
    assert [row.update_id for row in await client.query("update", Ask(id="u1"))] == ["u1"]
    assert await client.query("update", Ask(id="nobody")) == []
    with pytest.raises(NobodyAnswers, match="the query update needs an id"):
        await client.query("update")
    for body, part in ((b"{", "Invalid JSON"), (b'{"limit": 0}', "limit")):
        reply = await bus.client.request("tars.query.agents.v1", body, timeout=3)
        assert part in reply.data.decode()
    reply = await bus.client.request("tars.query.weather.v1", b"", timeout=3)
    assert "there is no query weather" in reply.data.decode()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
