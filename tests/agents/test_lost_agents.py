"""Agents that a rollout took for lost while they were silent, and that live: on a real NATS server."""

import asyncio
from collections.abc import Callable

import pytest
from working import at_work

from reporting_fleet import Learner
from story import ADA, CHANGE, VALUES
from tars.agents import host
from tars.agents.host import LiveAgent, last_run
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.running_agents import running_agents
from tars.schemas.agent import AgentEvent, AgentLost, AgentStarted, ConfigureAgent
from tars.schemas.running import RunningAgent
from tars.schemas.streams import configure_subject

pytestmark = pytest.mark.anyio
SECONDS = 30


async def until(bus: Bus, enough: Callable[[RunningAgent], bool]) -> RunningAgent:
    """What the agent runs, once it is enough."""
    async with asyncio.timeout(SECONDS):
        while (found := (await running_agents(Journal(bus), ["a"])).get("a")) is None or not enough(found):
            await asyncio.sleep(0.02)
    return found


async def history(bus: Bus) -> History[AgentEvent]:
    return await Journal(bus).read("agent", "a")


async def take_for_lost(bus: Bus, run_id: str) -> None:
    lost = AgentLost(agent_id="a", run_id=run_id, update_id="u", seconds=16.0)
    await Journal(bus).append([lost], await history(bus), cause=f"u.a.{run_id}.lost")


async def configure(bus: Bus, base: int) -> int:
    command = ConfigureAgent(
        agent_id="a", update_id="u", purpose="update", base=base, values={**VALUES, **CHANGE}, by=ADA
    )
    return await bus.publish(command, id=f"c-{base}", after=(configure_subject("a"), base))


async def test_an_agent_that_was_taken_for_lost_says_by_itself_that_it_lives(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "POLL_SECONDS", 0.1)
    agent = LiveAgent(bus, Learner("a"))
    await agent.start(await last_run(bus, "a"))
    async with at_work(agent.run()):
        await until(bus, lambda found: found.alive)
        version = await configure(bus, 0)
        before = await until(bus, lambda found: found.applied == version)
        await take_for_lost(bus, agent.run_id)
        after = await until(bus, lambda found: found.alive)
        await asyncio.sleep(0.5)  # several looks more
    assert (after.run_id, after.values, after.heard, after.applied) == (
        before.run_id, before.values, version, version,
    )  # fmt: skip
    said = [event for event in (await history(bus)).events if isinstance(event, AgentStarted)]
    assert [event.run_id for event in said] == [agent.run_id] * 2  # once for its loss


async def test_a_run_that_another_one_followed_denies_nothing(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "POLL_SECONDS", 0.1)
    old, new = LiveAgent(bus, Learner("a")), LiveAgent(bus, Learner("a"))
    await old.start(await last_run(bus, "a"))
    async with at_work(old.run()):
        await until(bus, lambda found: found.run_id == old.run_id)
        async with at_work(new.run()):
            await new.start(await last_run(bus, "a"))
            await until(bus, lambda found: found.run_id == new.run_id)
        await take_for_lost(bus, new.run_id)
        await asyncio.sleep(0.5)
    assert [type(event) for event in (await history(bus)).events] == [AgentStarted, AgentStarted, AgentLost]


async def test_a_lost_agent_that_hears_a_configuration_lives_by_what_it_answers(bus: Bus) -> None:
    agent = LiveAgent(bus, Learner("a"))
    await agent.start(await last_run(bus, "a"))
    async with at_work(agent.run()):
        await until(bus, lambda found: found.alive)
        await take_for_lost(bus, agent.run_id)
        assert not (await until(bus, lambda found: found.lost)).alive
        version = await configure(bus, 0)
        found = await until(bus, lambda found: found.applied == version)
    assert found.alive
    assert not found.lost
