"""Studies on a real server with real training: whole, with failures, and with holders that die on the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from tars.automl_worker import app, trainer_app
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.app import Worker
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By, Event
from tars.schemas.study import StartStudy, StopStudy, StudyEvent, StudyFinished, StudyStopped
from tars.schemas.trial import FAILED_SCORE, RunTrial, TrialCompleted, TrialFailed

pytestmark = pytest.mark.anyio
TINY = {
    "quick_mode_train_episodes": 1,
    "quick_mode_eval_episodes": 1,
    "real_training_episodes": 1,
    "real_eval_episodes": 1,
}
START = StartStudy(study_id="s", algorithm="dqn", trials=6, quick=True)


@pytest.fixture
def tiny(settings: Settings) -> Settings:
    """Settings under which a trial lasts one episode."""
    return settings.model_copy(update=TINY)


class Workers:
    """Workers of this process, which can be cut off as a crash would."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: list[asyncio.Task[None]] = []

    def start(self, make: Callable[[Settings], Worker]) -> asyncio.Task[None]:
        task = asyncio.create_task(make(self._settings).serve(0))
        self._running.append(task)
        return task

    async def stop(self, *tasks: asyncio.Task[None]) -> None:
        for task in tasks or self._running:
            task.cancel()
        await asyncio.gather(*(tasks or self._running), return_exceptions=True)


@pytest.fixture
async def workers(bus: Bus, tiny: Settings) -> AsyncIterator[Workers]:
    found = Workers(tiny)
    yield found
    await found.stop()


async def send(bus: Bus, command: StartStudy | StopStudy) -> None:
    await AsyncClient(bus, By(principal="ada")).send(command)


async def ended(bus: Bus, study_id: str = "s") -> Event:
    ends = (StudyFinished, StudyStopped)
    async with asyncio.timeout(60):
        client = AsyncClient(bus, By(principal="ada"))
        return [event async for event in client.follow("study", study_id, lambda e: isinstance(e, ends))][-1]


async def trials(bus: Bus) -> tuple[Counter[str], list[TrialCompleted | TrialFailed]]:
    """How often each trial was asked, and every outcome."""
    entries = await Journal(bus).messages("TRIALS", "tars.>")
    asked = Counter(entry.event.key for entry in entries if isinstance(entry.event, RunTrial))
    return asked, [entry.event for entry in entries if not isinstance(entry.event, RunTrial)]


async def is_whole(bus: Bus) -> None:
    """Each trial was asked once and counted once, and the study finished once."""
    asked, outcomes = await trials(bus)
    assert set(asked.values()) == {1}
    assert Counter(outcome.key for outcome in outcomes) == asked
    history: History[StudyEvent] = await Journal(bus).read("study", "s")
    assert sum(isinstance(event, StudyFinished) for event in history.events) == 1


async def test_a_study_is_searched_weighed_and_finished(bus: Bus, workers: Workers) -> None:
    workers.start(app.worker)
    workers.start(trainer_app.worker)
    await send(bus, START)
    finished = await ended(bus)
    assert isinstance(finished, StudyFinished)
    assert (finished.completed, finished.failed) == (6, 0)
    assert finished.evidence is not None
    assert finished.evidence.training == "real"
    await is_whole(bus)


async def test_a_role_without_live_agents_and_a_second_start_are_refused(bus: Bus, workers: Workers) -> None:
    workers.start(app.worker)
    with pytest.raises(CommandRefused, match="no live agent has the role policy"):
        await send(bus, StartStudy(study_id="s", role="policy"))
    with pytest.raises(CommandRefused, match="there is no agent ghost"):
        await send(bus, StartStudy(study_id="s", agents=("ghost",)))
    await send(bus, START)
    with pytest.raises(CommandRefused, match="there is a study s already"):
        await send(bus, START)


async def test_a_study_can_be_stopped_and_asks_nothing_more(bus: Bus, workers: Workers) -> None:
    workers.start(app.worker)
    await send(bus, START)
    await send(bus, StopStudy(study_id="s", reason="enough"))
    stopped = await ended(bus)
    assert isinstance(stopped, StudyStopped)
    assert stopped.reason == "enough"
    with pytest.raises(CommandRefused, match="there is no study other"):
        await send(bus, StopStudy(study_id="other"))


@pytest.mark.slow
async def test_a_coordinator_that_dies_is_followed_by_another_with_the_same_trials(bus: Bus, workers: Workers) -> None:
    first = workers.start(app.worker)
    trainer = workers.start(trainer_app.worker)
    await send(bus, START)
    async with asyncio.timeout(30):
        while len((await trials(bus))[0]) < 6:  # the search is asked: the next step would be the held-out seeds
            await asyncio.sleep(0.02)
    await workers.stop(first, trainer)
    workers.start(app.worker)
    workers.start(app.worker)  # and one more by accident: it can double nothing
    workers.start(trainer_app.worker)
    assert isinstance(await ended(bus), StudyFinished)
    await is_whole(bus)


@pytest.mark.slow
async def test_a_trial_that_cannot_be_trained_fails_alone_and_the_others_count(bus: Bus, workers: Workers) -> None:
    good = RunTrial(
        study_id="s", number=0, phase="search", algorithm="dqn", environment="policy",
        hyperparameters={"learning_rate": 1e-3}, seed=1, train_episodes=1, eval_episodes=1,
    )  # fmt: skip
    whole = {**good.model_dump(), "hyperparameters": dict(_game())}
    bad: dict[int, dict[str, object]] = {
        1: {"environment": "kitchen"},
        2: {"hyperparameters": {**_game(), "learning_rate": 3e38, "learning_starts": 0}},
        3: {"hyperparameters": {**_game(), "gamma": None}},
    }
    await bus.publish(good, id="t0")
    for number, change in bad.items():
        await bus.publish(RunTrial.model_validate({**whole, "number": number, **change}), id=f"t{number}")
    await bus.publish(RunTrial.model_validate({**whole, "number": 4}), id="t4")
    await bus.jetstream.publish("tars.command.trial.run.v1.s.5", b"{", stream="TRIALS")
    workers.start(trainer_app.worker)
    async with asyncio.timeout(30):
        while len(await trials_readable(bus)) < 5 or not (await bus.stream("DEAD")).state.messages:
            await asyncio.sleep(0.05)
    found = {outcome.number: outcome for outcome in await trials_readable(bus)}
    assert isinstance(found[4], TrialCompleted)
    for number in (0, 1, 2, 3):
        outcome = found[number]
        assert isinstance(outcome, TrialFailed), number
        assert outcome.score == FAILED_SCORE
        assert outcome.error
    assert "kitchen" in found[1].error  # type: ignore[union-attr]


async def trials_readable(bus: Bus) -> list[TrialCompleted | TrialFailed]:
    entries = await Journal(bus).messages("TRIALS", "tars.event.trial.>")
    return [entry.event for entry in entries]


def _game() -> dict[str, Value]:
    from tars.schemas.hyperparameters import DQN  # noqa: PLC0415

    return dict(DQN.game_defaults)


async def test_studies_count_for_a_sender_s_rate_too(bus: Bus, tiny: Settings) -> None:
    workers = Workers(tiny.model_copy(update={"rate_limit_per_minute": 1}))
    workers.start(app.worker)
    async with AsyncClient.connect(tiny.nats, user="ada") as ada:
        await ada.send(START)
        with pytest.raises(CommandRefused, match="RATE_LIMIT_PER_MINUTE") as refused:
            await ada.send(StopStudy(study_id="s"))
    assert refused.value.retry_after
    await workers.stop()
