"""A rollout on a real server: configured once, read back, confirmed; or taken back, whatever happens in between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest

from interruptions import dies_at, interrupted
from reporting_fleet import release
from story import ADA, BOB, CHANGE, VALUES
from tars.agents.host import Applied, LiveAgent, Reload, last_run
from tars.runtime.bus import Bus
from tars.runtime.export import collect
from tars.runtime.journal import History, Journal
from tars.runtime.leases import RESUMPTIONS, hold
from tars.schemas.agent import ConfigureAgent
from tars.schemas.audit import case_of
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value
from tars.schemas.message import By
from tars.schemas.streams import configure_subject
from tars.schemas.update import (
    UpdateConfirmed,
    UpdateEvent,
    UpdateFailed,
    UpdateReloaded,
    UpdateResumed,
    UpdateRollBackRequested,
    UpdateRolledBack,
)
from tars.sync_worker import audit, audit_rollout
from tars.sync_worker.fleet import Fleet
from tars.sync_worker.lifecycle import Stage, replay
from tars.sync_worker.rollout import Rollout
from tars.sync_worker.stages import canaries

pytestmark = pytest.mark.anyio


class Learner:
    """A learner that applies at once, and reads back what it is made to read back."""

    world: str | None = None
    algorithm: AlgorithmName | None = "dqn"
    role = "policy"

    def __init__(
        self, agent_id: str, reads: Callable[[dict[str, Value]], dict[str, Value]] = dict, weights: str = "w"
    ) -> None:
        self.agent_id, self._reads, self._weights = agent_id, reads, weights
        self._values = dict(VALUES)

    def values(self) -> dict[str, Value]:
        return dict(self._values)

    def takes_effect(self, names: Sequence[str]) -> Moment:
        return "live"

    def objections(self, values: Mapping[str, Value]) -> list[str]:
        return []

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        self._values = dict(reload.values)
        applied(Applied(reload, self._reads(self._values), 1, "w", self._weights, 5, 5, 0.1))


class Stuck(Learner):
    """A learner that never comes to a boundary."""

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        """It is heard, and never applied."""


class Agents:
    """Live agents over those learners, on the bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self._tasks = bus, list[asyncio.Task[None]]()

    async def join(self, learner: Learner) -> LiveAgent:
        agent = LiveAgent(self._bus, learner)
        await agent.start(await last_run(self._bus, agent.agent_id))
        self._tasks.append(asyncio.create_task(agent.run()))
        return agent

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def fleet(bus: Bus) -> AsyncIterator[Agents]:
    fleet = Agents(bus)
    yield fleet
    await fleet.leave()


def drifts(values: dict[str, Value]) -> dict[str, Value]:
    """A learner in which a new learning rate silently has no effect."""
    return {**values, "learning_rate": VALUES["learning_rate"]}


async def request_back(bus: Bus, cause: str = "back", *, by: By = ADA, over_later: bool = False) -> None:
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    wanted = UpdateRollBackRequested(update_id="u", by=by, reason="worse", over_later=over_later)
    await Journal(bus).append([wanted], history, cause=cause)


def rollout(bus: Bus) -> Rollout:
    return Rollout(bus, accept_seconds=0.5, apply_seconds=1.0)


async def ended(bus: Bus, *stages: Stage, update_id: str = "u") -> tuple[UpdateEvent, ...]:
    async with asyncio.timeout(15):
        while True:
            history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
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


async def confirmed(bus: Bus) -> None:
    """Run a rollout by hand: a cancelled holder's last request would take the next lease with it."""
    message = await interrupted(bus, rollout(bus), dies_at(-1))
    await message.ack_sync()
    await ended(bus, Stage.CONFIRMED)


async def test_every_agent_is_configured_with_the_whole_set_and_read_back(bus: Bus, fleet: Agents) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    events = await run(bus, Stage.CONFIRMED)
    backs = replay(events).read_backs
    assert {back.agent_id: back.effective for back in backs} == {n: {**VALUES, **CHANGE} for n in "ab"}
    assert [event.stage for event in events if isinstance(event, UpdateReloaded)] == ["canary", "rest"]
    assert isinstance(events[-1], UpdateConfirmed)
    assert [c.values for c in await configurations(bus, "a")] == [{**VALUES, **CHANGE}]


async def test_a_read_back_that_differs_takes_the_values_back_everywhere(bus: Bus, fleet: Agents) -> None:
    await fleet.join(Learner("a"))
    await fleet.join(Learner("b", reads=drifts))
    await release(bus, "a", "b")
    events = await run(bus, Stage.ROLLED_BACK)
    last = events[-1]
    assert isinstance(last, UpdateRolledBack)
    assert "b: its read-back differs: learning_rate 0.001 asked" in last.reason
    assert {back.agent_id: back.effective["learning_rate"] for back in last.read_backs} == dict.fromkeys("ab", 1e-4)
    assert last.unreached == {}


@pytest.mark.slow
async def test_an_agent_that_says_nothing_takes_the_update_back_and_is_named(bus: Bus, fleet: Agents) -> None:
    await fleet.join(Learner("a"))
    await release(bus, "a", "b")
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert "b: it did not accept within 0.5 s" in last.reason
    assert [back.agent_id for back in last.read_backs] == ["a"]
    assert last.unreached == {"b": "it did not accept within 0.5 s"}


@pytest.mark.slow
async def test_a_confirmed_update_is_taken_back_by_hand(bus: Bus, fleet: Agents) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    await confirmed(bus)
    await request_back(bus)
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert (last.by, last.reason) == (ADA, "worse")
    assert [c.purpose for c in await configurations(bus, "b")] == ["update", "rollback"]
    assert (await configurations(bus, "b"))[-1].values == VALUES


@pytest.mark.slow
async def test_of_two_updates_for_one_agent_the_second_is_taken_back_and_told_why(bus: Bus, fleet: Agents) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b", update_id="first")
    await release(bus, "a", "b")
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", rollout(bus), ack_wait=2))
    ends = [(await ended(bus, Stage.ROLLED_BACK, Stage.CONFIRMED, update_id=name))[-1] for name in ("first", "u")]
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    (loser,) = (event for event in ends if isinstance(event, UpdateRolledBack))
    (winner,) = (event for event in ends if isinstance(event, UpdateConfirmed))
    assert loser.reason.startswith("a: its base moved")
    assert {c.update_id for name in ("a", "b") for c in await configurations(bus, name)} == {winner.update_id}


@pytest.mark.slow
async def test_weights_that_change_during_a_reload_take_it_back(bus: Bus, fleet: Agents) -> None:
    await fleet.join(Learner("a"))
    await fleet.join(Learner("b", weights="other"))
    await release(bus, "a", "b")
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert last.reason == "b: its weights changed during the reload"


async def test_an_agent_that_stops_before_it_reads_back_takes_the_update_back(bus: Bus, fleet: Agents) -> None:
    await fleet.join(Learner("a"))
    stuck = await fleet.join(Stuck("b"))
    await release(bus, "a", "b")
    patient = Rollout(bus, accept_seconds=1.0, apply_seconds=1000.0)
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", patient, ack_wait=2))
    while not await configurations(bus, "b"):
        await asyncio.sleep(0.02)
    await fleet.leave()
    await stuck.stop("signal")
    await ended(bus, Stage.ROLLING_BACK, Stage.ROLLED_BACK)
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    request = next(event for event in history.events if isinstance(event, UpdateRollBackRequested))
    assert request.reason == "b: it stopped (signal) before it read back"


@pytest.mark.parametrize("gone", [("a",), ("b",), ("a", "b")])
async def test_an_agent_that_finishes_before_it_reads_back_leaves_the_rollout(
    bus: Bus, fleet: Agents, gone: tuple[str, ...]
) -> None:
    """Which of the two is the canary is drawn by lot: one finishes in its own stage, whichever that is."""
    agents = {name: await fleet.join(Stuck(name) if name in gone else Learner(name)) for name in ("a", "b")}
    await release(bus, "a", "b")
    patient = Rollout(bus, accept_seconds=5.0, apply_seconds=1000.0)
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", patient, ack_wait=2))
    for name in sorted(gone, key=lambda name: name not in canaries({"a": 0, "b": 0})):
        async with asyncio.timeout(15):
            while not await configurations(bus, name):
                await asyncio.sleep(0.02)
        await agents[name].stop("finished")
    last = (await ended(bus, Stage.ROLLING_BACK, Stage.ROLLED_BACK, Stage.CONFIRMED))[-1]
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert isinstance(last, UpdateConfirmed)
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    assert {back.agent_id for back in replay(history.events).read_backs} == {"a", "b"} - set(gone)
    assert (last.reason == "all of its agents have finished") is (len(gone) == 2)


async def wanted_back_under_a_later_one(bus: Bus, fleet: Agents) -> None:
    """A confirmed update over which, on one of its two agents, another one lies, and which somebody wants back."""
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    await confirmed(bus)
    (ours,) = await Journal(bus).messages("AGENTS", configure_subject("a"))
    later = ours.event.model_copy(update={"update_id": "later", "base": ours.sequence})
    await bus.publish(later, id="later.a.update", after=(configure_subject("a"), ours.sequence))
    await request_back(bus)


@pytest.mark.slow
async def test_values_of_a_later_update_stay_when_an_earlier_one_is_taken_back(bus: Bus, fleet: Agents) -> None:
    await wanted_back_under_a_later_one(bus, fleet)
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert last.unreached == {"a": "it was configured by later.a.update since: roll that back first"}
    assert [back.agent_id for back in last.read_backs] == ["b"]
    assert [c.update_id for c in await configurations(bus, "a")] == ["u", "later"]


async def taken_back_twice(bus: Bus, fleet: Agents) -> tuple[UpdateEvent, UpdateEvent]:
    """ADA takes back what a later update lies over on one agent; then BOB, over that as well."""
    await wanted_back_under_a_later_one(bus, fleet)
    first = (await run(bus, Stage.ROLLED_BACK))[-1]
    await request_back(bus, "again", by=BOB, over_later=True)
    return first, (await run(bus, Stage.ROLLED_BACK))[-1]


@pytest.mark.slow
async def test_what_a_rollback_did_not_reach_is_reached_by_another_one(bus: Bus, fleet: Agents) -> None:
    first, last = await taken_back_twice(bus, fleet)
    assert isinstance(first, UpdateRolledBack)
    assert isinstance(last, UpdateRolledBack)
    assert (set(first.unreached), last.unreached) == ({"a"}, {})
    assert {back.agent_id: back.effective for back in last.read_backs} == {"a": VALUES, "b": VALUES}
    assert [c.purpose for c in await configurations(bus, "b")] == ["update", "rollback"]


@pytest.mark.slow
async def test_an_audit_finds_no_fault_with_a_rollback_that_took_two_attempts(bus: Bus, fleet: Agents) -> None:
    await taken_back_twice(bus, fleet)
    case = case_of("u", [message async for message in collect(bus, "u")])
    checks = (audit.history, audit_rollout.configurations, audit_rollout.stages, audit_rollout.way_back)
    assert [found for check in checks if not isinstance(found := check(case), str)] == []
    assert str(audit_rollout.way_back(case)) == "what ran before runs again on 2 agents"


@pytest.mark.slow
async def test_an_agent_that_went_back_too_late_counts_when_it_is_asked_for_again(bus: Bus, fleet: Agents) -> None:
    """It is not told a second time: what it has learnt since would be lost with it."""
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    await confirmed(bus)
    await fleet.leave()
    await fleet.join(Learner("b"))
    await request_back(bus)
    first = (await run(bus, Stage.ROLLED_BACK))[-1]
    await fleet.join(Learner("a"))
    async with asyncio.timeout(15):
        while (await last_run(bus, "a")).applied != (await Fleet(bus).newest("a"))[0]:
            await asyncio.sleep(0.02)
    await request_back(bus, "again")
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(first, UpdateRolledBack)
    assert isinstance(last, UpdateRolledBack)
    assert (set(first.unreached), last.unreached) == ({"a"}, {})
    assert {back.agent_id for back in last.read_backs} == {"a", "b"}
    assert [c.purpose for c in await configurations(bus, "a")] == ["update", "rollback"]


class SlowFleet(Fleet):
    """A fleet whose second agent is reached late."""

    reached, go_on = asyncio.Event(), asyncio.Event()

    async def send(self, command: ConfigureAgent, message_id: str) -> int:
        if (command.agent_id, command.purpose) == ("b", "update"):
            self.reached.set()
            await self.go_on.wait()
        return await super().send(command, message_id)


class Slow(Rollout):
    """A rollout that is held up just before it configures the second agent."""

    def _fleet(self) -> Fleet:
        return SlowFleet(self.bus, self.accept_seconds, self.apply_seconds)


async def test_what_is_taken_back_while_it_is_being_sent_reaches_no_further_agent(bus: Bus, fleet: Agents) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    SlowFleet.reached, SlowFleet.go_on = asyncio.Event(), asyncio.Event()
    slow = Slow(bus, accept_seconds=0.5, apply_seconds=1.0)
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", slow, ack_wait=2))
    await SlowFleet.reached.wait()
    await request_back(bus)
    last = (await ended(bus, Stage.ROLLED_BACK))[-1]
    SlowFleet.go_on.set()
    await asyncio.sleep(0.1)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    assert isinstance(last, UpdateRolledBack)
    assert last.unreached == {}
    assert [c.purpose for c in await configurations(bus, "a")] == ["update", "rollback"]
    assert [c.purpose for c in await configurations(bus, "b")] == ["rollback"]


async def test_what_is_wanted_back_before_it_started_is_sent_to_nobody(bus: Bus, fleet: Agents) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")

    async def happens(number: int) -> None:
        if number == 1:  # after its resumption, before its start
            await request_back(bus)

    message = await interrupted(bus, rollout(bus), happens)
    await message.ack_sync()
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert (last.read_backs, last.unreached) == ((), {})
    assert await configurations(bus, "a") == await configurations(bus, "b") == []


async def test_what_is_wanted_back_on_its_way_is_taken_back_by_whoever_runs_it(bus: Bus, fleet: Agents) -> None:
    """The request has a lease of its own, which may wait behind every other rollout; here it is never taken."""
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")

    async def happens(number: int) -> None:
        if number == 3:  # after its canary was read back, before the rest is
            await request_back(bus)

    await interrupted(bus, rollout(bus), happens)
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    last = history.events[-1]
    assert isinstance(last, UpdateRolledBack)
    assert (last.by, {back.agent_id for back in last.read_backs}) == (ADA, {"a", "b"})


@pytest.mark.slow
@pytest.mark.parametrize("append", range(3))
async def test_a_rollout_killed_between_two_steps_ends_the_same_and_configures_once(
    bus: Bus, fleet: Agents, append: int
) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    message = await interrupted(bus, rollout(bus), dies_at(append))
    await message.nak()
    events = await run(bus, Stage.CONFIRMED)
    assert isinstance(events[-1], UpdateConfirmed)
    for name in ("a", "b"):
        assert Counter(c.purpose for c in await configurations(bus, name)) == {"update": 1}
    assert sum(isinstance(event, UpdateConfirmed) for event in events) == 1


@pytest.mark.slow
@pytest.mark.parametrize("append", range(2))
async def test_a_way_back_killed_between_two_steps_ends_the_same_and_configures_once(
    bus: Bus, fleet: Agents, append: int
) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    await confirmed(bus)
    await request_back(bus)
    message = await interrupted(bus, rollout(bus), dies_at(append))
    await message.nak()
    last = (await run(bus, Stage.ROLLED_BACK))[-1]
    assert isinstance(last, UpdateRolledBack)
    assert {back.agent_id for back in last.read_backs} == {"a", "b"}
    for name in ("a", "b"):
        assert Counter(c.purpose for c in await configurations(bus, name)) == {"update": 1, "rollback": 1}


@pytest.mark.slow
async def test_a_rollout_whose_holders_keep_dying_is_taken_back_and_fails(bus: Bus, fleet: Agents) -> None:
    for name in ("a", "b"):
        await fleet.join(Learner(name))
    await release(bus, "a", "b")
    message = await interrupted(bus, rollout(bus), dies_at(2))
    for delivery in range(RESUMPTIONS):
        history: History[UpdateEvent] = await Journal(bus).read("update", "u")
        resumed = UpdateResumed(update_id="u", holder=f"dead-{delivery}", delivery=2)
        await Journal(bus).append([resumed], history, cause=f"dead-{delivery}")
    await message.nak()
    last = (await run(bus, Stage.FAILED))[-1]
    assert isinstance(last, UpdateFailed)
    assert last.error == "given up: its holders kept dying without a step; taken back on 2 agents"
    assert [c.purpose for c in await configurations(bus, "a")] == ["update", "rollback"]
