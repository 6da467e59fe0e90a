"""Snapshots of hosted agents on their way into the object store: taken by a world's thread, put from the event loop."""

import asyncio
import logging
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.snapshots import Snapshots
from tars.schemas.errors import Transient
from tars.schemas.snapshot import SnapshotRef

log = logging.getLogger(__name__)

SNAPSHOT_EVERY: Final = 50
"""Episodes between two snapshots of an agent."""
FIRST_SNAPSHOT: Final = 5
"""Episodes before the first one, so that a study can start from a new agent soon."""


@dataclass(frozen=True)
class Taken:
    """An agent's lane as it was between two episodes."""

    agent_id: str
    episode: int
    """Episodes that it had finished."""
    step: int
    """Gradient steps done."""
    version: int
    """The configuration it ran."""
    data: bytes


def is_due(episodes: int) -> bool:
    """Say whether a snapshot is taken after so many episodes."""
    return episodes == FIRST_SNAPSHOT or (episodes > 0 and episodes % SNAPSHOT_EVERY == 0)


class Keeper:
    """Stores what is taken. Of an agent that is faster than the store, the newest counts; nobody waits for it."""

    def __init__(self, bus: Bus) -> None:
        self._snapshots, self._loop = Snapshots(bus), asyncio.get_running_loop()
        self._waiting: dict[str, tuple[str, Taken]] = {}
        """Agent -> (its run, what was taken last)."""
        self._arrived = asyncio.Event()
        self._fails = False

    def keep(self, run_id: str, taken: Taken) -> None:
        """Store it soon; returns at once, from whatever thread."""
        self._loop.call_soon_threadsafe(self._arrive, run_id, taken)

    def _arrive(self, run_id: str, taken: Taken) -> None:
        self._waiting[taken.agent_id] = run_id, taken
        self._arrived.set()

    async def run(self) -> None:
        """Store what arrives, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                agent_id = next(iter(self._waiting))
                await self._store(*self._waiting.pop(agent_id))
                end_if_cancelled()

    async def _store(self, run_id: str, taken: Taken) -> None:
        """Put it, and delete the agent's oldest; what cannot be put is left to the next one."""
        ref = SnapshotRef(
            name=f"{taken.agent_id}.{run_id}.{taken.episode}",
            agent_id=taken.agent_id,
            sha256=sha256(taken.data).hexdigest(),
            episode=taken.episode,
            step=taken.step,
            version=taken.version,
        )
        try:
            await self._snapshots.put(ref, taken.data)
            await self._snapshots.prune(taken.agent_id)
        except Transient as error:
            if not self._fails:  # once for an outage, not for each agent and snapshot
                log.warning("snapshots are not stored", extra={"agent": taken.agent_id, "error": str(error)})
            self._fails = True
        else:
            self._fails = False
