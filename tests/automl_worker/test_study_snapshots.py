"""Studies that start from a running agent: on a real server, from its snapshot to the evidence."""

import asyncio
import base64
from collections.abc import AsyncIterator
from hashlib import sha256

import pytest
import torch

from examples import ADA
from learners import Table
from tars.automl_worker import app, trainer_app
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.runtime.snapshots import Snapshots
from tars.schemas.agent import AgentStarted
from tars.schemas.hyperparameters import A2C
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import StartStudy, StudyEvent, StudyFailed, StudyFinished, StudyStarted, StudyStopped
from tars.schemas.trial import RunTrial, TrialCompleted

torch.set_num_threads(1)
pytestmark = pytest.mark.anyio
AGENTS = ("consensus-0", "consensus-1")
COPY = "s.consensus-0"
START = StartStudy(
    study_id="s", agents=AGENTS, start="snapshot", trials=0, candidates=({"learning_rate": 1e-4},), explain=False
)


@pytest.fixture
def tiny(settings: Settings) -> Settings:
    """Settings under which a trial lasts two episodes."""
    return settings.model_copy(update={"real_training_episodes": 2, "real_eval_episodes": 1})


@pytest.fixture
async def coordinator(bus: Bus, tiny: Settings) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(app.worker(tiny).serve(0))
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def agents(bus: Bus) -> None:
    """Two live agents of one role, which have no snapshots yet."""
    for name in AGENTS:
        started = AgentStarted(
            agent_id=name, run_id="r", role="consensus", algorithm="a2c", world=name[-1], heard_version=0,
            values=dict(A2C.game_defaults), applied_version=0,
        )  # fmt: skip
        await bus.publish(started, id=name)


async def taken(bus: Bus) -> list[SnapshotRef]:
    """Put a snapshot of each, taken at different moments, into the store."""
    table, found = Table(), []
    for episode, name in enumerate(AGENTS, 1):
        table.play(1)
        data = table.snapshot("consensus")
        ref = SnapshotRef(
            name=f"{name}.r.{episode}", agent_id=name, sha256=sha256(data).hexdigest(), episode=episode, step=8,
            version=0,
        )  # fmt: skip
        found.append(await Snapshots(bus).put(ref, data))
    return found


def started(ref: SnapshotRef) -> StudyStarted:
    return StudyStarted(
        study_id="s", by=ADA, algorithm="a2c", environment="consensus", base={ref.agent_id: 0}, trials=1, quick=False,
        incumbent=dict(A2C.game_defaults), searched=("learning_rate",), search_episodes=(1, 1), full_episodes=(1, 1),
        sampler="tpe", seed=0, structural=False, threshold=0.03, start="snapshot", snapshots=(ref,),
    )  # fmt: skip


async def ended(bus: Bus) -> StudyEvent:
    """Wait for the study's end."""
    journal, last = Journal(bus), (StudyFinished, StudyFailed, StudyStopped)
    async with asyncio.timeout(60):
        while True:
            history: History[StudyEvent] = await journal.read("study", "s")
            if history.entries and isinstance(history.events[-1], last):
                return history.events[-1]
            await asyncio.sleep(0.05)


async def held(bus: Bus) -> set[str]:
    """The names in the store."""
    info = await bus.jetstream.stream_info("OBJ_SNAPSHOTS", subjects_filter="$O.SNAPSHOTS.M.>")
    return {base64.urlsafe_b64decode(subject.rpartition(".")[2]).decode() for subject in info.state.subjects or {}}


@pytest.mark.slow
async def test_trials_of_a_study_go_on_from_its_own_copies_which_outlive_the_originals_and_end_with_it(
    bus: Bus, tiny: Settings, agents: None, coordinator: asyncio.Task[None]
) -> None:
    originals = await taken(bus)
    await AsyncClient(bus, ADA).send(START)
    snapshots = Snapshots(bus)
    async with asyncio.timeout(20):
        while await held(bus) != {*(ref.name for ref in originals), COPY, "s.consensus-1"}:
            await asyncio.sleep(0.02)
    for ref in originals:
        await snapshots.delete(ref.name)  # as its agent does, some snapshots later
    training = asyncio.create_task(trainer_app.worker(tiny).serve(0))
    finished = await ended(bus)
    training.cancel()
    await asyncio.gather(training, return_exceptions=True)
    assert isinstance(finished, StudyFinished)
    (evidence,) = finished.weighed
    assert evidence.start == "snapshot"
    assert evidence.snapshots == tuple(f"{ref.agent_id}:{ref.sha256}" for ref in originals)
    assert len(evidence.scores) >= 8
    entries = await Journal(bus).messages("TRIALS", "tars.>")
    trials = [entry.event for entry in entries if isinstance(entry.event, RunTrial)]
    assert {t.snapshot.name for t in trials if t.snapshot} == {COPY, "s.consensus-1"}
    outcomes = [entry.event for entry in entries if not isinstance(entry.event, RunTrial)]
    assert all(isinstance(outcome, TrialCompleted) for outcome in outcomes)
    async with asyncio.timeout(10):
        while await held(bus):
            await asyncio.sleep(0.05)


async def test_an_agent_without_a_snapshot_is_told_to_wait_for_one(
    bus: Bus, agents: None, coordinator: asyncio.Task[None]
) -> None:
    with pytest.raises(CommandRefused, match="consensus-0 has no snapshot yet"):
        await AsyncClient(bus, ADA).send(START)


async def test_a_study_whose_snapshot_is_gone_before_it_was_copied_fails_with_the_reason(
    bus: Bus, coordinator: asyncio.Task[None]
) -> None:
    ref = (await taken(bus))[0]
    await Snapshots(bus).delete(ref.name)
    await bus.publish(started(ref), id="e1:0")
    failed = await ended(bus)
    assert isinstance(failed, StudyFailed)
    assert failed.error.startswith("snapshot consensus-0.r.1 is gone")
    assert COPY not in await held(bus)


async def test_copies_of_a_study_that_ended_without_its_coordinator_are_deleted_by_the_next(
    bus: Bus, tiny: Settings
) -> None:
    ref = (await taken(bus))[0]
    await Snapshots(bus).copy(ref, COPY)
    await bus.publish(started(ref), id="e1:0")
    await bus.publish(StudyStopped(study_id="s", by=ADA, reason="enough"), id="e2:0")
    assert COPY in await held(bus)
    running = asyncio.create_task(app.worker(tiny).serve(0))
    async with asyncio.timeout(20):
        while COPY in await held(bus):
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert ref.name in await held(bus)
