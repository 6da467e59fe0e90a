"""Workers, a script and an agent's host on a server that knows roles by their keys: all of their work, no refusal."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from secured import Secured, refused
from working import at_work

from examples import AGENT, EXAMPLES
from tars.automl_worker.app import worker as coordinator
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.producers.commands import CommandRefused
from tars.schemas.study import StopStudy
from tars.schemas.update import ProposeUpdate, RejectUpdate
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio
MAKE = {"coordinator": coordinator, "sync": sync, "consumers": consumers}
PROPOSE = ProposeUpdate(update_id="u1", agents=(AGENT,), values={"gamma": 0.95})


@pytest.fixture
async def running(secured: Secured) -> AsyncIterator[Secured]:
    """The workers that only talk, each with its own key, and an agent in the ledger."""
    async with AsyncExitStack() as stack:
        for role, make in MAKE.items():
            await stack.enter_async_context(at_work(make(secured.settings(role, rate_limit_per_minute=0)).serve(0)))
        async with secured.bus("agents") as host:
            await host.publish(EXAMPLES["agent.started.v1"], id="a1")
        yield secured


@asynccontextmanager
async def person(secured: Secured, role: str = "person") -> AsyncIterator[AsyncClient]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NATS_NKEY_FILE", str(secured.settings(role).nats_nkey_file))
        environment.setenv("NATS_CA_FILE", str(secured.settings(role).nats_ca_file))
        connecting = AsyncClient.connect(
            secured.server.url, user="ada", role="dashboard" if role == "dashboard" else "person"
        )
        async with connecting as client:
            yield client


@pytest.mark.parametrize("role", ["person", "dashboard"])
async def test_commands_are_answered_and_queries_too(
    running: Secured, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with person(running, role) as client, asyncio.timeout(20):
        assert (await client.send(PROPOSE)).events == ("update.proposed.v1",)
        assert (await client.send(RejectUpdate(update_id="u1"))).events == ("update.rejected.v1",)
        with pytest.raises(CommandRefused):
            await client.send(StopStudy(study_id="s-none"))
        while True:
            try:
                (row,) = await client.query("updates")
            except (NobodyAnswers, ValueError):  # the consumers are on their way
                await asyncio.sleep(0.05)
                continue
            break
        assert row.update_id == "u1"
    assert refused(caplog) == []


async def test_what_nobody_can_read_is_put_aside_and_shown(running: Secured, caplog: pytest.LogCaptureFixture) -> None:
    async with person(running) as client, asyncio.timeout(20):
        for noun in ("study", "update"):
            await client.bus.jetstream.publish(f"tars.command.{noun}.sing.v1.x", b"la", stream="COMMANDS")
        while True:
            try:
                rows = await client.query("dead")
            except NobodyAnswers:
                rows = []
            if len(rows) == 2:
                break
            await asyncio.sleep(0.05)
    assert {row.subject for row in rows} == {"tars.command.study.sing.v1.x", "tars.command.update.sing.v1.x"}
    assert refused(caplog) == []


async def test_a_worker_with_the_seed_of_another_does_nothing_and_its_log_says_why(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    mixed = secured.settings("trainer")
    async with at_work(sync(mixed).serve(0)), asyncio.timeout(20):
        while not refused(caplog):
            await asyncio.sleep(0.05)
    assert {role for role, _, _ in refused(caplog)} == {"sync"}
