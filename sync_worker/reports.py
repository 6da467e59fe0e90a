"""What the agents of a rollout report, as its watch needs it: episodes on the server's clock."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from math import inf
from typing import Any, Final

from tars.runtime.bus import Bus
from tars.runtime.journal import Entry, Journal
from tars.schemas.slots import Episode, Slot, patient_interval, slots

LOOK_BACK: Final = (timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=3), timedelta(days=3))
"""How far back episodes are sought, until there are enough."""


class Reports:
    """Episodes of some agents since a moment; `read` takes in what is new.

    versions: of these agents only what they ran with this configuration counts.
    """

    def __init__(
        self, bus: Bus, agents: Iterable[str], since: datetime, *, versions: Mapping[str, int] | None = None
    ) -> None:
        self._journal, self._since, self._versions = Journal(bus), since, versions or {}
        self._read: dict[str, list[Entry[Any]]] = {name: [] for name in agents}

    async def read(self) -> None:
        """Take in what is new; raises Transient when NATS is away."""
        await asyncio.gather(*map(self._read_one, self._read))

    async def _read_one(self, agent_id: str) -> None:
        subject, known = f"tars.report.agent.reported.*.{agent_id}", self._read[agent_id]
        if known:
            known += await self._journal.messages("REPORTS", subject, after=known[-1].sequence)
        else:
            known += await self._journal.since("REPORTS", subject, self._since)

    def episodes(self, agent_id: str) -> list[Episode]:
        """All episodes of an agent that were read, and count."""
        return [
            Episode(entry.time.timestamp(), entry.event.value)
            for entry in self._read[agent_id]
            if entry.event.version == self._versions.get(agent_id, entry.event.version)
        ]

    def settled(self, agent_id: str, end: float = inf) -> list[Episode]:
        """Its newest episodes before a moment, of one run with one configuration: no reload or restart among them."""
        entries = [entry for entry in self._read[agent_id] if entry.time.timestamp() < end]
        if not entries:
            return []
        last = entries[-1].event
        same = [entry for entry in entries if (entry.event.run_id, entry.event.version) == (last.run_id, last.version)]
        return [Episode(entry.time.timestamp(), entry.event.value) for entry in same]

    def knows_the_last_change(self, agent_id: str) -> bool:
        """Whether episodes from before its last reload or restart were read: further back is nothing of use."""
        return len(self.settled(agent_id)) < len(self._read[agent_id])

    def diverged(self, agents: Iterable[str]) -> bool:
        """Whether any of these has reported a parameter that is not finite."""
        return any(not entry.event.finite for name in agents for entry in self._read[name])

    def slots(self, agent_id: str, start: float, width: float, count: int, pause: int = 0) -> tuple[Slot, ...]:
        """What it scored in the slots from `start` on; once it is silent for long, that counts as failed.

        pause: empty slots in a row that it had before, at most.
        """
        episodes = self.episodes(agent_id)
        return slots(episodes, start, width, count, interval=patient_interval(episodes, width, pause))

    def window(self, agent_id: str, end: float, width: float, count: int) -> tuple[Slot, ...]:
        """What it scored in the `count` slots before `end`, from its last reload or restart on."""
        return slots(self.settled(agent_id, end), end - count * width, width, count)


async def recent(
    bus: Bus, agents: Sequence[str], now: datetime, lacking: Callable[[Reports], Collection[str]]
) -> Reports:
    """Read as far back as it takes until none is `lacking` but for its last change, at most three days."""
    for back in LOOK_BACK[:-1]:
        reports = Reports(bus, agents, now - back)
        await reports.read()
        if all(map(reports.knows_the_last_change, lacking(reports))):
            return reports
    reports = Reports(bus, agents, now - LOOK_BACK[-1])
    await reports.read()
    return reports
