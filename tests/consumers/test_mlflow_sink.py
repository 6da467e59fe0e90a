"""The MLflow sink on a real nats-server and a real SQLite store: each trial one run, whatever dies or is away."""

import asyncio
import logging
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import IO, Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from examples import ADA, CHAMPION, EVIDENCE, EXAMPLES, HOLDER, STUDY
from tars.automl_worker import app, trainer_app
from tars.consumers.mlflow_sink import MlflowSink
from tars.consumers.mlflow_store import MlflowStore
from tars.producers.async_client import AsyncClient
from tars.runtime.app import Worker
from tars.runtime.bus import Bus
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.message import Message
from tars.schemas.streams import DURABLES
from tars.schemas.study import StartStudy, StudyFinished
from tars.schemas.trial import TrialCompleted, TrialFailed, TrialPruned

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PATIENCE = 60.0
"""Seconds until a sink that does not catch up fails its test."""
MODEL = "tars-dqn-policy"
TINY = {"quick_mode_train_episodes": 1, "quick_mode_eval_episodes": 1} | {
    "real_training_episodes": 1, "real_eval_episodes": 1,
}  # fmt: skip


def kinds(*names: str) -> list[Message]:
    """Examples, in this order."""
    return [EXAMPLES[name] for name in names]


def trials(numbers: Sequence[int]) -> list[Message]:
    """Trials that were asked for, and their outcomes of every sort."""
    found: list[Message] = []
    for number in numbers:
        place: dict[str, Any] = {"study_id": STUDY, "number": number}
        found.append(EXAMPLES["trial.run.v1"].model_copy(update=place))
        found.append(
            TrialCompleted(**place, score=number / 100, cpu_seconds=0.5, holder=HOLDER) if number % 3
            else TrialFailed(**place, error="it diverged", holder=HOLDER) if number % 2
            else TrialPruned(**place, score=0.1, episode=20, cpu_seconds=0.25, holder=HOLDER)
        )  # fmt: skip
    return found


async def publish(bus: Bus, messages: Sequence[Message]) -> None:
    """Store them, one after the other."""
    for message in messages:
        at = (await bus.stream("EVENTS")).state.last_seq
        await bus.publish(message, id=f"{message.kind}-{message.key}-{at}", by=ADA)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, which take a second to make."""
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowStore(f"sqlite:///{folder / 'mlflow.db'}", folder / "artefacts", "nobody")
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    """A store of this test's own."""
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


def sink(bus: Bus, uri: str, folder: Path) -> MlflowSink:
    return MlflowSink(bus, uri, folder / "artefacts")


@asynccontextmanager
async def running(*sinks: MlflowSink) -> AsyncIterator[None]:
    """Sinks that work inside the block, and are cut off at its end."""
    tasks = [asyncio.create_task(one.run()) for one in sinks]
    try:
        yield
        assert not any(task.done() for task in tasks), "a sink ended"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def a_process(nats: Server, data: Path, log: IO[bytes]) -> AsyncIterator[None]:
    """`tars run mlflow` as a program, killed with SIGKILL at the end of the block."""
    environment = os.environ | {"NATS_URL": nats.url, "TARS_DATA": str(data), "MLFLOW_TRACKING_URI": ""}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tars", "run", "mlflow", "--port", "0", env=environment, stdout=log, stderr=log
    )
    try:
        yield
    finally:
        child.kill()
        await child.wait()


def made_runs(data: Path) -> int:
    """How many runs its store holds, asked quickly; 0 while there is no store."""
    try:
        with closing(sqlite3.connect(f"file:{data / 'mlflow.db'}?mode=ro", uri=True)) as store:
            return int(store.execute("SELECT count(*) FROM runs").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(true):
            await asyncio.sleep(0.02)


async def caught_up(bus: Bus, uri: str) -> None:
    """Wait until MLflow says that it has heard all there is."""
    last = {stream: (await bus.stream(stream)).state.last_seq for stream in ("EVENTS", "TRIALS")}
    await until(lambda: positions(uri) == last)


def positions(uri: str) -> dict[str, int]:
    """How far each stream was told."""
    tags = MlflowClient(uri, uri).get_experiment_by_name("tars-ledger")
    found = {} if tags is None else {name.split()[1]: int(at) for name, at in tags.tags.items() if " " in name}
    return {"EVENTS": 0, "TRIALS": 0} | found


def forget_positions(uri: str) -> None:
    """As if nothing had been told."""
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("tars-ledger")
    assert experiment is not None
    for name in experiment.tags:
        client.set_experiment_tag(experiment.experiment_id, name, "0")


def told(uri: str) -> list[dict[str, Any]]:
    """All that the store's runs hold, as plain data, by key."""
    client = MlflowClient(uri, uri)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments, run_view_type=ViewType.ACTIVE_ONLY, max_results=5000)
    found = [
        {
            "key": run.data.tags["tars.id"].partition("/")[2], "run": run.info.run_id, "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time), "params": run.data.params, "metrics": run.data.metrics,
            "tags": run.data.tags,
        }
        for run in runs
    ]  # fmt: skip
    return sorted(found, key=lambda run: (run["key"], run["run"]))


def keys(uri: str) -> list[str]:
    return [run["key"] for run in told(uri)]


def versions(uri: str) -> list[dict[str, Any]]:
    """What the store's registered model holds."""
    client = MlflowClient(uri, uri)
    found = [client.get_model_version(v.name, v.version) for v in client.search_model_versions(f"name = '{MODEL}'")]
    return sorted(({"version": int(v.version), "tags": v.tags, "aliases": list(v.aliases)} for v in found), key=str)


async def test_the_same_ledger_twice_is_the_same_runs_and_versions(bus: Bus, uri: str, tmp_path: Path) -> None:
    await publish(bus, kinds("study.started.v1"))
    await publish(bus, trials(range(8)))
    await publish(bus, kinds("study.finished.v1", "update.proposed.v1", "update.confirmed.v1"))
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    once = told(uri), versions(uri)
    forget_positions(uri)
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    assert (told(uri), versions(uri)) == once
    assert keys(uri) == [STUDY, *(f"{STUDY}.{number}" for number in range(8))]


async def test_trials_are_nested_in_their_study_and_stand_as_they_ended(bus: Bus, uri: str, tmp_path: Path) -> None:
    await publish(bus, trials(range(4)))  # before their study: two streams have no common order
    await publish(bus, [EXAMPLES["trial.run.v1"].model_copy(update={"number": 9})])
    await publish(bus, kinds("study.started.v1"))
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    study, *rest = told(uri)
    assert [run["status"] for run in rest] == ["KILLED", "FINISHED", "FINISHED", "FAILED", "RUNNING"]
    assert {run["tags"]["mlflow.parentRunId"] for run in rest} == {study["run"]}
    assert study["params"]["sampler"] == "tpe"
    assert rest[1]["metrics"] == {"score": 0.01, "cpu_seconds": 0.5}
    assert rest[3]["tags"]["tars.error"] == "it diverged"


async def test_a_champion_is_a_version_that_says_what_became_of_its_update(bus: Bus, uri: str, tmp_path: Path) -> None:
    await publish(bus, kinds("study.started.v1", "study.finished.v1", "update.proposed.v1", "update.approved.v1"))
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
        (version,) = versions(uri)
        wanted = {"tars.study": STUDY, "tars.update": "u-s-17", "tars.stage": "approved", "tars.verdict": "BETTER"}
        assert (wanted | {"tars.evidence": EVIDENCE.digest()}).items() <= version["tags"].items()
        await publish(bus, kinds("update.confirmed.v1"))
        await caught_up(bus, uri)
        (version,) = versions(uri)
        assert (version["tags"]["tars.stage"], version["aliases"]) == ("confirmed", ["confirmed"])
        await publish(bus, kinds("update.roll-back-requested.v1", "update.rolled-back.v1"))
        await caught_up(bus, uri)
    (version,) = versions(uri)
    assert (version["tags"]["tars.stage"], version["aliases"]) == ("rolled back", [])


async def test_a_version_leads_to_its_hyperparameters_and_its_evidence(bus: Bus, uri: str, tmp_path: Path) -> None:
    await publish(bus, kinds("study.started.v1", "study.finished.v1"))
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    client = MlflowClient(uri, uri)
    folder = Path(client.get_model_version_download_uri(MODEL, "1").removeprefix("file://"))
    assert EVIDENCE.model_validate_json((folder / "evidence.json").read_text()) == EVIDENCE
    assert StudyFinished.model_validate_json((folder / "study.json").read_text()).champion == CHAMPION
    assert folder.is_relative_to(tmp_path / "artefacts")


async def test_the_alias_goes_back_to_the_version_confirmed_before(bus: Bus, uri: str, tmp_path: Path) -> None:
    """Also when all is told again from the beginning, with both updates already over."""
    for study, update in ((STUDY, "u-s-17"), ("s-18", "u-s-18")):
        for message in kinds("study.started.v1", "study.finished.v1", "update.proposed.v1", "update.confirmed.v1"):
            change = {"study_id": study} if message.noun == "study" else {"update_id": update}
            named = {"study_id": study} if "study_id" in type(message).model_fields else {}
            await publish(bus, [message.model_copy(update=change | named)])
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
        assert [version["aliases"] for version in versions(uri)] == [[], ["confirmed"]]
        await publish(bus, [EXAMPLES["update.rolled-back.v1"].model_copy(update={"update_id": "u-s-18"})])
        await caught_up(bus, uri)
    assert [version["aliases"] for version in versions(uri)] == [["confirmed"], []]
    forget_positions(uri)
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    assert [version["aliases"] for version in versions(uri)] == [["confirmed"], []]


async def test_what_a_person_deleted_in_mlflow_stays_deleted(bus: Bus, uri: str, tmp_path: Path) -> None:
    await publish(bus, kinds("study.started.v1"))
    await publish(bus, trials(range(3))[:-1])  # the last one is still running
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
        MlflowClient(uri, uri).delete_run(told(uri)[-1]["run"])
        await publish(bus, trials(range(3))[-1:])
        await caught_up(bus, uri)
    assert keys(uri) == [STUDY, f"{STUDY}.0", f"{STUDY}.1"]


async def test_what_nobody_can_read_or_mlflow_does_not_take_is_left_out_alone(
    bus: Bus, uri: str, tmp_path: Path
) -> None:
    strange = EXAMPLES["trial.run.v1"].model_copy(update={"number": 7, "hyperparameters": {"what is this?!": 1}})
    await bus.client.publish("tars.event.study.started.v1.s-16", b"{")
    await publish(bus, [*kinds("study.started.v1"), strange, *trials([8])])
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    assert {STUDY, f"{STUDY}.8"} <= set(keys(uri))


async def test_two_sinks_at_once_make_one_run_of_each_trial(bus: Bus, uri: str, tmp_path: Path) -> None:
    async with running(*(sink(bus, uri, tmp_path) for _ in range(2))):
        await publish(bus, kinds("study.started.v1"))
        await publish(bus, trials(range(12)))
        await publish(bus, kinds("study.finished.v1"))
        await caught_up(bus, uri)
        await asyncio.sleep(1)  # the slower one, too
    assert keys(uri) == sorted([STUDY, *(f"{STUDY}.{number}" for number in range(12))])
    assert len(versions(uri)) == 1


async def test_the_server_keeps_nothing_for_a_sink(bus: Bus, uri: str, tmp_path: Path) -> None:
    """A durable that nobody works on would grow for ever, and alarm people."""
    await publish(bus, kinds("study.started.v1"))
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
        for stream in ("EVENTS", "TRIALS"):
            names = {info.name for info in await bus.jetstream.consumers_info(stream)}
            assert names <= {durable.name for durable in DURABLES.values()}


async def test_a_sink_that_is_killed_again_and_again_ends_with_one_run_of_each_trial(
    bus: Bus, nats_server: Server, tmp_path: Path
) -> None:
    """From the first moment on, when MLflow makes its tables."""
    dice, data = random.Random(11), tmp_path / "data"
    uri = f"sqlite:///{data / 'mlflow.db'}"
    await publish(bus, kinds("study.started.v1"))
    await publish(bus, trials(range(60)))
    with (tmp_path / "sink.log").open("ab") as log:
        async with a_process(nats_server, data, log):
            await until(lambda: any(data.glob("*.new")))
        goals = [made + dice.randrange(8) for made in range(4, 44, 10)]
        for goal in goals:
            async with a_process(nats_server, data, log):
                await until(lambda goal=goal: made_runs(data) >= goal)  # type: ignore[misc]
        assert made_runs(data) < 50, "it was killed too late to be in the middle"
        async with a_process(nats_server, data, log):
            await caught_up(bus, uri)
    assert keys(uri) == sorted([STUDY, *(f"{STUDY}.{number}" for number in range(60))])
    assert "RUNNING" not in {run["status"] for run in told(uri)[1:]}


async def test_a_store_that_is_away_is_said_once_and_told_later(
    bus: Bus, empty_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tars.consumers.mlflow_sink.FIRST_RETRY", 0.05)
    monkeypatch.setattr("tars.consumers.mlflow_sink.LONGEST_RETRY", 0.2)
    place = tmp_path / "store"
    place.write_text("no folder, so nothing can be put into it")
    uri = f"sqlite:///{place / 'mlflow.db'}"
    await publish(bus, kinds("study.started.v1"))
    await publish(bus, trials(range(3)))
    with caplog.at_level(logging.INFO, logger="tars"):
        async with running(sink(bus, uri, tmp_path)):
            await asyncio.sleep(2)
            place.unlink()
            place.mkdir()
            shutil.copy(empty_store, place / "mlflow.db")
            await caught_up(bus, uri)
    said = [record.getMessage() for record in caplog.records if record.name.endswith("mlflow_sink")]
    assert said == ["MLflow is away: it is told later", "MLflow is back"]
    assert len(keys(uri)) == 4


async def test_a_study_takes_its_course_while_mlflow_cannot_be_reached(
    bus: Bus, settings: Settings, uri: str, tmp_path: Path
) -> None:
    tiny = settings.model_copy(update=TINY)
    workers: list[Worker] = [app.worker(tiny), trainer_app.worker(tiny)]
    tasks = [asyncio.create_task(worker.serve(0)) for worker in workers]
    client = AsyncClient(bus, ADA)
    try:
        async with running(sink(bus, "http://127.0.0.1:1", tmp_path)), asyncio.timeout(PATIENCE):
            await client.send(StartStudy(study_id="s", algorithm="dqn", trials=6, quick=True))
            last = [e async for e in client.follow("study", "s", lambda e: isinstance(e, StudyFinished))][-1]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(last, StudyFinished)
    async with running(sink(bus, uri, tmp_path)):
        await caught_up(bus, uri)
    study, *rest = told(uri)
    assert study["metrics"]["completed"] == last.completed == 6
    assert len({run["key"] for run in rest}) == len(rest) >= 6
    assert {run["status"] for run in rest} == {"FINISHED"}
