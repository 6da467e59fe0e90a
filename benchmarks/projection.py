"""The views: how fast Redis is filled from a ledger, and what typed rows cost beside the bare client.

The rebuild is told by the second of processor time, of this process, nats-server and Valkey together: that holds on a
busy machine too. Beside every call stands the bare redis client's on the same Redis, one after the other: HSET of the
same fields and EXPIRE in one pipeline for a report that comes in (ours decodes it, folds it, and moves the stream's
position in the same step); HGETALL for an agent's state; LRANGE for a hundred episodes. Ours validate what they read.
"""

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psutil
import redis
import redis.asyncio

from report import Figure, arguments, percentile, show
from tars.consumers.boards import EventsBoard, ReportsBoard, Stored
from tars.consumers.projection import Projection
from tars.runtime import view_changes as keys
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.telemetry import start_telemetry
from tars.runtime.view_store import Epoch, MemoryViews, RedisViews, RedisWriter
from tars.schemas.agent import AgentAccepted, AgentReloaded, AgentReported, AgentStarted
from tars.schemas.evidence import Evidence, PairedScore, Verdict
from tars.schemas.game import GameReported
from tars.schemas.hyperparameters import DQN, Value
from tars.schemas.message import By, Event, Message
from tars.schemas.update import (
    ReadBack,
    UpdateApproved,
    UpdateConfirmed,
    UpdateJudged,
    UpdateProposed,
    UpdateReleased,
    UpdateReloaded,
    UpdateResumed,
    UpdateStarted,
)

EPOCH: Final = Epoch("bench", 1)
BENCH: Final = By(principal="bench")
NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
VALUES: Final[dict[str, Value]] = dict(DQN.demo_start())
CHANGE: Final[dict[str, Value]] = {"learning_rate": 1e-3}
HASH: Final = "0" * 64
AGENTS: Final = tuple(f"policy-{number}" for number in range(4))
TOGETHER: Final = 500
"""Events stored in one atomic batch."""
TTL: Final = 86_400


def evidence() -> Evidence:
    """What a champion comes with after two looks."""
    scores = tuple(PairedScore(seed=n, incumbent=0.5 + n / 100, candidate=0.6 + n / 90) for n in range(16))
    return Evidence(
        verdict=Verdict.BETTER, algorithm="dqn", environment="policy", start="scratch", training="real",
        code_version="bench", train_episodes=50, eval_episodes=10, incumbent=VALUES, candidate={**VALUES, **CHANGE},
        scores=scores, gain=0.1, gain_low=0.05, gain_high=0.15, p_value=1e-4, threshold=0.03, look=2, search_gain=0.2,
    )  # fmt: skip


def life(number: int) -> list[Event]:
    """The ten events of one confirmed update of one agent."""
    name, agent = f"u-{number}", f"policy-{number % 100}"
    after = {**VALUES, **CHANGE}
    back = ReadBack(
        agent_id=agent, version=number + 1, requested=after, effective=after, step=5, milliseconds=3.0,
        weights_kept=True, buffer_kept=True,
    )  # fmt: skip
    return [
        UpdateProposed(
            update_id=name, by=BENCH, values=CHANGE, base={agent: number}, before={agent: VALUES}, evidence=evidence(),
            study_id=f"s-{number}", reason="champion", expires_at=NOW + timedelta(days=7), strictness="medium",
            content=HASH,
        ),
        UpdateApproved(update_id=name, by=BENCH, mode="manual", reason="good", hold=False),
        UpdateReleased(update_id=name, by=BENCH),
        UpdateResumed(update_id=name, holder="host-1-00000000", delivery=1),
        UpdateStarted(update_id=name, agents=(agent,), canary=(agent,), slot_seconds=1.0, slots=60, smallest_harm=0.1),
        AgentAccepted(agent_id=agent, version=number + 1, update_id=name, applies="live"),
        AgentReloaded(
            agent_id=agent, version=number + 1, update_id=name, requested=after, effective=after, step=5,
            weights_before=HASH, weights_after=HASH, buffer_before=512, buffer_after=512, milliseconds=3.0,
        ),
        UpdateReloaded(update_id=name, read_backs=(back,), stage="canary"),
        UpdateJudged(
            update_id=name, stage="canary", verdict="CONFIRM", then="go on", reason="not harmful", effect=0.02,
            effect_low=-0.01, effect_high=0.05, slot=60, reloaded=(agent,), compared=("policy-0",), smallest_harm=0.1,
            stopped_early=False,
        ),
        UpdateConfirmed(update_id=name, reason="not harmful"),
    ]  # fmt: skip


async def fill(bus: Bus, count: int) -> None:
    """Store so many events."""
    events = [event for number in range(count // 10) for event in life(number)]
    for start in range(0, count, TOGETHER):
        part = events[start : start + TOGETHER]
        for place, event in enumerate(part, 1):
            batch = (f"batch-{start}", place, place == len(part))
            await bus.publish(event, id=f"e-{start + place}", by=BENCH, batch=batch)


async def rebuild(nats: Server, valkey: Server, count: int) -> Figure:
    """Fold a ledger into an empty Redis, and into memory, as a consumers process does at its start."""
    nats_url, redis_url, pids = nats.url, valkey.url, (os.getpid(), nats.pid, valkey.pid)
    bus = await connect_bus(nats_url, "bench", patience=5)
    await provision(bus.jetstream, ack_wait=30)
    await fill(bus, count)
    done = asyncio.Event()
    memory = MemoryViews(1000)
    settings = Settings(nats_url=nats_url, redis_url=redis_url)
    projection = Projection(bus, settings, memory, caught_up=lambda _: done.set())
    began, used = time.perf_counter(), processor_seconds(*pids)
    task = asyncio.create_task(projection.run("EVENTS"))
    await done.wait()
    spent = [after - before for after, before in zip(processor_seconds(*pids), used, strict=True)]
    took = time.perf_counter() - began
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    found = RedisViews(redis_url)
    assert found.stats().updates == count // 10  # noqa: S101 - a figure of half a rebuild would be none
    assert found.update(f"u-{count // 10 - 1}") == memory.update(f"u-{count // 10 - 1}")  # noqa: S101
    found.close()
    if projection.writer is not None:
        await projection.writer.close()
    await bus.close()
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in zip(("ours", "NATS", "Redis"), spent, strict=True))
    note = (
        f"{count:,} events of {count // 10:,} updates, a second of processor time ({parts}); {took:.1f} s of the clock"
    )
    return Figure("rebuild_events_per_s", count / sum(spent), 3000, 10_000, more=True, note=note)


def processor_seconds(*pids: int) -> list[float]:
    """What each process has used until now, user and system."""
    return [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]


def stored(message: Message, sequence: int) -> Stored:
    """A message as a stream holds it, now."""
    return Stored(sequence, datetime.now(UTC), message.subject, message.model_dump_json().encode())


def episode(agent: str, number: int) -> AgentReported:
    """One of an agent's reports."""
    return AgentReported(agent_id=agent, run_id="r-1", episode=number, step=32 * number, score=0.5, version=1)


async def open_agents(writer: RedisWriter) -> None:
    """Put the agents and what the ledger says of them into an empty Redis."""
    board = EventsBoard(TTL)
    for place, name in enumerate(AGENTS, 1):
        started = AgentStarted(
            agent_id=name, run_id="r-1", role="policy", algorithm="dqn", world="w", values=VALUES, heard_version=0,
            applied_version=0,
        )  # fmt: skip
        board.fold(stored(started, place))
    await writer.write("EVENTS", EPOCH, (0, len(AGENTS)), board.changes())


def ratio(metric: str, ours: list[float], bare: list[float], bounds: tuple[float, float]) -> Figure:
    """Medians of both, as a ratio; the 99th percentiles in the note."""
    value = statistics.median(ours) / statistics.median(bare)
    texts = [
        f"{name} {statistics.median(took) * 1e3:.3f} ms, p99 {percentile(took, 0.99) * 1e3:.2f}"
        for name, took in (("ours", ours), ("bare", bare))
    ]
    return Figure(metric, value, *bounds, note="; ".join(texts))


async def stores(redis_url: str, writer: RedisWriter, calls: int) -> Figure:
    """A report that comes in -> the agent's row and its history."""
    bare = redis.asyncio.Redis.from_url(redis_url, decode_responses=True)
    board, ours, theirs = ReportsBoard(TTL), list[float](), list[float]()
    fields: dict[Any, Any] = {
        "episode": "1",
        "step": "32",
        "score": "0.5",
        "finite": "true",
        "seen_at": f'"{NOW.isoformat()}"',
    }
    for number in range(1, calls + 1):
        message = stored(episode(AGENTS[number % 4], number), number)
        began = time.perf_counter()
        board.fold(message)
        await writer.write("REPORTS", EPOCH, (number - 1, number), board.changes())
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        pipe = bare.pipeline(transaction=False)
        pipe.hset("bare", mapping=fields)
        pipe.expire("bare", TTL)
        await pipe.execute()
        theirs.append(time.perf_counter() - began)
    await bare.aclose()
    return ratio("store_state_vs_raw", ours, theirs, (2.5, 1.5))


def timed(one: Callable[[], object], other: Callable[[], object], calls: int) -> tuple[list[float], list[float]]:
    """Seconds of both, in turns."""
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(calls):
        for call, took in zip((one, other), found, strict=True):
            began = time.perf_counter()
            call()
            took.append(time.perf_counter() - began)
    return found


def reads(redis_url: str, calls: int) -> Iterator[Figure]:
    """An agent's row, and a hundred of its episodes."""
    views, bare = RedisViews(redis_url), redis.Redis.from_url(redis_url, decode_responses=True)
    name = AGENTS[0]
    state = timed(lambda: views.agent(name), lambda: bare.hgetall(keys.agent_state(name)), calls)
    yield ratio("get_state_vs_raw", *state, (2.5, 1.5))
    history = timed(lambda: views.history(name, limit=100), lambda: bare.lrange(keys.agent_history(name), 0, 99), calls)
    yield ratio("history_100_vs_raw", *history, (3, 2))
    views.close()
    bare.close()


async def weigh(redis_url: str, writer: RedisWriter, first: int) -> Figure:
    """Fill every capped list as far as the target says, and ask Redis what it takes."""
    client = redis.asyncio.Redis.from_url(redis_url)

    async def used() -> int:
        info: dict[str, Any] = await client.info("memory")
        return int(info["used_memory_dataset"])

    before = await used()
    board, at = ReportsBoard(TTL), first
    for number in range(1000):
        for name in AGENTS:
            at += 1
            board.fold(stored(episode(name, number), at))
        if number < 500:
            at += 1
            game = GameReported(
                game_id="world-0", episode=number, conflicts={"veto": 0.03125, "starved": 0.015625}, latency=0.25,
                nash_conv=0.125, gains=dict.fromkeys(("policy", "consensus", "ethical", "resource"), 0.03125),
            )  # fmt: skip
            board.fold(stored(game, at))
    await writer.write("REPORTS", EPOCH, (first, at), board.changes())
    megabytes = (await used() - before) / 1e6
    await client.aclose()
    return Figure("redis_mb", megabytes, 3, 2.5, note="4 agents x 1000 episodes, 500 conflicts, 500 equilibria")


async def measure(*, quick: bool) -> list[Figure]:
    """All rows."""
    count, calls = (10_000, 500) if quick else (50_000, 2000)
    found = []
    with tempfile.TemporaryDirectory(prefix="tars-bench-") as name:
        folder = Path(name)
        with start_nats(folder / "nats") as nats, start_valkey(folder / "valkey") as valkey:
            found.append(await rebuild(nats, valkey, count))
        with start_valkey(folder / "second") as valkey:
            async with AsyncExitStack() as stack:
                writer = RedisWriter(valkey.url, 1000)
                stack.push_async_callback(writer.close)
                await open_agents(writer)
                weight = await weigh(valkey.url, writer, 0)
                client = redis.asyncio.Redis.from_url(valkey.url)
                await client.delete(keys.cursor("REPORTS"))
                await client.aclose()
                found += [await stores(valkey.url, writer, calls), *reads(valkey.url, calls), weight]
    return found


def main() -> None:
    """Measure, show, write."""
    options = arguments(__doc__ or "").parse_args()
    start_telemetry("bench", "ERROR")
    show("projection", asyncio.run(measure(quick=options.quick)), options.json)


if __name__ == "__main__":
    main()
