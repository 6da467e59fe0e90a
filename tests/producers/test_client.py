"""Scripts on a real server with real workers: commands decided, refused, lost and repeated; queries."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.js.errors import APIError
from working import at_work

from examples import AGENT, EXAMPLES, RUNNING
from tars.consumers.app import worker as consumers
from tars.producers import async_client
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.producers.client import Client, connect
from tars.producers.commands import DEADLINE, CommandRefused, NotSent, Outcome, OutcomeUnknown
from tars.runtime.bus import Bus, TooLarge, Unreachable
from tars.runtime.journal import History, Journal
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.agent import AgentStarted
from tars.schemas.message import Answer, By, Command, Event
from tars.schemas.streams import STREAMS, decode
from tars.schemas.study import StopStudy
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate, UpdateRejected
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio
PROPOSE = ProposeUpdate(update_id="u1", agents=(AGENT,), values={"gamma": 0.95})


@pytest.fixture
async def agent(bus: Bus) -> str:
    """A live agent, as its own event tells."""
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
    return AGENT


@pytest.fixture
async def client(nats_server: Server, bus: Bus) -> AsyncIterator[AsyncClient]:
    async with AsyncClient.connect(nats_server.url, user="ada") as connected:
        yield connected


async def history(bus: Bus, update_id: str = "u1") -> tuple[Event, ...]:
    found: History[Event] = await Journal(bus).read("update", update_id)
    return found.events


async def until(true: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await true():
            await asyncio.sleep(0.02)


async def test_a_command_that_is_carried_out_says_what_it_led_to(
    client: AsyncClient, settings: Settings, agent: str
) -> None:
    async with at_work(sync(settings).serve(0)):
        assert await client.send(PROPOSE, command_id="c1") == Outcome("c1", ("update.proposed.v1",))


async def test_a_refused_command_gives_every_reason(client: AsyncClient, settings: Settings, agent: str) -> None:
    wrong = ProposeUpdate(update_id="u1", agents=(AGENT, "nobody"), values={"gamma": 0.5, "gama": 0.9})
    async with at_work(sync(settings).serve(0)):
        with pytest.raises(CommandRefused) as caught:
            await client.send(wrong)
    assert len(caught.value.reasons) == 3
    assert [part for part in ("nobody", "gama", "0.5") if part not in str(caught.value)] == []


async def test_a_command_on_an_unknown_update_is_refused(client: AsyncClient, settings: Settings) -> None:
    async with at_work(sync(settings).serve(0)):
        with pytest.raises(CommandRefused, match="there is no update u9"):
            await client.send(RejectUpdate(update_id="u9"))


async def test_a_lost_reply_costs_nothing(
    client: AsyncClient, settings: Settings, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done and refused alike are found in the ledger by the command's id."""

    async def lost(*_: object) -> None:
        pass

    monkeypatch.setattr(Bus, "answer", lost)
    monkeypatch.setattr(async_client, "LOOK_SECONDS", 0.1)
    async with at_work(sync(settings).serve(0)):
        assert await client.send(PROPOSE, command_id="c1") == Outcome("c1", ("update.proposed.v1",))
        await client.send(RejectUpdate(update_id="u1"))
        with pytest.raises(CommandRefused, match="rejected"):
            await client.send(ApproveUpdate(update_id="u1"))


async def test_an_unknown_outcome_is_said_and_sent_again_under_its_id_it_counts_once(
    client: AsyncClient, bus: Bus, settings: Settings, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as hurry:
        hurry.setattr(async_client, "ANSWER_SECONDS", 0.1)
        hurry.setattr(async_client, "LOOK_SECONDS", 0.05)
        with pytest.raises(OutcomeUnknown, match="does its worker run"):
            await client.send(PROPOSE, command_id="c1")
    async with at_work(sync(settings).serve(0)):
        assert (await client.send(PROPOSE, command_id="c1")).events == ("update.proposed.v1",)
    assert [event.kind for event in await history(bus)] == ["update.proposed.v1"]


async def test_commands_on_one_id_wait_for_each_other_and_others_do_not(client: AsyncClient, bus: Bus) -> None:
    """The second is stored when the first was answered; a command on another id is stored meanwhile."""

    async def stored() -> list[str]:
        state = await bus.jetstream.stream_info("COMMANDS", subjects_filter="tars.command.>")
        return sorted(subject.split(".")[3] + " " + subject.split(".")[5] for subject in state.state.subjects or {})

    async def both_stored() -> bool:
        return await stored() == ["approve u1", "approve u2"]

    first = asyncio.create_task(client.send(ApproveUpdate(update_id="u1"), command_id="c1"))
    second = asyncio.create_task(client.send(RejectUpdate(update_id="u1"), command_id="c2"))
    other = asyncio.create_task(client.send(ApproveUpdate(update_id="u2"), command_id="c3"))
    await until(both_stored)
    await asyncio.sleep(0.2)
    assert await both_stored()
    for command_id in ("c1", "c3"):
        await bus.answer(f"tars.reply.{client.name}.{command_id}", Answer(command_id=command_id, done=True))
    await asyncio.gather(first, other)
    await until(lambda: _has(stored, "reject u1"))
    second.cancel()


async def _has(stored: Callable[[], Awaitable[list[str]]], what: str) -> bool:
    return what in await stored()


async def test_a_command_that_no_stream_takes_is_not_sent_and_says_how_much_one_may_have(
    client: AsyncClient, bus: Bus
) -> None:
    fleet = tuple(f"agent-{number:058}" for number in range(20_000))
    with pytest.raises(NotSent) as caught:
        await client.send(PROPOSE.model_copy(update={"agents": fleet}))
    assert "COMMANDS takes at most 1,048,576" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (await bus.stream("COMMANDS")).state.messages == 0


async def test_the_largest_command_that_is_sent_is_the_largest_that_the_server_stores(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def send(size: int) -> int:
        return await bus.resend(
            PROPOSE.subject, bytes(size), id=f"c{size}", by=By(principal="ada"), reply="tars.reply.me"
        )

    limit = STREAMS["COMMANDS"].max_msg_size
    with pytest.raises(TooLarge) as caught:
        await send(limit)
    too_many = int(str(caught.value).partition(" has ")[2].partition(" bytes")[0].replace(",", "")) - limit
    await send(limit - too_many)
    with pytest.raises(TooLarge):
        await send(limit - too_many + 1)
    monkeypatch.setattr(bus, "_fits", lambda *_: None)
    with pytest.raises(APIError, match="exceeds"):
        await send(limit - too_many + 1)


async def test_what_is_sent_has_a_deadline_a_name_and_a_place_for_the_answer(client: AsyncClient, bus: Bus) -> None:
    sending = asyncio.create_task(client.send(StopStudy(study_id="s1"), command_id="c1"))
    await until(lambda: bus.last("COMMANDS", "tars.command.study.stop.v1.s1"))
    sending.cancel()
    stored = await bus.jetstream.get_last_msg("COMMANDS", "tars.command.study.stop.v1.s1")
    headers, command = stored.headers or {}, decode(stored.subject or "", stored.data or b"")
    assert headers["Nats-Msg-Id"] == "c1"
    assert headers["Tars-By"] == "ada"
    assert headers["Tars-Reply"] == f"tars.reply.{client.name}.c1"
    assert isinstance(command, Command)
    assert command.deadline is not None
    assert stored.time is not None
    assert 0 < (command.deadline - stored.time).total_seconds() <= DEADLINE.total_seconds()


async def test_a_command_handled_after_its_deadline_is_refused(
    client: AsyncClient, settings: Settings, agent: str
) -> None:
    late = PROPOSE.model_copy(update={"deadline": EXAMPLES["update.propose.v1"].deadline})  # type: ignore[attr-defined] # a command
    late = late.model_copy(update={"deadline": late.deadline.replace(year=2020) if late.deadline else None})
    async with at_work(sync(settings).serve(0)):
        with pytest.raises(CommandRefused, match="deadline|late"):
            await client.send(late)


async def test_following_gives_every_event_from_the_first_to_the_last(
    client: AsyncClient, settings: Settings, agent: str
) -> None:
    async def heard() -> list[str]:
        return [e.kind async for e in client.follow("update", "u1", lambda event: isinstance(event, UpdateRejected))]

    async with at_work(sync(settings).serve(0)):
        await client.send(PROPOSE)
        following = asyncio.create_task(heard())
        await client.send(RejectUpdate(update_id="u1"))
        assert await following == ["update.proposed.v1", "update.rejected.v1"] == await heard()


async def test_a_query_that_nobody_answers_says_what_to_start(client: AsyncClient) -> None:
    with pytest.raises(NobodyAnswers, match="tars run consumers"):
        await client.query("agents")


async def test_without_a_server_connecting_says_what_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(async_client, "PATIENCE", 0.3)
    with pytest.raises(Unreachable, match="tars up"):
        async with AsyncClient.connect("nats://127.0.0.1:9"):
            pass


def workflow(client: Client) -> list[str]:
    """What a person does in a script; the view follows the ledger, so its row is waited for."""
    update = client.propose({"gamma": 0.95}, role="policy", reason="by hand", update_id="u1")
    update.reject("not today")
    ended = update.wait(timeout=10)
    end = time.monotonic() + 20
    while (row := client.update("u1")) is None or row.stage != "rejected":
        assert time.monotonic() < end
    return [ended.kind, row.stage, *[entry.kind for entry in row.history]]


async def caught_up(client: AsyncClient, count: int) -> None:
    """Wait until the consumers have seen so many agents."""

    async def seen() -> bool:
        try:
            return len(await client.query("agents")) == count
        except NobodyAnswers:
            return False

    await until(seen)


async def test_a_script_proposes_rejects_waits_and_reads_the_history(
    nats_server: Server, client: AsyncClient, settings: Settings, agent: str
) -> None:
    def script() -> list[str]:
        with connect(nats_server.url, user="ada") as synchronous:
            return workflow(synchronous)

    async with at_work(sync(settings).serve(0)), at_work(consumers(settings).serve(0)):
        await caught_up(client, 1)
        told = await asyncio.to_thread(script)
    assert told == ["update.rejected.v1", "rejected", "update.proposed.v1", "update.rejected.v1"]


async def test_every_query_is_answered_with_typed_rows(
    nats_server: Server, client: AsyncClient, settings: Settings, agent: str
) -> None:
    def ask() -> None:
        with connect(nats_server.url) as c:
            assert [(row.agent_id, row.values) for row in c.agents()] == [(AGENT, RUNNING)]
            assert c.learners("policy") == (AGENT,)
            assert [c.history("nobody"), c.pending(), c.updates(), c.studies(), c.trials("s1"), c.dead()] == [[]] * 6
            assert [c.conflicts(), c.equilibria()] == [[]] * 2
            assert (c.update("u1"), c.study("s1")) == (None, None)
            assert {row.stream for row in c.pipeline()} <= set(STREAMS)
            assert c.stats().agents == 1
            with pytest.raises(CommandRefused, match="no live agent with the role ethical"):
                c.propose({"gamma": 0.95}, role="ethical")

    async with at_work(consumers(settings).serve(0)):
        await caught_up(client, 1)
        await asyncio.to_thread(ask)


async def test_waiting_ends_with_a_timeout_when_nothing_ends(nats_server: Server, bus: Bus) -> None:
    def wait() -> None:
        with connect(nats_server.url) as c, pytest.raises(TimeoutError):
            c.wait_for_update("u1", timeout=0.05)

    await asyncio.to_thread(wait)


async def test_a_stopped_agent_is_not_proposed_for(
    nats_server: Server, client: AsyncClient, bus: Bus, settings: Settings, agent: str
) -> None:
    other = AgentStarted.model_validate(EXAMPLES["agent.started.v1"].model_dump() | {"agent_id": "b", "run_id": "r-2"})
    await bus.publish(other, id="b1")
    await bus.publish(EXAMPLES["agent.stopped.v1"], id="a2")

    def learners() -> tuple[str, ...]:
        with connect(nats_server.url) as c:
            return c.learners("policy")

    async with at_work(consumers(settings).serve(0)):
        await caught_up(client, 2)
        assert await asyncio.to_thread(learners) == ("b",)
