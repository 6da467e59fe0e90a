"""The sync worker's wiring."""

from tars.runtime.app import Worker
from tars.runtime.leases import hold, holder_name
from tars.runtime.settings import Settings
from tars.schemas.effect import Plan
from tars.sync_worker.handlers import router
from tars.sync_worker.rollout import Rollout


def worker(settings: Settings) -> Worker:
    """Decides commands about updates, proposes champions and runs rollouts."""

    async def run_rollouts(running: Worker) -> None:
        rollout = Rollout(running.bus, plan=Plan(length=settings.watch_episodes))
        await hold(running.bus, "run-rollout", holder_name(), rollout, ack_wait=settings.ack_wait_seconds)

    return Worker(
        "sync",
        settings,
        durables=("update-command", "propose-champion", "run-rollout"),
        routers=(router,),
        tasks=(run_rollouts,),
    )
