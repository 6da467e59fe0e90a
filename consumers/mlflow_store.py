"""A store of MLflow, written so that the same record a second time changes nothing. Alone here to import mlflow."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

# MLflow reads these when it is imported: it tells its makers nothing, leaves logs and output alone, and gives up after
# seconds, for the sink asks again by itself. Who has set one knows better.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # noqa: TID251
os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # noqa: TID251
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # noqa: TID251
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # noqa: TID251
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # noqa: TID251 - seconds

import sqlalchemy
from mlflow import MlflowClient
from mlflow import entities as mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from tars.consumers.mlflow_records import Champion, Record, Run, Standing
from tars.schemas.errors import TarsError

T = TypeVar("T")

IDENTITY: Final = "tars.id"
"""Tag of each run and version: `<ledger>/<key>`; by it a record finds what was made of it before."""
POSITIONS: Final = "tars-ledger"
"""Experiment without runs, whose tags say up to where each ledger has been read."""
CONFIRMED: Final = "tars.confirmed"
"""Tag of a version whose update stands confirmed: since when, in UTC. The newest one has the alias `confirmed`."""
ALIAS: Final = "confirmed"
SQL: Final = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS: Final = ("http", "databricks")
"""Stores that say by themselves where artefacts lie."""


class MlflowAway(TarsError):
    """MLflow cannot be reached, or cannot work; the same may succeed later."""


class Unwritable(MlflowAway):
    """MLflow will never take this record; the message says why."""


@contextmanager
def _answering() -> Iterator[None]:
    """Turn whatever MLflow and what lies below it raise into one of the two errors."""
    try:
        yield
    except MlflowException as error:
        never = error.error_code == "INVALID_PARAMETER_VALUE"
        raise (Unwritable if never else MlflowAway)(_one_line(error)) from error
    except Exception as error:  # each store has errors of its own: SQLAlchemy's, requests', boto's
        raise MlflowAway(f"{type(error).__name__}: {_one_line(error)}") from error


class MlflowStore:
    """What one ledger has told MLflow. Its calls block, and raise MlflowAway."""

    @_answering()
    def __init__(self, uri: str, artefacts: Path, ledger: str) -> None:
        """artefacts: a folder for them, where the store at `uri` has no place of its own. ledger: which one tells."""
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel("CRITICAL")  # their errors are raised too, and logged by who catches them
        self._ledger = ledger
        self._experiments: dict[str, str] = {}
        self._studies: dict[str, str | None] = {}
        """By study, its run."""
        self._artefacts = None if uri.startswith(SERVERS) else artefacts.resolve().as_uri()
        if uri.startswith(SQL):
            _look_at(uri, str(self._artefacts))
        self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        self._positions = self._experiment(POSITIONS)

    @_answering()
    def position(self, stream: str) -> int:
        """Up to which sequence a stream has been told."""
        tags = self._client.get_experiment(self._positions).tags
        return int(tags.get(self._position_of(stream), "0"))

    @_answering()
    def remember(self, stream: str, sequence: int) -> None:
        """A stream has been told up to here: whoever goes on begins behind it."""
        self._client.set_experiment_tag(self._positions, self._position_of(stream), str(sequence))

    @_answering()
    def take(self, record: Record) -> None:
        """Write a record; raises Unwritable when MLflow will never take it."""
        match record:
            case Run():
                self._run(record)
            case Champion():
                self._champion(record)
            case Standing():
                self._standing(record)

    def _run(self, record: Run) -> None:
        tags = self._tags(record)
        run = self._only(record, tags)
        if run is None:
            return
        have, run_id = run.data, run.info.run_id
        params = [mlflow.Param(*item) for item in record.params.items() if item[0] not in have.params]  # never changed
        metrics = [mlflow.Metric(*item, _millis(record.ended), 0) for item in _new(record.metrics, have.metrics)]
        changed = [mlflow.RunTag(*item) for item in _new(tags, have.tags)]
        if params or metrics or changed:
            self._client.log_batch(run_id, metrics, params, changed)
        if record.ended is not None and run.info.status != record.status:
            self._client.set_terminated(run_id, record.status, _millis(record.ended))

    def _only(self, record: Run, tags: dict[str, str]) -> mlflow.Run | None:
        """The record's run, made where there is none; None: a person has deleted it, so it stays deleted.

        Nothing in MLflow forbids a second sink to make the same run at the same moment: each looks again, and both
        keep the same one.
        """
        experiment = self._experiment(record.experiment)
        found = self._runs(experiment, record.key)
        if not found:
            if self._client.get_experiment(experiment).lifecycle_stage != "active":
                return None
            self._client.create_run(experiment, start_time=_millis(record.started), tags=tags, run_name=record.key)
            found = self._runs(experiment, record.key)
        active = sorted((run for run in found if run.info.lifecycle_stage == "active"), key=_run_id)
        for other in active[1:]:
            self._client.delete_run(_run_id(other))
        return active[0] if active else None

    def _runs(self, experiment: str, key: str) -> Sequence[mlflow.Run]:
        wanted = f"tags.`{IDENTITY}` = '{self._ledger}/{key}'"
        return self._client.search_runs([experiment], wanted, run_view_type=mlflow.ViewType.ALL, max_results=20)

    def _tags(self, record: Run) -> dict[str, str]:
        tags = {**record.tags, IDENTITY: f"{self._ledger}/{record.key}"}
        if record.key != record.study_id and (parent := self._parent(record)):
            tags["mlflow.parentRunId"] = parent
        return tags

    def _parent(self, record: Run) -> str | None:
        """The run of a trial's study; trials are read beside studies, and may be ahead of theirs."""
        if record.study_id not in self._studies:
            study = Run(record.experiment, record.study_id, record.study_id, record.started)
            found = self._only(study, self._tags(study))
            self._studies[record.study_id] = _run_id(found) if found else None
        return self._studies[record.study_id]

    def _champion(self, record: Champion) -> None:
        if self._versions(record.study_id):
            return
        run = next(iter(self._runs(self._experiment(record.model), record.study_id)), None)
        if run is None or run.info.lifecycle_stage != "active":
            return
        for name, text in record.files.items():
            self._client.log_text(_run_id(run), text, f"champion/{name}")
        self._register(record.model)
        self._client.create_model_version(
            record.model, f"{run.info.artifact_uri}/champion", _run_id(run),
            tags={**record.tags, IDENTITY: f"{self._ledger}/{record.study_id}"},
        )  # fmt: skip
        for other in self._versions(record.study_id)[1:]:
            self._client.delete_model_version(other.name, other.version)

    def _register(self, model: str) -> None:
        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _standing(self, record: Standing) -> None:
        for version in self._versions(record.study_id)[:1]:
            confirmed = record.confirmed.isoformat(timespec="milliseconds") if record.confirmed else ""
            tags = {"tars.update": record.update_id, "tars.stage": record.stage, CONFIRMED: confirmed}
            for name, value in _new(tags, version.tags):
                self._client.set_model_version_tag(version.name, version.version, name, value)
            self._point_at_confirmed(version.name)

    def _point_at_confirmed(self, model: str) -> None:
        """Put the alias on the version that was confirmed last and not taken back; on none, where there is none."""
        versions = self._client.search_model_versions(f"name = '{model}'")
        standing = [version for version in versions if version.tags.get(CONFIRMED)]
        newest = max(standing, key=lambda version: version.tags[CONFIRMED], default=None)
        alias = self._client.get_registered_model(model).aliases.get(ALIAS)
        if newest is not None and str(alias) != str(newest.version):
            self._client.set_registered_model_alias(model, ALIAS, newest.version)
        elif newest is None and alias is not None:
            self._client.delete_registered_model_alias(model, ALIAS)

    def _versions(self, study_id: str) -> list[ModelVersion]:
        found = self._client.search_model_versions(f"tags.`{IDENTITY}` = '{self._ledger}/{study_id}'")
        return sorted(found, key=lambda version: int(version.version))

    def _experiment(self, name: str) -> str:
        """The id of an experiment, made where there is none."""
        if name not in self._experiments:
            self._experiments[name] = self._find_experiment(name)
        return self._experiments[name]

    def _find_experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        place = f"{self._artefacts}/{name}" if self._artefacts else None
        return str(self._client.create_experiment(name, artifact_location=place))

    def _position_of(self, stream: str) -> str:
        return f"{self._ledger} {stream}"


def _look_at(uri: str, artefacts: str) -> None:
    """Raise at once where no database answers: MLflow itself would try for minutes.

    A SQLite file that is not there is made beside its place and then put there: one that MLflow was killed over while
    it made its tables could never be opened again.
    """
    url = sqlalchemy.make_url(uri)
    if url.get_backend_name() == "sqlite" and url.database and not (place := Path(url.database)).exists():
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = place.with_name(f"{place.name}.{os.getpid()}.new")
        draft.unlink(missing_ok=True)
        SqlAlchemyStore(url.set(database=str(draft)).render_as_string(), artefacts).engine.dispose()  # type: ignore[no-untyped-call] # MLflow's
        draft.replace(place)
    engine = sqlalchemy.create_engine(url)
    engine.connect().close()
    engine.dispose()


def _new(wanted: Mapping[str, T], have: Mapping[str, object]) -> list[tuple[str, T]]:
    return [(name, value) for name, value in wanted.items() if have.get(name) != value]


def _millis(at: datetime | None) -> int:
    return int(at.timestamp() * 1000) if at else 0


def _run_id(run: mlflow.Run) -> str:
    return str(run.info.run_id)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
