"""The wiring of the MLflow sink."""

from tars.consumers.mlflow_sink import MlflowSink
from tars.runtime.app import Worker
from tars.runtime.settings import Settings


def worker(settings: Settings) -> Worker:
    """Tells MLflow of studies, trials and champions. It is ready without MLflow: nobody is to wait for a sink."""

    async def tell(running: Worker) -> None:
        artefacts = settings.tars_data / "mlflow-artefacts"
        await MlflowSink(running.bus, settings.mlflow, artefacts).run()

    return Worker("mlflow", settings, tasks=(tell,))
