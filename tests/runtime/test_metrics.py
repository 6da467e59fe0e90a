"""What a worker counts: by declared labels only, from zero, and once."""

import asyncio
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from examples import ADA, AGENT, EXAMPLES, RUNNING
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient
from tars.runtime import metrics
from tars.runtime.app import Worker
from tars.runtime.bus import Bus
from tars.runtime.settings import Settings
from tars.runtime.stack import answers
from tars.schemas.agent import AgentStarted
from tars.schemas.streams import KINDS, ROLES
from tars.schemas.update import ProposeUpdate, RejectUpdate
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio


class Scraped:
    """What a worker's /metrics shows."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def samples(self) -> list[Sample]:
        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(read)
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    async def value(self, name: str, **labels: str) -> float | None:
        found = (s.value for s in await self.samples() if s.name == name and s.labels.items() >= labels.items())
        return next(found, None)

    async def until(self, wanted: float, name: str, **labels: str) -> None:
        async with asyncio.timeout(20):
            while await self.value(name, **labels) != wanted:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Scraped]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(worker.serve(0, started=port.set_result))
    try:
        async with asyncio.timeout(20):
            while not await answers(f"http://127.0.0.1:{await port}/ready"):
                await asyncio.sleep(0.05)
        yield Scraped(await port)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def stored(scraped: Scraped, kind: str) -> float:
    return await scraped.value("tars_messages_stored_total", kind=kind) or 0.0


async def test_two_updates_are_counted_by_kind_and_leave_no_series_of_their_own(bus: Bus, settings: Settings) -> None:
    await bus.publish(started(), id="a1")
    async with running(sync(settings)) as scraped, AsyncClient.connect(settings.nats) as client:
        before = await stored(scraped, "update.rejected.v1")
        for name in ("u-first", "u-second"):
            await client.send(ProposeUpdate(update_id=name, agents=(AGENT,), values={"gamma": 0.9}))
            await client.send(RejectUpdate(update_id=name))
        assert await stored(scraped, "update.rejected.v1") == before + 2
        labels = {value for sample in await scraped.samples() for value in sample.labels.values()}
        assert [value for value in labels if "u-first" in value or AGENT in value] == []
        handled = await scraped.value("tars_message_handling_seconds_count", kind="update.reject.v1", outcome="done")
        assert handled is not None
        assert handled >= 2


async def test_an_event_that_never_happened_is_a_zero_and_not_nothing(bus: Bus, settings: Settings) -> None:
    """`increase()` sees a first event only where there was a number before it."""
    async with running(sync(settings)) as scraped:
        samples = await scraped.samples()
    shown = {sample.labels["kind"] for sample in samples if sample.name == "tars_messages_stored_total"}
    assert {"update.failed.v1", "update.rolled-back.v1", "agent.configure.v1"} <= shown
    reasons = {sample.labels["reason"] for sample in samples if sample.name == "tars_dead_letters_total"}
    assert {"rejected", "unknown-kind", "newer-version", "malformed", "attempts-exhausted"} <= reasons
    broken = {"durable": "run-rollout", "outcome": "broken"}
    assert any(sample.labels == broken for sample in samples if sample.name == "tars_leases_ended_total")


async def test_a_dead_letter_is_counted_by_its_reason(bus: Bus, settings: Settings) -> None:
    async with running(sync(settings)) as scraped:
        before = await scraped.value("tars_dead_letters_total", reason="newer-version") or 0.0
        await bus.jetstream.publish("tars.command.update.approve.v9.u1", b"{}")
        await scraped.until(before + 1, "tars_dead_letters_total", reason="newer-version")
        handled = {"kind": "unknown", "outcome": "dead"}
        assert await scraped.value("tars_message_handling_seconds_count", **handled)


async def test_the_consumers_say_how_old_their_views_are_and_what_waits(bus: Bus, settings: Settings) -> None:
    await bus.publish(started(), id="a1")
    await bus.publish(EXAMPLES["study.start.v1"], id="c1", by=ADA)
    async with running(consumers(settings)) as scraped:
        await scraped.until(1, "tars_consumer_waiting_messages", durable="study-command")
        await scraped.until(1, "tars_stream_messages", stream="EVENTS")
        assert await scraped.value("tars_stream_bytes", stream="OBJ_SNAPSHOTS") is not None
        await scraped.until(1, "tars_view_rows", view="agents")
        first = await scraped.value("tars_view_current_timestamp_seconds", stream="EVENTS")
        assert first is not None
        async with asyncio.timeout(10):
            while await scraped.value("tars_view_current_timestamp_seconds", stream="EVENTS") == first:
                await asyncio.sleep(0.1)


async def test_every_shown_metric_is_declared_with_its_labels(bus: Bus, settings: Settings) -> None:
    async with running(sync(settings)) as scraped:
        samples = await scraped.samples()
    declared = {name: labels for metric in metrics.DECLARED.values() for name, labels in metric.series.items()}
    own = [sample for sample in samples if sample.name.startswith("tars_")]
    assert own
    assert [sample for sample in own if declared.get(sample.name) != frozenset(sample.labels)] == []
    assert any(sample.name == "process_resident_memory_bytes" for sample in samples)


def test_a_stranger_s_subject_makes_no_label() -> None:
    assert metrics.kind_of("tars.command.update.approve.v1.u-17") == "update.approve.v1"
    assert metrics.kind_of("tars.command.update.invented-4711.v1.u-17") == "unknown"


def test_each_role_counts_what_it_may_publish() -> None:
    assert set(metrics.kinds_of("trainer")) == {"trial.completed.v1", "trial.pruned.v1", "trial.failed.v1"}
    assert {kind for role in ROLES for kind in metrics.kinds_of(role)} <= set(KINDS)


def started() -> AgentStarted:
    return AgentStarted(
        agent_id=AGENT, run_id="r-1", role="policy", algorithm="dqn", world="0", values=RUNNING,
        heard_version=0, applied_version=0,
    )  # fmt: skip
