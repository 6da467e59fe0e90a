"""Snapshots of hosted agents on their way into the object store: taken by a world's thread, put from the event loop."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Protocol

from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.snapshots import KEPT, NoSnapshot, Snapshots
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
    before: int | None = None
    """The configuration that was about to come into use; None: none was."""

    def ref(self, run_id: str) -> SnapshotRef:
        """Name it."""
        last = str(self.episode) if self.before is None else f"v{self.before}"
        return SnapshotRef(
            name=f"{self.agent_id}.{run_id}.{last}",
            agent_id=self.agent_id,
            sha256=sha256(self.data).hexdigest(),
            episode=self.episode,
            step=self.step,
            version=self.version,
        )


def is_due(episodes: int) -> bool:
    """Say whether a snapshot is taken after so many episodes."""
    return episodes == FIRST_SNAPSHOT or (episodes > 0 and episodes % SNAPSHOT_EVERY == 0)


class Keeps(Protocol):
    """Where an agent's snapshots are kept."""

    async def store(self, run_id: str, taken: Taken) -> SnapshotRef | None:
        """Keep it; None: it could not be kept."""

    async def get(self, ref: SnapshotRef) -> bytes:
        """Read it; raises NoSnapshot when it is gone or altered, Transient while it cannot be read."""


class Keeper:
    """Stores what is taken. Of an agent that is faster than the store, the newest counts; nobody waits for it."""

    def __init__(self, bus: Bus) -> None:
        self._snapshots, self._loop = Snapshots(bus), asyncio.get_running_loop()
        self._waiting: dict[str, tuple[str, Taken]] = {}
        """Agent -> (its run, what was taken last)."""
        self._arrived = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        """What is being put is not yet whole, and pruning would take it for a remnant."""
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
                await self.store(*self._waiting.pop(agent_id))
                end_if_cancelled()

    async def store(self, run_id: str, taken: Taken) -> SnapshotRef | None:
        """Put it, and delete the agent's oldest; None: it could not be put, and is left to the next one."""
        ref = taken.ref(run_id)
        try:
            async with self._one_at_a_time:
                await self._snapshots.put(ref, taken.data)
                await self._snapshots.prune(taken.agent_id)
        except Transient as error:
            if not self._fails:  # once for an outage, not for each agent and snapshot
                log.warning("snapshots are not stored", extra={"agent": taken.agent_id, "error": str(error)})
            self._fails = True
            return None
        self._fails = False
        return ref

    async def get(self, ref: SnapshotRef) -> bytes:
        """Read a snapshot from the store."""
        return await self._snapshots.get(ref)


class DiskKeeper:
    """Keeps an attached agent's snapshots in a folder of its own while its process runs: they leave it for nobody."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="tars-", ignore_cleanup_errors=True)
        self._names: deque[str] = deque()

    async def store(self, run_id: str, taken: Taken) -> SnapshotRef | None:
        """Write it, and delete the oldest; None: the disk would not take it."""
        ref = taken.ref(run_id)
        try:
            await asyncio.to_thread(self._path(ref.name).write_bytes, taken.data)
        except OSError as error:
            log.warning("a snapshot is not stored", extra={"agent": taken.agent_id, "error": str(error)})
            return None
        self._names.append(ref.name)
        while len(self._names) > KEPT:
            self._path(self._names.popleft()).unlink(missing_ok=True)
        return ref

    async def get(self, ref: SnapshotRef) -> bytes:
        """Read it; raises NoSnapshot."""
        try:
            data = await asyncio.to_thread(self._path(ref.name).read_bytes)
        except OSError as error:
            raise NoSnapshot(f"snapshot {ref.name} is gone: the last {KEPT} of a run are kept") from error
        if sha256(data).hexdigest() != ref.sha256:
            raise NoSnapshot(f"snapshot {ref.name} was altered: its sha256 is not {ref.sha256[:12]}...")
        return data

    def close(self) -> None:
        """Delete them all."""
        self._folder.cleanup()

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name
