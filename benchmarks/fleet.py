"""A hundred agents in four processes: how soon all run new values, and whether any reload goes wrong under kills.

Run by benchmarks/reload.py. The agents are benchmarks/small_agents.py, which notes what each learner applied and when;
the sync workers are real ones. What a reload became is judged from those notes against the ledger, by `wrongs`.
"""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from workers import Workers, servers

from report import Figure, percentile
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused, OutcomeUnknown
from tars.runtime.bus import Bus
from tars.runtime.journal import Entry, Journal
from tars.schemas.agent import AgentRefused, AgentReloaded, AgentStarted, ConfigureAgent
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By
from tars.schemas.streams import configure_subject
from tars.schemas.update import ApproveUpdate, ProposeUpdate

BENCH: Final = By(principal="bench")
SCRIPT: Final = str(Path(__file__).with_name("small_agents.py"))
PROCESSES: Final = 4
EACH: Final = 25
"""Agents of a process."""
WORKERS: Final = ("sync-0", "sync-1")
ACK_WAIT: Final = 2.0
"""Seconds: a killed worker's rollout goes on soon."""
KILL_EVERY: Final = (0.5, 1.5)
"""Between two kills, in shares of the time that all processes took to start: what was killed mostly lives again."""
ENDS: Final = {"confirmed", "rolled-back", "failed", "superseded", "refused"}
PATIENCE: Final = 300.0
"""Seconds until all agents have started, an update has ended, or all agents have caught up: no measure, a limit."""


@dataclass(frozen=True)
class Note:
    """What a learner applied, by its own account."""

    version: int
    rate: float
    at: float
    """Monotonic clock, seconds."""


Life = dict[str, list[Note]]
"""Agent -> what it applied in one life of its process, the oldest first."""


@dataclass
class Fleet:
    """Agents and sync workers, and the notes of all lives of each."""

    workers: Workers
    lives: Counter[str] = field(default_factory=Counter)
    start_seconds: float = 0.0
    """How long all of them took to start."""

    @property
    def bus(self) -> Bus:
        """The benchmark's own connection."""
        return self.workers.bus

    @property
    def agents(self) -> list[str]:
        """Of all processes."""
        return [agent for number in range(PROCESSES) for agent in self.agents_of(f"agents-{number}")]

    @staticmethod
    def agents_of(name: str) -> list[str]:
        """Of one process."""
        return [f"{name}-{number}" for number in range(EACH)]

    async def start(self, name: str) -> None:
        """Start a process; its notes go where no earlier life wrote."""
        self.lives[name] += 1
        agents = (SCRIPT, str(self._notes(name)), *self.agents_of(name))
        await self.workers.start(name, *(agents if name.startswith("agents") else ()))

    async def kill(self, name: str) -> None:
        """End a process as a crash would, and start it anew."""
        await self.workers.end(name)
        await self.start(name)

    def _notes(self, name: str, life: int | None = None) -> Path:
        return self.workers.folder / f"{name}.{life or self.lives[name]}"

    def life(self, name: str, life: int | None = None) -> Life:
        """What the agents of a process noted in one of its lives; unset: in the present one."""
        path, found = self._notes(name, life), defaultdict[str, list[Note]](list)
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""  # a line may still be on its way
        for agent, version, rate, at in (line.split() for line in whole.splitlines()):
            found[agent].append(Note(int(version), float(rate), float(at)))
        return found

    def past(self, name: str) -> list[Life]:
        """All lives of a process."""
        return [self.life(name, number) for number in range(1, self.lives[name] + 1)]


@asynccontextmanager
async def fleet(workers: Iterable[str]) -> AsyncIterator[Fleet]:
    """A hundred agents that have all said that they run; in the end everything is killed."""
    async with servers(ACK_WAIT, RATE_LIMIT_PER_MINUTE="0") as running:
        found = Fleet(running)
        began = time.perf_counter()
        for name in (*workers, *(f"agents-{number}" for number in range(PROCESSES))):
            await found.start(name)
        await _all_started(found)
        found.start_seconds = time.perf_counter() - began
        yield found


async def _all_started(found: Fleet) -> None:
    async with asyncio.timeout(PATIENCE):
        while len({entry.event.agent_id for entry in await agent_events(found.bus)}) < PROCESSES * EACH:
            if broken := [name for name, child in found.workers.children.items() if child.returncode is not None]:
                raise SystemExit(f"{', '.join(broken)} ended at once")
            await asyncio.sleep(0.2)


async def agent_events(bus: Bus) -> Sequence[Entry[Any]]:
    """Everything that agents said."""
    return await Journal(bus).messages("EVENTS", "tars.event.agent.>")


async def reloaded_at_once(rounds: int) -> list[Figure]:
    """Milliseconds from each agent's ConfigureAgent, all published at once, to the values in its learner's use."""
    async with fleet(()) as found:
        values: dict[str, Value] = dict((await agent_events(found.bus))[0].event.values)
        base, took = dict.fromkeys(found.agents, 0), list[float]()
        for number in range(rounds):
            changed = {**values, "learning_rate": 1e-3 + 1e-5 * (number + 1)}
            began = await _configure(found, base, changed, number)
            took += [1e3 * seconds for seconds in await _applied(found, base, began)]
    note = f"p50 {percentile(took, 0.5):.0f} ms, slowest {max(took):.0f}; {rounds} rounds of {len(base)} at once"
    return [Figure("fleet_100_applied_p99_ms", percentile(took, 0.99), 600, 250, note=note)]


async def _configure(found: Fleet, base: dict[str, int], values: dict[str, Value], number: int) -> dict[str, float]:
    """Tell every agent; `base` becomes the new versions. When each was told."""
    began: dict[str, float] = {}

    async def one(agent: str) -> None:
        message = ConfigureAgent(
            agent_id=agent, update_id=f"bench-{number}", purpose="update", base=base[agent], values=values, by=BENCH
        )
        began[agent] = time.perf_counter()
        base[agent] = await found.bus.publish(
            message, id=f"{agent}.{number}", after=(configure_subject(agent), base[agent])
        )

    await asyncio.gather(*map(one, found.agents))
    return began


async def _applied(found: Fleet, versions: Mapping[str, int], began: Mapping[str, float]) -> list[float]:
    """Seconds that each agent took; waits until all have applied."""
    async with asyncio.timeout(PATIENCE):
        while True:
            notes = {agent: row for n in range(PROCESSES) for agent, row in found.life(f"agents-{n}").items()}
            if all(notes.get(agent) and notes[agent][-1].version == version for agent, version in versions.items()):
                return [notes[agent][-1].at - at for agent, at in began.items()]
            await asyncio.sleep(0.05)


async def under_kills(reloads: int, seed: int) -> list[Figure]:
    """Updates of all agents, one after the other, while agents and sync workers are killed; what went wrong."""
    async with fleet(WORKERS) as found:
        killing = asyncio.create_task(_kill(found, random.Random(seed)))  # noqa: S311 - the same in every run
        told, ends, number = list[Entry[Any]](), Counter[str](), 0
        while len(told) < reloads:
            ends[await _update(found, number)] += 1
            number += 1
            told += await Journal(found.bus).messages(
                "AGENTS", "tars.command.agent.>", after=told[-1].sequence if told else 0
            )
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        newest = {entry.event.agent_id: entry for entry in told}
        wrong = await _caught_up(found, newest)
        wrong += wrongs(told, await agent_events(found.bus), [found.past(f"agents-{n}") for n in range(PROCESSES)])
    kills = {name: lives - 1 for name, lives in found.lives.items()}
    killed = f"{sum(n for name, n in kills.items() if name.startswith('agents'))} kills of agents' processes"
    killed += f", {sum(n for name, n in kills.items() if name.startswith('sync'))} of sync workers"
    told_ends = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    note = "; ".join([f"{len(told)} reloads, {killed}; updates: {told_ends}", *wrong[:5]])
    return [Figure("reloads_wrong", len(wrong), 0, 0, note=note)]


async def _kill(found: Fleet, dice: random.Random) -> None:
    """Kill one process after the other, which and when by the seed."""
    while True:
        await asyncio.sleep(dice.uniform(*KILL_EVERY) * found.start_seconds)
        await found.kill(dice.choice([*found.lives]))


async def _update(found: Fleet, number: int) -> str:
    """Propose and approve new values for all agents, and wait for the update's end; say how it ended."""
    client, update_id = AsyncClient(found.bus, BENCH), f"u-{number}"
    rate = 1e-3 + 1e-6 * (number % 200)
    try:
        await _sent(
            client, ProposeUpdate(update_id=update_id, agents=tuple(found.agents), values={"learning_rate": rate})
        )
        await _sent(client, ApproveUpdate(update_id=update_id))
    except CommandRefused:  # an agent had not said yet what it runs
        await asyncio.sleep(1.0)
        return "refused"
    last: Any = None
    async with asyncio.timeout(PATIENCE):
        async for event in client.follow("update", update_id, lambda event: _verb(event) in ENDS):
            last = event
    return _verb(last)


async def _sent(client: AsyncClient, command: ProposeUpdate | ApproveUpdate) -> None:
    """Send until it is decided: all workers may be dead for a while, and under one id it counts once."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await client.send(command, command_id=f"{command.kind.split('.')[1]}-{command.update_id}")
            except OutcomeUnknown:
                continue
            return


def _verb(event: Any) -> str:
    return str(event.kind).split(".")[1]


async def _caught_up(found: Fleet, newest: Mapping[str, Entry[Any]]) -> list[str]:
    """Agents that do not run, by their learners' own account, what they were told last; after a while for the last."""
    stale: list[str] = []
    for _ in range(int(PATIENCE)):
        lives = {agent: notes for n in range(PROCESSES) for agent, notes in found.life(f"agents-{n}").items()}
        stale = [f"{agent} is stale" for agent, told in newest.items() if not _runs(lives.get(agent, []), told)]
        if not stale:
            break
        await asyncio.sleep(1.0)
    return stale


def _runs(notes: Sequence[Note], told: Entry[Any]) -> bool:
    rate = told.event.values["learning_rate"]
    return bool(notes) and (notes[-1].version, notes[-1].rate) == (told.sequence, rate)


def wrongs(told: Sequence[Entry[Any]], said: Sequence[Entry[Any]], lives: Sequence[Sequence[Life]]) -> list[str]:
    """Reloads that were doubled, out of order, false or lost. Pure.

    told: every ConfigureAgent; said: every event of the agents; lives: by process, what was noted in each of its lives.
    """
    rates = {(entry.event.agent_id, entry.sequence): entry.event.values["learning_rate"] for entry in told}
    found: list[str] = []
    for life in (life for past in lives for life in past):
        for agent, notes in life.items():
            found += [f"{agent}: {b.version} after {a.version}" for a, b in pairwise(notes) if b.version <= a.version]
            found += [f"{agent}: {n.version} is false" for n in notes if rates.get((agent, n.version)) != n.rate]
    events, configurations = _by_agent(said), _by_agent(told)
    for agent in configurations:
        found += _doubled(agent, events[agent]) + _lost(agent, configurations[agent], events[agent])
    return found


def _by_agent(entries: Iterable[Entry[Any]]) -> dict[str, list[Entry[Any]]]:
    found = defaultdict[str, list[Entry[Any]]](list)
    for entry in entries:
        found[entry.event.agent_id].append(entry)
    return found


def _doubled(agent: str, events: Sequence[Entry[Any]]) -> list[str]:
    """Versions of which an agent told twice in one life."""
    life, told = 0, Counter[tuple[int, int]]()
    for entry in events:
        life += isinstance(entry.event, AgentStarted)
        if isinstance(entry.event, AgentReloaded):
            told[life, entry.event.version] += 1
    return [f"{agent}: {version} told {times} times" for (_, version), times in told.items() if times > 1]


def _lost(agent: str, told: Sequence[Entry[Any]], events: Sequence[Entry[Any]]) -> list[str]:
    """Versions that an agent never told of, but for those that a newer one replaced while it was dead."""
    heard = {e.event.version for e in events if isinstance(e.event, AgentReloaded | AgentRefused)}
    starts = [entry.time for entry in events if isinstance(entry.event, AgentStarted)]
    lost = []
    for entry, later in zip(told, [*told[1:], None], strict=True):
        born_again = next((start for start in starts if start > entry.time), None)
        replaced = later is not None and born_again is not None and later.time < born_again
        if entry.sequence not in heard and not replaced:
            lost.append(f"{agent}: {entry.sequence} is lost")
    return lost
