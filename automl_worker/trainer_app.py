"""The trainer's wiring; the only process beside the agents that needs torch."""

from tars.automl_worker.trainer import DURABLE, Trainer
from tars.runtime.app import Worker
from tars.runtime.settings import Settings


def worker(settings: Settings) -> Worker:
    """Trains trials."""

    async def train(running: Worker) -> None:
        await Trainer(running.bus, settings.ack_wait_seconds, settings.callable_trainers).run()

    return Worker("trainer", settings, durables=(DURABLE,), buckets=("SNAPSHOTS",), tasks=(train,))
