"""What a fleet costs: processor, memory, lag and age of the views with 10, 100 and 1,000 agents.

At each size the agents report from four processes as hosted ones do (benchmarks/reporters.py), 100 updates are in
flight (proposed, approved on hold and rejected, over and over, each command answered before the next; a rollout's cost
is benchmarks/reload.py's), and ten quick studies are started, whose trials one real trainer trains: it takes a core for
as long as there are trials, as any trainer does. The sizes come one after the other on the same processes: one of each
role, a page that nobody looks at, servers that fsync. Age: from a report's publication to its being in Redis.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure as Picture
from rich.console import Console
from rich.table import Table
from workers import Workers, servers, until

from report import Figure, arguments, percentile, write
from tars.producers.async_client import AsyncClient
from tars.runtime.bus import fresh_id
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.telemetry import start_telemetry
from tars.runtime.view_store import RedisViews
from tars.schemas.agent import AgentReported
from tars.schemas.errors import TarsError
from tars.schemas.message import By
from tars.schemas.streams import DURABLES
from tars.schemas.study import StartStudy
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate

BENCH: Final = By(principal="bench")
ROLES: Final = ("sync", "consumers", "coordinator", "trainer", "dashboard")
PROCESSES: Final = 4
UPDATES: Final = 100
THINKING: Final = 2.0
"""Seconds between two commands about an update."""
STUDIES: Final = 10
PROBE: Final = "probe"
PICTURE: Final = Path(__file__).parents[1] / "docs" / "pictures" / "load.png"


@dataclass
class Load:
    """What was measured at one size of the fleet."""

    agents: int
    percent: dict[str, float] = field(default_factory=dict)
    """Of a core, by process; the four of agents together."""
    megabytes: dict[str, float] = field(default_factory=dict)
    ages: list[float] = field(default_factory=list)
    """Milliseconds."""
    waiting: dict[str, int] = field(default_factory=dict)
    """By durable, the most messages that waited at once."""
    reports: float = 0.0
    """Stored per second."""
    commands: float = 0.0
    """Answered per second."""
    behind: int = 0
    """Reports that were not in the views at the end."""


class Updates:
    """Updates in flight; commands that were answered."""

    def __init__(self, client: AsyncClient, agents: Sequence[str]) -> None:
        self._client, self._agents = client, agents
        self.answered = 0

    async def go_on(self, number: int) -> None:
        """One life after the other, for ever."""
        await asyncio.sleep(number * THINKING / UPDATES)
        while True:
            end_if_cancelled()
            name = fresh_id("u")
            agent = self._agents[number % len(self._agents)]
            for command in (
                ProposeUpdate(update_id=name, agents=(agent,), values={"gamma": 0.96}),
                ApproveUpdate(update_id=name, hold=True),
                RejectUpdate(update_id=name),
            ):
                try:
                    await self._client.send(command)
                except TarsError:
                    break  # not answered in time: another life
                self.answered += 1
                await asyncio.sleep(THINKING)


async def keep_studying(client: AsyncClient) -> None:
    """One quick study after the other, for ever."""
    while True:
        end_if_cancelled()
        name = fresh_id("s")
        await client.send(StartStudy(study_id=name, algorithm="dqn", trials=20, quick=True, wall_seconds=600))
        async for event in client.follow("study", name, lambda e: e.kind.split(".")[1] in {"finished", "failed"}):
            del event


async def probe(workers: Workers, load: Load) -> None:
    """Publish a report now and then, and look for it in Redis, for ever."""
    views = RedisViews(workers.environment["REDIS_URL"])
    for episode in count(time.time_ns() // 10**9):
        end_if_cancelled()
        report = AgentReported(agent_id=PROBE, run_id="r", episode=episode, step=0, score=0.5, version=0)
        began = time.perf_counter()
        await workers.bus.report(report)
        while not any(point.episode == episode for point in await asyncio.to_thread(views.history, PROBE, 0, 1)):
            await asyncio.sleep(0.01)
        load.ages.append(1e3 * (time.perf_counter() - began))
        await asyncio.sleep(0.3)


async def look_at_lag(workers: Workers, load: Load) -> None:
    """Note the most that waits before each durable, for ever."""
    while True:
        end_if_cancelled()
        for name, durable in DURABLES.items():
            found = await workers.bus.jetstream.consumer_info(durable.stream, name)
            load.waiting[name] = max(load.waiting.get(name, 0), found.num_pending or 0)
        await asyncio.sleep(0.5)


@asynccontextmanager
async def fleet(workers: Workers, agents: int) -> AsyncIterator[list[str]]:
    """So many agents in four processes, which have all said that they run."""
    names, before = [f"agent-{number}" for number in range(agents)], set(workers.children)
    script = str(Path(__file__).with_name("reporters.py"))
    for number in range(PROCESSES):
        await workers.start(f"agents-{number}", script, *names[number::PROCESSES])
    client = AsyncClient(workers.bus, BENCH)

    async def all_there() -> bool:
        [row] = await client.query("stats")
        return bool(row.agents >= agents)

    await until(all_there)
    try:
        yield names
    finally:
        for name in set(workers.children) - before:
            await workers.end(name)


async def loaded(workers: Workers, agents: int, settle: float, seconds: float) -> Load:
    """Let a fleet of this size report, and measure after `settle` seconds for `seconds`."""
    load, client = Load(agents), AsyncClient(workers.bus, BENCH)
    async with fleet(workers, agents) as names:
        updates = Updates(client, names)
        going = [asyncio.create_task(updates.go_on(number)) for number in range(UPDATES)]
        going += [asyncio.create_task(keep_studying(client)) for _ in range(STUDIES)]
        await asyncio.sleep(settle)
        going += [asyncio.create_task(probe(workers, load)), asyncio.create_task(look_at_lag(workers, load))]
        try:
            await _measure(workers, load, updates, seconds)
        finally:
            for task in going:
                task.cancel()
            ended, _ = await asyncio.wait(going, timeout=30)
    for task in ended:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return load


async def _measure(workers: Workers, load: Load, updates: Updates, seconds: float) -> None:
    reports, answered = (await workers.bus.stream("REPORTS")).state.last_seq, updates.answered
    before, began = workers.use(), time.perf_counter()
    await asyncio.sleep(seconds)
    after, took = workers.use(), time.perf_counter() - began
    last = (await workers.bus.stream("REPORTS")).state.last_seq
    [row] = await AsyncClient(workers.bus, BENCH).query("stats")
    load.behind = max(0, last - row.reports)
    load.reports, load.commands = (last - reports) / took, (updates.answered - answered) / took
    for name, use in after.items():
        shown = name.partition("-")[0] if name.startswith("agents") else name
        share = 100 * (use.cpu_seconds - before[name].cpu_seconds) / took
        load.percent[shown] = load.percent.get(shown, 0.0) + share
        load.megabytes[shown] = load.megabytes.get(shown, 0.0) + use.megabytes


def figures(loads: Sequence[Load]) -> list[Figure]:
    """Everything that was measured, for the JSON."""
    found = []
    for load in loads:
        values: dict[str, float] = {
            **{f"{name}_cpu_percent": value for name, value in load.percent.items()},
            **{f"{name}_mb": value for name, value in load.megabytes.items()},
            **{f"{name}_most_waiting": value for name, value in load.waiting.items()},
            "reports_per_s": load.reports, "commands_per_s": load.commands, "reports_behind": load.behind,
        }  # fmt: skip
        if load.ages:
            values |= {"age_p50_ms": percentile(load.ages, 0.5), "age_p95_ms": percentile(load.ages, 0.95)}
        found += [Figure(f"{name}_at_{load.agents}", value, None, None) for name, value in values.items()]
    return found


def table(loads: Sequence[Load]) -> Table:
    """A column for each size."""
    drawn = Table(title="load", title_justify="left", box=None)
    drawn.add_column("agents")
    for load in loads:
        drawn.add_column(f"{load.agents:,}", justify="right")
    for name in loads[0].percent:
        drawn.add_row(name, *(f"{load.percent[name]:.1f} %, {load.megabytes[name]:.0f} MB" for load in loads))
    drawn.add_row("reports/s", *(f"{load.reports:.0f}" for load in loads))
    drawn.add_row("commands/s", *(f"{load.commands:.1f}" for load in loads))
    drawn.add_row(
        "age in Redis, p50, p95",
        *(f"{percentile(d.ages, 0.5):.0f}, {percentile(d.ages, 0.95):.0f} ms" if d.ages else "-" for d in loads),
    )
    drawn.add_row("reports behind", *(str(load.behind) for load in loads))
    for name in loads[0].waiting:
        drawn.add_row(f"most before {name}", *(str(load.waiting[name]) for load in loads))
    return drawn


def draw(loads: Sequence[Load], path: Path) -> None:
    """Processor of each process, and the age of the views, over the size of the fleet."""
    picture = Picture(figsize=(10, 3.4), layout="constrained")
    left, right = picture.subplots(1, 2)
    sizes = [load.agents for load in loads]
    for name in loads[0].percent:
        left.plot(sizes, [load.percent[name] for load in loads], marker="o", label=name)
    left.set(xscale="log", yscale="log", xlabel="agents", ylabel="% of a core", title="processor")
    left.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for share in (0.5, 0.95):
        ages = [percentile(load.ages, share) if load.ages else math.nan for load in loads]
        right.plot(sizes, ages, marker="o", label=f"p{100 * share:.0f}")
    right.set(xscale="log", xlabel="agents", ylabel="ms", title="report published → in Redis", ylim=(0, None))
    right.legend(fontsize=7)
    picture.savefig(path, dpi=110)


async def measured(sizes: Mapping[int, tuple[float, float]]) -> list[Load]:
    """By size: (seconds to settle, seconds measured). One after the other, on the same processes."""
    async with servers(RATE_LIMIT_PER_MINUTE="0") as workers:
        for role in ROLES:
            await workers.start(role)
        await workers.ready(*ROLES)
        return [await loaded(workers, agents, *seconds) for agents, seconds in sizes.items()]


def main() -> None:
    """Measure, show, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--picture", action="store_true", help="draw docs/pictures/load.png anew")
    options = parser.parse_args()
    start_telemetry("bench", "ERROR")
    sizes = {10: (2.0, 5.0)} if options.quick else dict.fromkeys((10, 100, 1000), (10.0, 20.0))
    loads = asyncio.run(measured(sizes))
    Console().print(table(loads))
    write(figures(loads), options.json)
    if options.picture:
        draw(loads, PICTURE)


if __name__ == "__main__":
    main()
