"""The agents of a rollout: tells each what to run, once, and hears what it says."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.journal import Entry, History, Journal
from tars.runtime.leases import Lease
from tars.schemas.agent import AgentEvent, ConfigureAgent
from tars.schemas.errors import Conflict, Poison
from tars.schemas.streams import configure_subject, history_subject
from tars.schemas.update import UpdateEvent, UpdateJudged, UpdateReloaded, UpdateRollBackRequested, UpdateStarted
from tars.sync_worker.lifecycle import Stage, replay
from tars.sync_worker.observing import Pulse
from tars.sync_worker.reload import Expected, expire

POLL_SECONDS = 1.0
"""The bell can ring before an event is readable, and a core message can be lost: look again this often."""


@dataclass(frozen=True)
class Fleet:
    """Agents on the bus; the limits are how long one may take, in seconds."""

    bus: Bus
    accept_seconds: float = 10.0
    apply_seconds: float = 1800.0
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        """Read agents' events over the same connection."""
        object.__setattr__(self, "journal", Journal(self.bus))

    async def configurations(self, agent_id: str, *, after: int, reach: int) -> tuple[Entry[Any], ...]:
        """What an agent was told after one of the last 64 times; `reach` as the journal has it."""
        return await self.journal.messages("AGENTS", configure_subject(agent_id), after=after, reach=reach)

    async def newest(self, agent_id: str) -> tuple[int, str]:
        """Version and id of what it was told last; (0, "") if nothing."""
        found = await self.bus.last("AGENTS", configure_subject(agent_id))
        return found[:2] if found else (0, "")

    async def send(self, command: ConfigureAgent, message_id: str) -> int:
        """Store a configuration once, however often this is tried; return its version, or raise Conflict: it moved."""
        try:
            return await self.bus.publish(
                command, id=message_id, after=(configure_subject(command.agent_id), command.base)
            )
        except Conflict as conflict:
            version, rival = await self.newest(command.agent_id)
            if rival == message_id:
                return version
            raise Conflict(f"its base moved: it was configured by {rival or 'nobody'} meanwhile") from conflict

    async def listen(
        self, lease: Lease[UpdateEvent], expected: Mapping[str, Expected], *, enough: Callable[[], bool]
    ) -> None:
        """Hear the agents until each has settled or let its limit pass, or the update's stage is another."""
        clock, stage = asyncio.get_running_loop().time, stage_of(lease.history)
        began, pulse = clock(), Pulse(self.bus, list(expected))
        heard = [history_subject("update", lease.key), *(history_subject("agent", name) for name in expected)]
        async with Bell.on(self.bus, *heard) as bell:
            while True:
                bell.clear()
                await self._read(expected)
                expire(expected.values(), clock() - began, self.accept_seconds, self.apply_seconds)
                await self._write_off(lease.key, expected, pulse)
                if all(found.settled for found in expected.values()) or enough():
                    return
                if stage_of(await lease.follow()) is not stage:
                    return
                await bell.wait(min(POLL_SECONDS, self.accept_seconds / 4))

    async def _read(self, expected: Mapping[str, Expected]) -> None:
        async def one(name: str, found: Expected) -> None:
            try:
                new: History[AgentEvent] = await self.journal.read("agent", name, after=found.read_up_to)
            except Poison as error:  # its history, not ours: the others go on
                found.failure = f"its events cannot be read: {error}"
                return
            found.read_up_to = new.version or found.read_up_to
            found.hear(new.events)

        await asyncio.gather(*(one(name, found) for name, found in expected.items() if not found.settled))

    async def _write_off(self, update_id: str, expected: Mapping[str, Expected], pulse: Pulse) -> None:
        for name, seconds in (await pulse.lost()).items():
            if not expected[name].settled:
                await pulse.write_off(name, update_id, seconds)
                expected[name].failure = f"it is lost: not a word for {seconds:.0f} s"


def stage_of(history: History[UpdateEvent]) -> Stage:
    """How far the update has come."""
    return replay(history.events).stage


def asked_back_at(history: History[UpdateEvent]) -> int:
    """Where the answers to a way back begin: one that came too late for an earlier way back counts, too."""
    asked = (entry.sequence for entry in history.entries if isinstance(entry.event, UpdateRollBackRequested))
    return min(asked, default=answers_since(history))


def answers_since(history: History[UpdateEvent]) -> int:
    """Where the agents' answers begin: they come after the step that the configurations follow."""
    steps = (UpdateStarted, UpdateReloaded, UpdateJudged, UpdateRollBackRequested)
    return max((entry.sequence for entry in history.entries if isinstance(entry.event, steps)), default=0)
