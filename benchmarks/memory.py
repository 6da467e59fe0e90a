"""How much each process's memory has grown after 100,000 messages: a flood of each kind of work, on real servers.

Each flood is sent once to warm up (a fifth of it, at least what fills every list that has a cap), then in whole; what
the process grew in the second is scaled to 100,000 messages. Rows of updates stay for ever in the consumers' memory, by
intent: their flood is about the same few agents, and `consumers_kb_per_update` says what those of the others cost.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Final

from workers import PATIENCE, Workers, servers, until

from page_sessions import Sessions
from report import Figure, arguments, show
from tars.producers.async_client import AsyncClient
from tars.runtime.bus import fresh_id
from tars.runtime.telemetry import start_telemetry
from tars.schemas.agent import AgentBeat, AgentReloaded, AgentReported, AgentStarted, ConfigureAgent
from tars.schemas.game import GameReported
from tars.schemas.hyperparameters import DQN, Value
from tars.schemas.message import By, Command, Message
from tars.schemas.streams import configure_subject
from tars.schemas.study import StartStudy, StopStudy, StudyFinished
from tars.schemas.trial import RunTrial
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate

BENCH: Final = By(principal="bench")
VALUES: Final[dict[str, Value]] = dict(DQN.demo_start())
AGENTS: Final = tuple(f"policy-{number}" for number in range(8))
CHUNK: Final = 500
"""Messages on their way at once."""
FILL: Final = 20_000
"""Messages to the consumers that fill every list to its cap, and some."""
UPDATES: Final = 500
PAGES: Final = 8
REFRESH_SECONDS: Final = 0.1
HASTY: Final = (
    "from tars.agents.app import Host, worker; from tars.runtime.app import run_worker; "
    "from tars.runtime.settings import load_settings; "
    "run_worker(worker(load_settings(), Host(worlds=1, pace=None)), {port})"
)
"""Agents that learn as fast as they can."""
HUNDRED_THOUSAND: Final = 100_000

Flood = Callable[[Workers, int], Awaitable[int]]
"""Sends so many messages, waits until they are handled, and says how many it was."""
Handled = Callable[[], Awaitable[bool]]
"""Whether what was sent has been dealt with."""


async def send(workers: Workers, messages: Iterator[Message], count: int, handled: Handled) -> None:
    """Send them in chunks; each is handled before the next."""
    while chunk := list(itertools.islice(messages, min(CHUNK, count))):
        count -= len(chunk)
        for message in chunk:
            await workers.bus.client.publish(
                message.subject, message.model_dump_json().encode(),
                headers={"Nats-Msg-Id": fresh_id("m"), "Tars-By": f"somebody-{count % 100}"},
            )  # fmt: skip
        await workers.bus.client.flush()
        await until(handled)


async def consumed(workers: Workers, count: int) -> int:
    """Half reports, half events, of the same agents: the consumers have folded them all."""
    client = AsyncClient(workers.bus, BENCH)
    have = {name: (await workers.bus.stream(name)).state.last_seq for name in ("EVENTS", "REPORTS")}
    wanted = sum(have.values())

    def messages() -> Iterator[Message]:
        for number in itertools.count():
            agent = AGENTS[number % len(AGENTS)]
            yield AgentReported(agent_id=agent, run_id="r", episode=number, step=number, score=0.5, version=0)
            yield AgentReloaded(
                agent_id=agent, version=number, update_id="u", requested=VALUES, effective=VALUES, step=number,
                weights_before="a", weights_after="a", buffer_before=1, buffer_after=1, milliseconds=1.0,
            )  # fmt: skip
            yield AgentBeat(agent_id=agent, run_id="r", episode=number)
            yield AgentReloaded(
                agent_id=agent, version=number, update_id="u", requested=VALUES, effective=VALUES, step=number,
                weights_before="a", weights_after="b", buffer_before=1, buffer_after=1, milliseconds=1.0,
            )  # fmt: skip
            yield GameReported(
                game_id="w", episode=number, conflicts={"veto": 0.1}, latency=0.1, nash_conv=0.1, gains={"policy": 0.1}
            )
            yield AgentStarted(
                agent_id=agent, run_id=f"r{number}", role="policy", algorithm="dqn", world="w", values=VALUES,
                heard_version=0, applied_version=0,
            )  # fmt: skip

    sent = 0

    async def folded() -> bool:
        nonlocal sent
        [row] = await client.query("stats")
        return bool(row.events + row.reports >= wanted + sent)

    def counted() -> Iterator[Message]:
        nonlocal sent
        for message in messages():
            sent += 1
            yield message

    await send(workers, counted(), count, folded)
    return count


async def decided(workers: Workers, commands: Iterator[Command], count: int) -> int:
    """Every command has left its queue."""

    async def none_left() -> bool:
        return (await workers.bus.stream("COMMANDS")).state.messages == 0

    await send(workers, commands, count, none_left)
    return count


async def update_commands(workers: Workers, count: int) -> int:
    """Of ten commands one is a proposal and one its rejection; the others are about updates that there are not."""

    def commands() -> Iterator[Command]:
        for number in itertools.count():
            name = fresh_id("u")
            yield ProposeUpdate(update_id=name, agents=(AGENTS[number % 8],), values={"gamma": 0.96})
            yield RejectUpdate(update_id=name)
            yield from (ApproveUpdate(update_id=fresh_id("u")) for _ in range(8))

    return await decided(workers, commands(), count)


async def study_commands(workers: Workers, count: int) -> int:
    """Commands about studies that there are not."""
    return await decided(workers, (StopStudy(study_id=fresh_id("s")) for _ in itertools.count()), count)


async def studied(workers: Workers, count: int) -> int:
    """Studies of 500 trials by the surrogate: each trial is asked for, trained and told, two messages or more."""
    client, before = AsyncClient(workers.bus, BENCH), (await workers.bus.stream("TRIALS")).state.last_seq
    while (done := (await workers.bus.stream("TRIALS")).state.last_seq - before) < count:
        names = [fresh_id("s") for _ in range(4)]
        for name in names:
            await client.send(StartStudy(study_id=name, algorithm="dqn", trials=500, sampler="random", quick=True))
        for name in names:
            async for event in client.follow("study", name, lambda e: isinstance(e, StudyFinished)):
                del event
    return done


async def trained(workers: Workers, count: int) -> int:
    """Trials of the surrogate; each is two messages, what was asked and what came of it."""
    study = fresh_id("s")

    async def none_left() -> bool:
        found = await workers.bus.jetstream.consumer_info("TRIALS", "run-trial")
        return not found.num_pending and not found.num_ack_pending

    trials = (
        RunTrial(
            study_id=study, number=number, phase="search", algorithm="dqn", environment="policy",
            hyperparameters=VALUES, seed=1, train_episodes=1, eval_episodes=1, training="surrogate",
        )
        for number in itertools.count()
    )  # fmt: skip
    await send(workers, trials, count // 2, none_left)
    return count


async def learnt(workers: Workers, count: int) -> int:
    """Four agents at full speed: their reports, and a reload for every hundred of these."""
    before = (await workers.bus.stream("REPORTS")).state.last_seq
    reloads = 0
    base = dict.fromkeys(("policy-0",), 0)
    newest = await workers.bus.last("AGENTS", configure_subject("policy-0"))
    base["policy-0"] = newest.sequence if newest else 0
    while (done := (await workers.bus.stream("REPORTS")).state.last_seq - before + 3 * reloads) < count:
        rate = 1e-3 + 1e-6 * (reloads % 100)
        told = ConfigureAgent(
            agent_id="policy-0", update_id=fresh_id("u"), purpose="update", base=base["policy-0"],
            values=VALUES | {"learning_rate": rate}, by=BENCH,
        )  # fmt: skip
        base["policy-0"] = await workers.bus.publish(told, id=fresh_id("c"))
        reloads += 1
        await asyncio.sleep(0.2)
    return done


async def looked_at(workers: Workers, count: int) -> int:
    """Open pages that are drawn again and again, while agents report."""
    sessions = Sessions(f"http://127.0.0.1:{workers.ports['dashboard']}", PAGES, every=REFRESH_SECONDS)
    async with sessions.open(), asyncio.timeout(PATIENCE + 2 * REFRESH_SECONDS * count):
        while len(sessions.refreshed) < count:
            await asyncio.sleep(0.1)
    if sessions.errors:
        raise SystemExit(f"a page showed an error: {sessions.errors[0]}")
    return len(sessions.refreshed)


async def grown(workers: Workers, name: str, flood: Flood, count: int, warm: int) -> tuple[float, float, int]:
    """(megabytes that the process grew in the flood, megabytes in the end, messages)."""
    await flood(workers, warm)
    await asyncio.sleep(1)
    before = workers.use()[name].megabytes
    done = await flood(workers, count)
    await asyncio.sleep(1)
    after = workers.use()[name].megabytes
    return after - before, after, done


def row(name: str, found: tuple[float, float, int], what: str, unit: str = "messages") -> Figure:
    """Growth scaled to 100,000 messages, or whatever the process does."""
    grew, after, done = found
    note = f"{what}: {grew:+.1f} MB in {done:,} {unit}, {after:.0f} MB in the end"
    return Figure(f"{name}_grown_mb", grew * HUNDRED_THOUSAND / done, 5, 5, note=note)


async def measure(count: int, share: int) -> AsyncIterator[Figure]:
    """One process after the other. share: by how much the slow floods (studies, learning) are shorter."""
    warm = max(count // 5, 1000)
    async with servers(RATE_LIMIT_PER_MINUTE="100000", USE_REAL_TRAINING="false") as workers:
        await workers.start("consumers")
        await workers.ready("consumers")
        found_consumers = await grown(workers, "consumers", consumed, count, max(warm, FILL))
        yield row("consumers", found_consumers, "reports and events of 8 agents")
        note = "resident, with the views of 8 agents and their histories"
        yield Figure("consumers_mb", found_consumers[1], 120, 120, note=note)
        await workers.start("sync")
        await workers.ready("sync")
        found = await grown(workers, "sync", update_commands, count, warm)
        yield row("sync", found, "commands about updates, one proposal in ten")
        yield Figure("sync_mb", workers.use()["sync"].megabytes, 120, 120, note="resident, after all of this")
        [rows] = await AsyncClient(workers.bus, BENCH).query("stats")
        grew = workers.use()["consumers"].megabytes - found_consumers[1]
        note = f"{grew:+.1f} MB for the rows of {rows.updates:,} updates"
        yield Figure("consumers_kb_per_update", 1e3 * grew / rows.updates, None, None, note=note)
        await workers.start("coordinator")
        await workers.start("trainer")
        await workers.ready("coordinator", "trainer")
        found = await grown(workers, "coordinator", study_commands, count, warm)
        yield row("coordinator", found, "commands about studies")
        found = await grown(workers, "trainer", trained, count, warm)
        yield row("trainer", found, "trials of the surrogate")
        found = await grown(workers, "coordinator", studied, count // share, count // share)
        yield row("coordinator_studies", found, "studies of 500 trials")
    async with servers() as workers:
        workers.ports["agents"] = 0
        await workers.start("agents", "-c", HASTY.format(port=0))
        found = await grown(workers, "agents", learnt, count // share, 5_000)
        yield row("agents", found, "reports at full speed, and reloads")
        await workers.start("consumers")
        await workers.start("dashboard")
        await workers.ready("consumers", "dashboard")
        found = await grown(workers, "dashboard", looked_at, count // share, 2_000)
        yield row("dashboard", found, f"{PAGES} open pages, while agents report", "refreshes")


async def shown(count: int, share: int) -> list[Figure]:
    """All rows; each is also told when it is there."""
    found = []
    async for figure in measure(count, share):
        print(f"{figure.metric} {figure.value:.2f}  {figure.note}", flush=True)
        found.append(figure)
    return found


def main() -> None:
    """Measure, show, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--messages", type=int, default=HUNDRED_THOUSAND, help="of each flood (default 100,000)")
    options = parser.parse_args()
    start_telemetry("bench", "ERROR")
    count, share = (2_000, 4) if options.quick else (options.messages, 5)
    show("memory", asyncio.run(shown(count, share)), options.json)


if __name__ == "__main__":
    main()
