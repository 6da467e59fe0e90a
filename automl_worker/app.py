"""The coordinator's wiring."""

from tars.automl_worker.coordinator import Coordinator
from tars.automl_worker.handlers import router
from tars.runtime.app import Worker
from tars.runtime.leases import hold, holder_name
from tars.runtime.settings import Settings


def worker(settings: Settings) -> Worker:
    """Decides commands about studies, and runs studies."""

    async def run_studies(running: Worker) -> None:
        coordinator = Coordinator(running.bus)
        await hold(running.bus, "run-study", holder_name(), coordinator, ack_wait=settings.ack_wait_seconds)

    return Worker(
        "coordinator",
        settings,
        durables=("study-command", "run-study"),
        buckets=("SNAPSHOTS",),
        routers=(router,),
        tasks=(run_studies,),
    )
