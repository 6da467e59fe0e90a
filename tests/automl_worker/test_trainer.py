"""A trainer on a real server: what it holds when it is stopped goes back, pruned lanes go to trials that wait."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
import torch

from learners import Table
from tars.automl_worker.trainer import LANES, Trainer
from tars.automl_worker.training import run_group
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.runtime.provision import provision
from tars.runtime.settings import Settings
from tars.runtime.snapshots import Snapshots
from tars.schemas.hyperparameters import A2C, Value
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned

torch.set_num_threads(1)
SECONDS = 40


def trial(number: int, rate: float = 2e-3, **changes: Any) -> RunTrial:
    values: dict[str, Value] = {**A2C.game_defaults, "learning_rate": rate}
    fields = {
        "study_id": "s", "number": number, "phase": "search", "algorithm": "a2c", "environment": "consensus",
        "hyperparameters": values, "seed": number, "train_episodes": 6, "eval_episodes": 1, **changes,
    }  # fmt: skip
    return RunTrial.model_validate(fields)


@pytest.fixture
async def ready(bus: Bus, settings: Settings) -> Bus:
    await provision(bus.jetstream, ack_wait=settings.ack_wait_seconds)
    return bus


@pytest.fixture
async def trainer(ready: Bus, settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Starts when its first trial is there."""
    task = asyncio.create_task(Trainer(ready, settings.ack_wait_seconds, ["foreign:scored"]).run())
    yield task
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def outcomes(bus: Bus, count: int) -> list[TrialCompleted | TrialPruned | TrialFailed]:
    async with asyncio.timeout(SECONDS):
        while len(found := await Journal(bus).messages("TRIALS", "tars.event.trial.>")) < count:
            await asyncio.sleep(0.05)
    return [entry.event for entry in found]


async def in_hand(bus: Bus) -> int:
    return (await bus.jetstream.consumer_info("TRIALS", "run-trial")).num_ack_pending or 0


async def deliveries(bus: Bus) -> int:
    """How many trials were handed out, those that were handed out again too."""
    info = await bus.jetstream.consumer_info("TRIALS", "run-trial")
    return info.delivered.consumer_seq if info.delivered else 0


async def ask(bus: Bus, *trials: RunTrial) -> None:
    await asyncio.gather(*(bus.publish(each, id=f"{each.key}.run") for each in trials))


@pytest.mark.anyio
async def test_a_trainer_that_is_stopped_ends_at_once_and_another_trains_what_it_held(
    ready: Bus, settings: Settings
) -> None:
    await ask(ready, trial(0, train_episodes=100_000))
    working = asyncio.create_task(Trainer(ready, settings.ack_wait_seconds).run())
    async with asyncio.timeout(SECONDS):
        while not await in_hand(ready):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    trials = await ready.jetstream.pull_subscribe_bind(consumer="run-trial", stream="TRIALS")
    (again,) = await trials.fetch(1, timeout=5)  # long before its lease would have run out
    assert again.metadata.num_delivered == 2


@pytest.mark.anyio
async def test_trainers_that_are_idle_together_share_a_batch(ready: Bus, settings: Settings) -> None:
    idle = [asyncio.create_task(Trainer(ready, settings.ack_wait_seconds).run()) for _ in range(2)]
    async with asyncio.timeout(SECONDS):
        while (await ready.jetstream.consumer_info("TRIALS", "run-trial")).num_waiting != len(idle):
            await asyncio.sleep(0.02)
    await ask(ready, *(trial(number, train_episodes=1) for number in range(LANES)))
    shares = Counter(each.holder for each in await outcomes(ready, LANES))
    for task in idle:
        task.cancel()
    await asyncio.gather(*idle, return_exceptions=True)
    assert min(shares.values()) >= LANES // 4
    assert len(shares) == len(idle)


@pytest.mark.anyio
async def test_every_trial_has_one_outcome_whichever_lane_it_gets(ready: Bus, trainer: asyncio.Task[None]) -> None:
    many = [trial(n, 2e-3 if n % 2 else 1e-6, rungs=(2, 4)) for n in range(LANES + 8)]
    await ask(ready, *many, trial(90, rungs=(), train_episodes=1), trial(91, trainer="foreign:scored"))
    found = await outcomes(ready, LANES + 10)
    assert Counter(each.number for each in found) == Counter([*range(LANES + 8), 90, 91])
    kinds = Counter(type(each) for each in found)
    assert kinds[TrialFailed] == 0
    assert kinds[TrialPruned] >= 8
    assert {each.episode for each in found if isinstance(each, TrialPruned)} <= {2, 4}
    assert not trainer.done()
    async with asyncio.timeout(SECONDS):
        while await in_hand(ready):
            await asyncio.sleep(0.05)


@pytest.mark.anyio
async def test_trials_that_are_delivered_again_to_their_own_trainer_are_trained_once_and_no_other_fails_for_it(
    bus: Bus,
) -> None:
    """It keeps them in progress more seldom than its consumer waits, as one that NATS was away from."""
    await provision(bus.jetstream, ack_wait=1)
    rates = (2e-3, 2e-3, 2e-3, 1e-6, 1e-6, 1e-6)  # three are pruned: their lanes are free for what comes
    await ask(bus, *(trial(n, rate, train_episodes=200, rungs=(2,)) for n, rate in enumerate(rates)))
    training = asyncio.create_task(Trainer(bus, ack_wait=600).run())
    async with asyncio.timeout(SECONDS):
        while await deliveries(bus) <= len(rates):
            await asyncio.sleep(0.05)
        await ask(bus, trial(9, study_id="other", train_episodes=200, rungs=(2,)))
        found = await outcomes(bus, len(rates) + 1)
        while await in_hand(bus):
            await asyncio.sleep(0.05)
    training.cancel()
    await asyncio.gather(training, return_exceptions=True)
    assert [each.error for each in found if isinstance(each, TrialFailed)] == []


@pytest.mark.anyio
async def test_a_completed_trial_tells_its_conflicts_and_latency_where_its_environment_has_them(
    ready: Bus, trainer: asyncio.Task[None]
) -> None:
    game, task = trial(0), trial(1, environment="CartPole-v1", score_range=(0.0, 500.0))
    await ask(ready, game, task)
    (alone,) = await asyncio.to_thread(lambda: list(run_group([game], lambda *_: None, lambda *_: (), ())))
    in_game, in_task = sorted(await outcomes(ready, 2), key=lambda each: each.number)
    assert isinstance(in_game, TrialCompleted)
    assert isinstance(in_task, TrialCompleted)
    assert (in_game.conflict, in_game.latency) == pytest.approx((alone.conflict, alone.latency))
    assert 0.0 < (in_game.conflict or 0.0) < (in_game.latency or 0.0)  # as the references' own, .06 and .13
    assert in_task.conflict is in_task.latency is None
    assert not trainer.done()


@pytest.mark.anyio
async def test_a_trainer_that_nobody_allowed_is_a_failed_trial(ready: Bus, trainer: asyncio.Task[None]) -> None:
    await ask(ready, trial(0, trainer="os:system"))
    (failed,) = await outcomes(ready, 1)
    assert isinstance(failed, TrialFailed)
    assert "os:system may not be called here" in failed.error
    assert not trainer.done()


def reference(data: bytes, name: str) -> SnapshotRef:
    return SnapshotRef(
        name=name, agent_id="consensus-0", sha256=sha256(data).hexdigest(), episode=2, step=16, version=0
    )


@pytest.mark.anyio
async def test_trials_whose_snapshot_is_gone_or_altered_fail_and_the_others_go_on_from_theirs(
    ready: Bus, trainer: asyncio.Task[None]
) -> None:
    table = Table()
    table.play(2)
    data = table.snapshot("consensus")
    there, altered = reference(data, "s.consensus-0"), reference(b"x", "s.consensus-1")
    await Snapshots(ready).put(there, data)
    await Snapshots(ready).put(reference(data, "s.consensus-1"), data)
    asked = [trial(n, snapshot=there, seed=1) for n in range(3)]
    gone = [trial(n, snapshot=reference(data, "s.consensus-2")) for n in range(3, 5)]
    await ask(ready, *asked, *gone, trial(5), trial(6, snapshot=altered))
    found = {each.number: each for each in await outcomes(ready, 7)}
    for number, why in ((3, "is gone"), (4, "is gone"), (6, "was altered")):
        failed = found[number]
        assert isinstance(failed, TrialFailed)
        assert why in failed.error
    (alone,) = await asyncio.to_thread(lambda: list(run_group([asked[0]], lambda *_: None, lambda *_: (), (), data)))
    for number in range(3):
        completed = found[number]
        assert isinstance(completed, TrialCompleted)
        assert completed.exact_score == pytest.approx(alone.exact_score, abs=1e-4)
    assert isinstance(found[5], TrialCompleted)
    assert not trainer.done()
    async with asyncio.timeout(SECONDS):
        while await in_hand(ready):
            await asyncio.sleep(0.05)
