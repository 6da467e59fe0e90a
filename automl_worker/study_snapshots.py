"""What a study's trials start from, kept while it runs: its agents make newer snapshots and throw the old ones away."""

import asyncio

from tars.automl_worker.study import replay
from tars.runtime.bus import Bus
from tars.runtime.leases import Lease
from tars.runtime.snapshots import NoSnapshot, Snapshots
from tars.schemas.snapshot import copied
from tars.schemas.study import StudyEvent, StudyFailed, StudyStarted


async def copy_snapshots(bus: Bus, lease: Lease[StudyEvent], started: StudyStarted) -> None:
    """Copy what a study was pinned to, unless that is done; where one is gone the study fails with the reason."""
    snapshots = Snapshots(bus)
    try:
        for ref in started.snapshots:
            await snapshots.copy(ref, copied(started.study_id, ref).name)
    except NoSnapshot as error:
        failed = StudyFailed(study_id=started.study_id, error=str(error))
        await lease.append(lambda history: [] if replay(history.events).ended else [failed])


async def delete_copies(bus: Bus, started: StudyStarted) -> None:
    """Delete them when the study has ended; those that are gone are no error."""
    snapshots = Snapshots(bus)
    await asyncio.gather(*(snapshots.delete(copied(started.study_id, ref).name) for ref in started.snapshots))
