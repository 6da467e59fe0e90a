"""A rollout on a real server: configured once, read back, confirmed; or taken back, whatever happens in between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from story import ADA, AGENTS, CHANGE, NOW, VALUES
from tars.agents.host import Applied, LiveAgent, Reload
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.leases import Lease, hold
from tars.schemas.agent import ConfigureAgent
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value
from tars.schemas.streams import configure_subject
from tars.schemas.update import (
    ProposeUpdate,
    UpdateApproved,
    UpdateConfirmed,
    UpdateEvent,
    UpdateReleased,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateRolledBack,
)
from tars.sync_worker.lifecycle import Facts, Stage, Update, decide, replay
from tars.sync_worker.rollout import Rollout

pytestmark = pytest.mark.anyio


class Learner:
    """A learner that applies at once, and reads back what it is made to read back."""

    world: str | None = None
    algorithm: AlgorithmName | None = "dqn"
    role = "policy"

    def __init__(self, agent_id: str, reads: Callable[[dict[str, Value]], dict[str, Value]] = dict) -> None:
        self.agent_id, self._reads = agent_id, reads
        self._values = dict(VALUES)

    def values(self) -> dict[str, Value]:
        return dict(self._values)

    def takes_effect(self, names: Sequence[str]) -> Moment:
        return "live"

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        self._values = dict(reload.values)
        applied(Applied(reload, self._reads(self._values), 1, "w", "w", 5, 5, 0.1))


class Fleet:
    """Live agents over those learners, on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._tasks = bus, list[asyncio.Task[None]]()

    async def join(self, learner: Learner) -> None:
        agent = LiveAgent(self._bus, learner)
        await agent.start(await agent.last_run())
        self._tasks.append(asyncio.create_task(agent.run()))

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def fleet(bus: Bus) -> AsyncIterator[Fleet]:
    fleet = Fleet(bus)
    yield fleet
    await fleet.leave()


def drifts(values: dict[str, Value]) -> dict[str, Value]:
    """A learner in which a new learning rate silently has no effect."""
    return {**values, "learning_rate": VALUES["learning_rate"]}


async def release(bus: Bus, update_id: str = "u") -> None:
    """Put a released update into the ledger."""
    facts = Facts(id="c", time=NOW, by=ADA, agents=AGENTS)
    proposed = decide(Update(), ProposeUpdate(update_id=update_id, agents=("a", "b"), values=CHANGE), facts)
    approved = UpdateApproved(update_id=update_id, by=ADA, mode="manual", reason="", hold=False)
    history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
    released = UpdateReleased(update_id=update_id, by=ADA)
    await Journal(bus).append([*proposed, approved, released], history, cause=f"c-{update_id}")


async def request_back(bus: Bus) -> None:
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    await Journal(bus).append([UpdateRollBackRequested(update_id="u", by=ADA, reason="worse")], history, cause="back")


def rollout(bus: Bus) -> Rollout:
    return Rollout(bus, accept_seconds=0.5, apply_seconds=1.0)


async def ended(bus: Bus, *stages: Stage) -> tuple[UpdateEvent, ...]:
    async with asyncio.timeout(15):
        while True:
            history: History[UpdateEvent] = await Journal(bus).read("update", "u")
            if replay(history.events).stage in stages:
                return history.events
            await asyncio.sleep(0.02)


async def configurations(bus: Bus, agent_id: str) -> list[ConfigureAgent]:
    return [entry.event for entry in await Journal(bus).messages("AGENTS", configure_subject(agent_id))]


async def run(bus: Bus, *stages: Stage) -> tuple[UpdateEvent, ...]:
    """Let one worker run the rollout to its end."""
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", rollout(bus), ack_wait=2))
    events = await ended(bus, *stages)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    return events


async def test_every_agent_is_configured_with_the_whole_set_and_read_back(bus: Bus, fleet: Fleet) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus)
    events = await run(bus, Stage.CONFIRMED)
    reloaded = next(event for event in events if isinstance(event, UpdateReloaded))
    assert {back.agent_id: back.effective for back in reloaded.read_backs} == {n: {**VALUES, **CHANGE} for n in "ab"}
    assert isinstance(events[-1], UpdateConfirmed)
    assert [c.values for c in await configurations(bus, "a")] == [{**VALUES, **CHANGE}]


async def test_a_read_back_that_differs_takes_the_values_back_everywhere(bus: Bus, fleet: Fleet) -> None:
    await fleet.join(Learner("a"))
    await fleet.join(Learner("b", reads=drifts))
    await release(bus)
    events = await run(bus, Stage.ROLLED_BACK)
    last = events[-1]
    assert isinstance(last, UpdateRolledBack)
    assert "b: its read-back differs: learning_rate 0.001 asked" in last.reason
    assert {back.agent_id: back.effective["learning_rate"] for back in last.read_backs} == dict.fromkeys("ab", 1e-4)
    assert last.unreached == {}


@pytest.mark.slow
async def test_an_agent_that_says_nothing_takes_the_update_back_and_is_named(bus: Bus, fleet: Fleet) -> None:
    await fleet.join(Learner("a"))
    await release(bus)
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert "b: it did not accept within 0.5 s" in last.reason
    assert [back.agent_id for back in last.read_backs] == ["a"]
    assert last.unreached == {"b": "it did not accept within 0.5 s"}


@pytest.mark.slow
async def test_a_confirmed_update_is_taken_back_by_hand(bus: Bus, fleet: Fleet) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus)
    await run(bus, Stage.CONFIRMED)
    await request_back(bus)
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert (last.by, last.reason) == (ADA, "worse")
    assert [c.purpose for c in await configurations(bus, "b")] == ["update", "rollback"]
    assert (await configurations(bus, "b"))[-1].values == VALUES


@pytest.mark.slow
async def test_of_two_updates_for_one_agent_the_second_is_taken_back_and_told_why(bus: Bus, fleet: Fleet) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "first")
    await release(bus)
    last = (await run(bus, Stage.ROLLED_BACK, Stage.CONFIRMED))[-1]
    first: History[UpdateEvent] = await Journal(bus).read("update", "first")
    stages = {replay(first.events).stage, Stage.CONFIRMED if isinstance(last, UpdateConfirmed) else Stage.ROLLED_BACK}
    assert stages == {Stage.CONFIRMED, Stage.ROLLED_BACK}
    loser = last if isinstance(last, UpdateRolledBack) else first.events[-1]
    assert isinstance(loser, UpdateRolledBack)
    assert "its base moved" in loser.reason


class Dies(Exception):
    """The process ends here."""


class Mortal(Lease[UpdateEvent]):
    """A lease whose holder dies after so many appends."""

    lives = 0

    async def append(self, decide: Callable[[History[UpdateEvent]], Sequence[UpdateEvent]]) -> tuple[UpdateEvent, ...]:
        if Mortal.lives == 0:
            raise Dies
        Mortal.lives -= 1
        return await super().append(decide)


@pytest.mark.slow
@pytest.mark.parametrize("lives", range(3))
async def test_a_rollout_killed_between_two_steps_ends_the_same_and_configures_once(
    bus: Bus, fleet: Fleet, lives: int
) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus)
    subscription = await bus.jetstream.pull_subscribe_bind(consumer="run-rollout", stream="EVENTS")
    [message] = await subscription.fetch(1, timeout=5)
    Mortal.lives = lives
    dead = Mortal(bus, message, "dead")
    with pytest.raises(Dies):
        await rollout(bus)(dead)
    await message.nak()
    events = await run(bus, Stage.CONFIRMED)
    assert isinstance(events[-1], UpdateConfirmed)
    for name in ("a", "b"):
        assert Counter(c.purpose for c in await configurations(bus, name)) == {"update": 1}
    assert sum(isinstance(event, UpdateConfirmed) for event in events) == 1
