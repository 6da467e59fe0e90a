"""Workers as real processes, killed at random, seeded moments; and the account of what became of every message."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.schemas.trial import RunTrial
from tars.schemas.update import (
    UpdateConfirmed,
    UpdateFailed,
    UpdateRefused,
    UpdateRejected,
    UpdateRolledBack,
    UpdateSuperseded,
)

UPDATE_ENDS = (UpdateConfirmed, UpdateFailed, UpdateRefused, UpdateRejected, UpdateRolledBack, UpdateSuperseded)


class Herd:
    """Processes of `tars run <role>`; one that is killed is replaced at once."""

    def __init__(self, environment: dict[str, str], log: Path, seed: int) -> None:
        self._environment = os.environ | environment
        self._log = log.open("ab")
        self._random = random.Random(seed)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.kills: Counter[str] = Counter()

    async def start(self, name: str) -> None:
        """Start a worker; `name` is its role, with a number behind a dash where there are several."""
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tars", "run", name.partition("-")[0], "--port", "0",
            env=self._environment, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    async def kill(self, name: str) -> None:
        """Kill one worker with SIGKILL and start its successor."""
        process = self._processes[name]
        process.send_signal(signal.SIGKILL)
        await process.wait()
        self.kills[name.partition("-")[0]] += 1
        await self.start(name)

    def name_of(self, holder: str) -> str | None:
        """The worker that calls itself so in its messages, if it still lives."""
        pid = int(holder.rsplit("-", 2)[1])
        return next((name for name, process in self._processes.items() if process.pid == pid), None)

    async def kill_some(self, names: Sequence[str], count: int, every: tuple[float, float]) -> None:
        """Kill workers one after the other, which and when by the seed."""
        for _ in range(count):
            await asyncio.sleep(self._random.uniform(*every))
            await self.kill(self._random.choice(names))

    async def stop(self) -> None:
        """End them all."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self._log.close()


@dataclass
class Account:
    """What the streams say became of everything that was sent."""

    doubled_events: list[str] = field(default_factory=list)
    """Event ids that are stored more than once."""
    unanswered: list[str] = field(default_factory=list)
    """Commands without any event or answer."""
    unfinished: list[str] = field(default_factory=list)
    """Updates that have not ended."""
    ends: Counter[str] = field(default_factory=Counter)
    """By update, the ends that are stored: one each."""
    configurations: Counter[str] = field(default_factory=Counter)
    """By (update, agent, purpose), the configurations that are stored: one each."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """By trial, the outcomes that are stored: one each."""
    asked: Counter[str] = field(default_factory=Counter)
    """By trial, how often it was asked: once."""
    waiting: int = 0
    dead: int = 0


async def account(bus: Bus, commands: Sequence[str], answered: set[str]) -> Account:
    """Read all streams and count."""
    journal, found = Journal(bus), Account()
    events = await journal.messages("EVENTS", "tars.event.>")
    ids = Counter(entry.id for entry in events)
    found.doubled_events = [name for name, times in ids.items() if times > 1]
    causes = {entry.id.rpartition(":")[0] for entry in events}
    found.unanswered = [command for command in commands if command not in causes | answered]
    updates = {e.event.update_id for e in events if e.event.noun == "update"}
    found.ends = Counter(e.event.update_id for e in events if isinstance(e.event, UPDATE_ENDS))
    found.unfinished = sorted(updates - set(found.ends))
    stored = await journal.messages("AGENTS", "tars.command.agent.>")
    found.configurations = Counter(entry.id for entry in stored)
    for entry in await journal.messages("TRIALS", "tars.>"):
        counter = found.asked if isinstance(entry.event, RunTrial) else found.outcomes
        counter[entry.event.key] += 1
    found.waiting = (await bus.stream("COMMANDS")).state.messages
    found.dead = (await bus.stream("DEAD")).state.messages
    return found
