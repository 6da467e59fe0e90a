"""What a coordinator and a trainer make of what others left behind: gaps, garbage, and a broker that was away."""

import asyncio
from pathlib import Path

import pytest

from examples import ADA, HOLDER
from tars.automl_worker import app
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import Trials, plan
from tars.automl_worker.steps import Ask
from tars.automl_worker.trainer import Trainer
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import History, Journal
from tars.runtime.leases import RESUMPTIONS, is_exhausted
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats
from tars.runtime.settings import Settings
from tars.schemas.hyperparameters import DQN
from tars.schemas.study import StudyEvent, StudyFailed, StudyFinished, StudyResumed, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted


def started(trials: int = 6, **changes: object) -> StudyStarted:
    fields = {
        "study_id": "s", "by": ADA, "algorithm": "dqn", "environment": "policy", "base": {},
        "incumbent": dict(DQN.game_defaults), "searched": tuple(DQN.game_search), "trials": trials, "quick": True,
        "search_episodes": (1, 1), "full_episodes": (1, 1), "sampler": "random", "seed": 1, "structural": False,
        "threshold": 0.03,
    }  # fmt: skip
    return StudyStarted.model_validate({**fields, **changes})


def completed(trial: RunTrial) -> TrialCompleted:
    return TrialCompleted(study_id="s", number=trial.number, score=0.5, cpu_seconds=0, holder=HOLDER)


def test_a_batch_of_which_a_dead_holder_asked_only_some_is_filled_up_with_what_it_would_have_asked() -> None:
    """Trials 0 and 3 are stored, 1 and 2 are not: every number is asked in the end, none twice."""
    study, board = started(sampler="tpe"), Board()
    first = plan(study, board)
    assert isinstance(first, Ask)
    for trial in (first.trials[0], first.trials[3]):
        board.asked[trial.number], board.outcomes[trial.number] = trial, completed(trial)
    step = plan(study, board)
    assert isinstance(step, Ask)
    assert step.trials == first.trials[1:3]


async def tell(bus: Bus, trials: Trials) -> None:
    """Answer all that was asked, as a trainer would."""
    for trial in (await trials.read()).asked.values():
        if trial.number not in trials.board.outcomes:
            await bus.publish(completed(trial), id=f"{trial.key}.outcome")


@pytest.mark.anyio
async def test_a_trial_that_cannot_be_read_counts_as_failed_and_the_study_goes_on(bus: Bus, settings: Settings) -> None:
    await bus.jetstream.publish("tars.command.trial.run.v1.s.2", b"{", stream="TRIALS")
    await bus.publish(started(), id="e1:0")
    running = asyncio.create_task(app.worker(settings).serve(0))
    trials, journal = Trials(bus, "s"), Journal(bus)
    async with asyncio.timeout(20):
        while True:
            await tell(bus, trials)
            history: History[StudyEvent] = await journal.read("study", "s")
            if isinstance(history.events[-1], StudyFinished):
                break
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (history.events[-1].completed, history.events[-1].failed) == (5, 1)


@pytest.mark.anyio
async def test_a_study_whose_trials_go_on_is_not_given_up_however_often_its_coordinators_die(bus: Bus) -> None:
    await bus.publish(started(), id="e1:0")
    step = plan(started(), Board())
    assert isinstance(step, Ask)
    for delivery in range(RESUMPTIONS):
        resumed = StudyResumed(study_id="s", holder=HOLDER, delivery=delivery)
        await bus.publish(resumed, id=f"e1.{delivery}:0")
        if delivery < 3:
            await bus.publish(step.trials[delivery], id=f"s.{delivery}.run")
    trials = Trials(bus, "s")
    history: History[StudyEvent] = await Journal(bus).read("study", "s")
    await trials.read()
    assert is_exhausted(history)
    assert not is_exhausted(trials.with_steps(history))


@pytest.mark.anyio
async def test_a_study_whose_coordinators_die_without_a_step_fails(bus: Bus, settings: Settings) -> None:
    await bus.publish(started(), id="e1:0")
    for delivery in range(RESUMPTIONS):
        resumed = StudyResumed(study_id="s", holder=HOLDER, delivery=delivery)
        await bus.publish(resumed, id=f"e1.{delivery}:0")
    running = asyncio.create_task(app.worker(settings).serve(0))
    async with asyncio.timeout(20):
        while True:
            history: History[StudyEvent] = await Journal(bus).read("study", "s")
            if isinstance(history.events[-1], StudyFailed):
                break
            await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def is_counted(bus: Bus) -> bool:
    return bus.client.is_connected and await bus.last("TRIALS", "tars.event.trial.*.*.s.0") is not None


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_trainer_outlives_a_broker_that_goes_away_while_it_trains(
    nats_server: Server, settings: Settings, tmp_path: Path
) -> None:
    trial = RunTrial(
        study_id="s", number=0, phase="search", algorithm="dqn", environment="policy",
        hyperparameters=dict(DQN.game_defaults), seed=1, train_episodes=60, eval_episodes=1,
    )  # fmt: skip
    own = await connect_bus(nats_server.url, "test", patience=5)
    await provision(own.jetstream, ack_wait=settings.ack_wait_seconds)
    await own.publish(trial, id="s.0.run")
    working = asyncio.create_task(Trainer(own, settings.ack_wait_seconds).run())
    while not (await own.jetstream.consumer_info("TRIALS", "run-trial")).num_ack_pending:
        await asyncio.sleep(0.05)
    nats_server.stop()
    await asyncio.sleep(6)  # training ends meanwhile
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    try:
        async with asyncio.timeout(30):
            while not working.done() and not await is_counted(own):
                await asyncio.sleep(0.2)
        assert not working.done()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await own.close()
        again.stop()
