"""Copies of a stream that lag: in a cluster any of them answers a read, also one that is not up to date."""

import asyncio
import time
from typing import Any

import pytest
from nats.aio.msg import Msg
from working import at_work

from reporting_fleet import Learner
from story import ADA, BOB, CHANGE, VALUES, evidence
from tars.agents.host import LiveAgent, last_run
from tars.automl_worker.app import worker as coordinator
from tars.producers.async_client import AsyncClient
from tars.runtime import journal as journal_module
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal, stored_time
from tars.runtime.settings import Settings
from tars.schemas.errors import Transient
from tars.schemas.evidence import Verdict
from tars.schemas.message import Event
from tars.schemas.study import StartStudy, StopStudy, StudyFinished, StudyStarted
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate, UpdateEvent, UpdateReleased
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio
LAG = 0.15
"""Seconds by which every copy lags."""


@pytest.fixture
def lag() -> list[float]:
    """By how many seconds every copy lags: a test may change it."""
    return [LAG]


@pytest.fixture
def lagging(monkeypatch: pytest.MonkeyPatch, lag: list[float]) -> None:
    """Let direct gets answer as a copy would that lags behind; what asks the leader is not concerned."""
    direct = Journal._direct  # noqa: SLF001 - a copy that lags cannot be had on purpose

    async def late(self: Journal, stream: str, subject: str, request: dict[str, Any]) -> list[Msg]:
        found = await direct(self, stream, subject, request)
        seen = time.time() - lag[0]
        return [m for m in found if stored_time((m.headers or {})["Nats-Time-Stamp"]).timestamp() < seen]

    monkeypatch.setattr(Journal, "_direct", late)


async def kinds(client: AsyncClient, noun: str, key: str, last: str) -> list[str]:
    """What became of an id, up to an event."""

    def is_last(event: Event) -> bool:
        return event.kind.split(".")[1] == last

    async with asyncio.timeout(20):
        return [event.kind.split(".")[1] async for event in client.follow(noun, key, is_last)]


async def test_what_is_known_to_be_stored_is_waited_for(bus: Bus, lagging: None, lag: list[float]) -> None:
    journal, lag[0] = Journal(bus), 60
    await journal.append([UpdateReleased(update_id="u", by=ADA)], History("update", "u"), cause="c")
    assert (await journal.read("update", "u")).events == ()
    waiting: asyncio.Task[History[UpdateEvent]] = asyncio.create_task(journal.current("update", "u"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    lag[0] = 0
    assert len((await waiting).events) == 1
    assert (await journal.current("update", "nobody")).events == ()


async def test_a_copy_that_never_catches_up_is_no_reason_to_decide_on_what_it_has(
    bus: Bus, lagging: None, lag: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    lag[0] = 60
    monkeypatch.setattr(journal_module, "LAG_SECONDS", 0.05)
    await Journal(bus).append([UpdateReleased(update_id="u", by=ADA)], History("update", "u"), cause="c")
    with pytest.raises(Transient, match="no copy of EVENTS that answers has message 1"):
        await Journal(bus).current("update", "u")


async def test_a_command_is_decided_on_what_was_answered_before_it_and_its_rollout_comes_to_its_end(
    bus: Bus, settings: Settings, lagging: None
) -> None:
    agent = LiveAgent(bus, Learner("a"))
    await agent.start(await last_run(bus, "a"))
    async with at_work(agent.run(), sync(settings).serve(0)), AsyncClient.connect(settings.nats) as client:
        await until_known(bus)
        await client.send(ProposeUpdate(update_id="u", agents=("a",), values=CHANGE))
        await client.send(ApproveUpdate(update_id="u"))
        found = await kinds(client, "update", "u", "confirmed")
        await client.send(ProposeUpdate(update_id="v", agents=("a",), values={"gamma": 0.9}))
        await client.send(RejectUpdate(update_id="v"))
    assert found == ["proposed", "approved", "released", "resumed", "started", "reloaded", "confirmed"]


async def test_a_study_is_led_to_its_end(bus: Bus, settings: Settings, lagging: None) -> None:
    async with at_work(coordinator(settings).serve(0)), AsyncClient.connect(settings.nats) as client:
        await client.send(StartStudy(study_id="s", algorithm="dqn", trials=4, quick=True))
        assert await kinds(client, "study", "s", "resumed") == ["started", "resumed"]
        await client.send(StopStudy(study_id="s"))
        assert await kinds(client, "study", "s", "stopped") == ["started", "resumed", "stopped"]
        await client.send(StartStudy(study_id="t", algorithm="dqn", trials=4, quick=True))
        await client.send(StopStudy(study_id="t"))


async def test_a_champion_is_proposed(bus: Bus, settings: Settings, lagging: None) -> None:
    agent = LiveAgent(bus, Learner("a"))
    await agent.start(await last_run(bus, "a"))
    started = StudyStarted(
        study_id="s", by=BOB, algorithm="dqn", environment="policy", base={"a": 0}, incumbent=VALUES,
        searched=("learning_rate",), trials=1, quick=True, search_episodes=(1, 1), full_episodes=(1, 1), sampler="tpe",
        seed=0, structural=False, threshold=0.03,
    )  # fmt: skip
    better = evidence(Verdict.BETTER)
    finished = StudyFinished(study_id="s", completed=1, failed=0, champion={**VALUES, **CHANGE}, evidence=better)
    async with at_work(agent.run(), sync(settings).serve(0)), AsyncClient.connect(settings.nats) as client:
        await until_known(bus)
        await Journal(bus).append([started, finished], History("study", "s"), cause="study-s")
        assert await kinds(client, "update", "u-s", "proposed") == ["proposed"]


async def until_known(bus: Bus) -> None:
    """Wait until the copies know the agent."""
    async with asyncio.timeout(20):
        while not (await Journal(bus).newest("agent", "a")).entries:
            await asyncio.sleep(0.02)
