"""`tars rollback --wait` on a real server: what it says of agents that it did not reach, and how it ends then."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
from anyio.from_thread import start_blocking_portal

from reporting_fleet import Learner, ended, release
from tars.agents.host import LiveAgent, last_run
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import Journal
from tars.runtime.provision import provision
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.streams import configure_subject
from tars.sync_worker.app import worker as sync
from tars.sync_worker.lifecycle import Stage

Run = Callable[..., tuple[int, str, str]]


async def overtaken(bus: Bus) -> None:
    """The update u is confirmed on the agents a and b; then another one reaches a."""
    await release(bus, "a", "b")
    await ended(bus, Stage.CONFIRMED)
    (ours,) = await Journal(bus).messages("AGENTS", configure_subject("a"))
    later = ours.event.model_copy(update={"update_id": "later", "base": ours.sequence})
    await bus.publish(later, id="later.a.update", after=(configure_subject("a"), ours.sequence))


@pytest.fixture
def overtaken_update(nats_server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An update over which a later one lies on one of its agents, and the worker that takes it back."""
    monkeypatch.setenv("NATS_URL", nats_server.url)
    working: list[asyncio.Task[None]] = []

    async def begin() -> Bus:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        await provision(bus.jetstream, ack_wait=settings.ack_wait_seconds)
        for name in ("a", "b"):
            agent = LiveAgent(bus, Learner(name))
            await agent.start(await last_run(bus, name))
            working.append(asyncio.create_task(agent.run()))
        working.append(asyncio.create_task(sync(settings).serve(0)))
        await overtaken(bus)
        return bus

    async def end(bus: Bus) -> None:
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await bus.close()

    with start_blocking_portal() as portal:
        bus = portal.call(begin)
        yield "u"
        portal.call(end, bus)


@pytest.mark.slow
def test_a_rollback_that_did_not_reach_all_names_them_and_fails_until_it_does(tars: Run, overtaken_update: str) -> None:
    code, told, errors = tars("rollback", overtaken_update, "--what", "all", "--wait")
    errors = " ".join(errors.split())  # it is wrapped
    assert (code, told) == (1, "u: rolled back\n")
    assert "a was not reached: it was configured by later.a.update since: roll that back first" in errors
    assert "only the values went back" in errors
    assert tars("rollback", overtaken_update, "--what", "values", "--over-later", "--wait") == (0, told, "")
