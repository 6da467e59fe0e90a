"""A study of 300 trials while its coordinators and trainers are killed with SIGKILL: each trial counts exactly once."""

import asyncio
import json
import random
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import pytest

from accounting import account
from herd import Herd
from tars.automl_worker.evidence import LOOKS, assess
from tars.producers.async_client import AsyncClient
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.runtime.servers import Server
from tars.schemas.evidence import PairedScore, Verdict
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By
from tars.schemas.study import StartStudy, StudyFinished
from tars.schemas.trial import RunTrial, TrialCompleted

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SEED = 20261125
TRIALS, KILLS, CANDIDATES = 300, 20, 3
SECONDS = 420
NAMES = ("coordinator-1", "coordinator-2", "trainer-1", "trainer-2")


@pytest.fixture
def environment(nats_server: Server, bus: Bus) -> dict[str, str]:
    return {
        "NATS_URL": nats_server.url,
        "USE_REDIS": "false",
        "ACK_WAIT_SECONDS": "2",
        "REAL_TRAINING_EPISODES": "2",
        "REAL_EVAL_EPISODES": "1",
        "QUICK_MODE_TRAIN_EPISODES": "10",
        "QUICK_MODE_EVAL_EPISODES": "1",
    }


async def test_twenty_kills_lose_no_trial_double_none_and_leave_the_champion_that_the_stream_gives(
    bus: Bus, environment: dict[str, str], tmp_path: Path
) -> None:
    herd = Herd(environment, tmp_path / "herd.log", SEED)
    client = AsyncClient(bus, By(principal="herd"))
    start = StartStudy(study_id="s", algorithm="dqn", trials=TRIALS, quick=True, warm_start=False, explain=False)
    try:
        for name in NAMES:
            await herd.start(name)
        async with asyncio.timeout(SECONDS):
            killing = asyncio.create_task(kill_on_the_way(herd, bus))
            await bus.publish(start, id="start", by=client.by)  # decided when a coordinator is up
            await killing
            last = [event async for event in client.follow("study", "s", lambda e: isinstance(e, StudyFinished))][-1]
        found = await account(bus, [], {})
    finally:
        await herd.stop()
    assert sum(herd.kills.values()) == KILLS
    assert set(found.asked.values()) == {1}
    assert found.outcomes == found.asked
    assert (found.waiting, found.dead, found.doubled_events) == (0, 0, [])
    await is_what_the_stream_gives(bus, last)


async def kill_on_the_way(herd: Herd, bus: Bus) -> None:
    """Kill at seeded points of the study's progress, so that all fall into it on any machine.

    Every other time it hits whoever has just stored an outcome, before or after it acknowledges the trial; else anyone,
    a moment later.
    """
    chance = random.Random(SEED)
    stored, seen = await bus.client.subscribe("tars.event.trial.*.v1.s.*"), 0
    for number, point in enumerate(sorted(chance.sample(range(4, TRIALS + 16), KILLS))):
        message = await stored.next_msg(timeout=SECONDS)
        while (seen := seen + 1) < point:
            message = await stored.next_msg(timeout=SECONDS)
        sender = herd.name_of(json.loads(message.data)["holder"])
        if sender is None or number % 2:
            await asyncio.sleep(chance.uniform(0, 1))
            sender = chance.choice(NAMES)
        await herd.kill(sender)


async def is_what_the_stream_gives(bus: Bus, last: object) -> None:
    """Fold the stream TRIALS anew, and compare with what the study's last coordinator said."""
    messages = [entry.event for entry in await Journal(bus).messages("TRIALS", "tars.>")]
    asked = {message.number: message for message in messages if isinstance(message, RunTrial)}
    scores = {message.number: message.score for message in messages if isinstance(message, TrialCompleted)}
    search = [number for number, trial in asked.items() if trial.phase == "search"]
    assert sorted(search) == list(range(TRIALS))
    assert isinstance(last, StudyFinished)
    counted = sum(number in scores for number in search)
    assert (last.completed, last.pruned, last.failed) == (counted, 0, TRIALS - counted)
    champion, gain = best_on_held_out_seeds(asked, scores)
    assert last.champion == champion
    assert last.evidence is not None
    assert last.evidence.gain == pytest.approx(gain)


def best_on_held_out_seeds(
    asked: Mapping[int, RunTrial], scores: Mapping[int, float]
) -> tuple[dict[str, Value], float]:
    """Of the best of the search, the one whose held-out pairs say most for it; and its gain."""
    held_out = {number: trial for number, trial in asked.items() if trial.phase == "confirmation"}
    incumbent = {t.seed: scores[n] for n, t in held_out.items() if t.hyperparameters == asked[0].hyperparameters}
    ranked = sorted((n for n in scores if n < TRIALS and n > 0), key=lambda number: (-scores[number], number))
    found = []
    for values in (asked[number].hyperparameters for number in ranked[:CANDIDATES]):
        own = {t.seed: scores[n] for n, t in held_out.items() if t.hyperparameters == values}
        found.append((is_better(own, incumbent), fmean(own[seed] - incumbent[seed] for seed in own), values))
    _, gain, champion = max(found, key=lambda candidate: candidate[:2])
    return champion, gain


def is_better(own: Mapping[int, float], incumbent: Mapping[int, float]) -> bool:
    pairs = [PairedScore(seed=seed, incumbent=incumbent[seed], candidate=score) for seed, score in own.items()]
    look = assess(pairs, LOOKS.index(len(pairs)) + 1, threshold=0.03, candidates=CANDIDATES)
    return look.verdict is Verdict.BETTER
