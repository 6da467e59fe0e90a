"""What becomes of a message: acknowledged after its effect, retried, answered, or put aside with the reason."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from faststream import AckPolicy, Context
from faststream.nats import JStream, NatsRouter, PullSub

from tars.runtime import delivery
from tars.runtime.app import Worker
from tars.runtime.bus import Bus
from tars.runtime.delivery import decoded
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.schemas.errors import Conflict, Refused, Transient
from tars.schemas.message import Answer, By, Envelope
from tars.schemas.streams import history_subject
from tars.schemas.update import (
    ApplyUpdate,
    ApproveUpdate,
    ProposeUpdate,
    RejectUpdate,
    RollBackUpdate,
    UpdateCommand,
    UpdateEvent,
    UpdateReleased,
)

pytestmark = pytest.mark.anyio
ADA = By(principal="ada")


class Behaviour:
    """A handler that does what each command is made to stand for, and counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.router = NatsRouter()
        self.router.subscriber(
            "tars.command.update.>",
            stream=JStream("COMMANDS", declare=False),
            durable="update-command",
            pull_sub=PullSub(batch_size=1, timeout=1),
            ack_policy=AckPolicy.MANUAL,
            decoder=decoded,
            no_reply=True,
        )(self.handle)

    async def handle(
        self, command: UpdateCommand, envelope: Annotated[Envelope, Context()], journal: Annotated[Journal, Context()]
    ) -> Sequence[UpdateEvent]:
        self.calls.append(command.kind)
        history: History[UpdateEvent] = await journal.read("update", command.update_id)
        match command:
            case RejectUpdate():
                raise Refused("it is too late", "and too dark")
            case ApplyUpdate() if len(self.calls) < 3:
                raise Transient("the moon is not up")
            case RollBackUpdate() if len(self.calls) < 4:
                raise Conflict("somebody else was first")
            case ProposeUpdate():
                raise ZeroDivisionError("a bug")
            case _:
                released = UpdateReleased(update_id=command.update_id, by=envelope.by)
                return await journal.append([released], history, cause=envelope.id)


@pytest.fixture
async def limited(bus: Bus, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Behaviour]:
    """The same worker, which takes two commands a minute from a sender."""
    async with misbehaving(bus, settings.model_copy(update={"rate_limit_per_minute": 2}), monkeypatch) as behaviour:
        yield behaviour


@pytest.fixture
async def behaviour(bus: Bus, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Behaviour]:
    """A real worker whose handler misbehaves on demand; delays are short."""
    async with misbehaving(bus, settings, monkeypatch) as behaviour:
        yield behaviour


@asynccontextmanager
async def misbehaving(bus: Bus, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Behaviour]:
    monkeypatch.setattr(delivery, "DELAYS", (0.05, 0.05, 0.05))
    behaviour = Behaviour()
    worker = Worker("sync", settings, durables=("update-command",), routers=(behaviour.router,))
    serving = asyncio.create_task(worker.serve(0))
    yield behaviour
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await bus.client.flush()


async def ask(bus: Bus, command: UpdateCommand, command_id: str = "c1") -> Answer:
    replies = await bus.client.subscribe(f"tars.reply.test.{command_id}")
    await bus.publish(command, id=command_id, by=ADA, reply=f"tars.reply.test.{command_id}")
    return Answer.model_validate_json((await replies.next_msg(timeout=10)).data)


async def dead(bus: Bus, number: int) -> dict[str, str]:
    """The headers of the n-th dead letter, once it is there."""
    async with asyncio.timeout(10):
        while (await bus.stream("DEAD")).state.messages < number:
            await asyncio.sleep(0.02)
    return dict((await bus.jetstream.get_msg("DEAD", seq=number)).headers or {})


async def none_left(bus: Bus) -> bool:
    """What was answered or put aside is acknowledged right after."""
    async with asyncio.timeout(10):
        while (await bus.stream("COMMANDS")).state.messages:
            await asyncio.sleep(0.01)
    return True


async def test_a_handled_command_is_answered_and_leaves_the_queue(bus: Bus, behaviour: Behaviour) -> None:
    answer = await ask(bus, ApproveUpdate(update_id="u1"))
    assert answer == Answer(command_id="c1", done=True, events=("update.released.v1",))
    assert await none_left(bus)
    stored = await bus.last("EVENTS", history_subject("update", "u1"))
    assert stored is not None
    assert b'"principal":"ada"' in stored[2]


async def test_a_refusal_is_answered_with_every_reason_and_is_no_dead_letter(bus: Bus, behaviour: Behaviour) -> None:
    answer = await ask(bus, RejectUpdate(update_id="u1"))
    assert not answer.done
    assert answer.reasons == ("it is too late", "and too dark")
    assert await none_left(bus)
    assert (await bus.stream("DEAD")).state.messages == 0


async def test_what_is_not_possible_yet_is_tried_again_until_it_is(bus: Bus, behaviour: Behaviour) -> None:
    assert (await ask(bus, ApplyUpdate(update_id="u1"))).done
    assert behaviour.calls == ["update.apply.v1"] * 3


async def test_a_command_that_comes_again_counts_once_for_its_sender_s_rate(bus: Bus, limited: Behaviour) -> None:
    assert (await ask(bus, ApplyUpdate(update_id="u"))).done
    assert len(limited.calls) == 3
    assert (await ask(bus, ApproveUpdate(update_id="u"), "c2")).done
    assert not (await ask(bus, ApproveUpdate(update_id="u"), "c3")).done


async def test_a_conflict_is_decided_again_at_once(bus: Bus, behaviour: Behaviour) -> None:
    assert (await ask(bus, RollBackUpdate(update_id="u1"))).done
    assert behaviour.calls == ["update.roll-back.v1"] * 4


async def test_a_bug_ends_as_a_dead_letter_with_its_name_and_the_original_bytes(bus: Bus, behaviour: Behaviour) -> None:
    command = ProposeUpdate(update_id="u1", agents=("a",), values={"gamma": 0.9})
    await bus.publish(command, id="c1", by=ADA)
    headers = await dead(bus, 1)
    assert headers["Tars-Dead-Reason"] == "attempts-exhausted"
    assert "ZeroDivisionError: a bug" in headers["Tars-Dead-Error"]
    assert headers["Tars-Dead-Subject"] == command.subject
    assert headers["Tars-Dead-Attempts"] == str(delivery.ATTEMPTS)
    body = (await bus.jetstream.get_msg("DEAD", seq=1)).data
    assert body == command.model_dump_json().encode()
    assert await none_left(bus)


@pytest.mark.parametrize(
    ("subject", "body", "reason"),
    [
        ("tars.command.update.approve.v1.u1", b'{"update_id":', "malformed"),
        ("tars.command.update.approve.v1.u1", b"\xff\xfe", "malformed"),
        ("tars.command.update.approve.v1.u1", b"", "malformed"),
        ("tars.command.update.approve.v1.u1", b'{"update_id":"u1","typo":1}', "malformed"),
        ("tars.command.update.approve.v1.u1", b'{"update_id":"u2"}', "malformed"),
        (
            "tars.command.update.propose.v1.u1",
            b'{"update_id":"u1","agents":["a"],"values":{"gamma":NaN}}',
            "malformed",
        ),
        ("tars.command.update.approve.v2.u1", b'{"update_id":"u1"}', "newer-version"),
        ("tars.command.update.sing.v1.u1", b'{"update_id":"u1"}', "unknown-kind"),
        ("tars.command.update.approved.v1.u1", b'{"update_id":"u1"}', "unknown-kind"),
    ],
)
async def test_what_nobody_can_read_is_put_aside_and_the_next_message_is_handled(
    bus: Bus, behaviour: Behaviour, subject: str, body: bytes, reason: str
) -> None:
    await bus.jetstream.publish(subject, body, stream="COMMANDS")
    assert (await dead(bus, 1))["Tars-Dead-Reason"] == reason
    assert (await ask(bus, ApproveUpdate(update_id="u9"), "c9")).done
    assert behaviour.calls == ["update.approve.v1"]


async def test_an_answer_goes_only_to_a_reply_subject(bus: Bus, behaviour: Behaviour) -> None:
    spied = await bus.client.subscribe("tars.command.agent.configure.v1.a1")
    await bus.publish(ApproveUpdate(update_id="u1"), id="c1", by=ADA, reply="tars.command.agent.configure.v1.a1")
    assert (await ask(bus, ApproveUpdate(update_id="u2"), "c2")).done
    with pytest.raises(TimeoutError):
        await spied.next_msg(timeout=0.2)


async def test_the_trace_of_the_sender_goes_on_in_the_event(bus: Bus, behaviour: Behaviour) -> None:
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    command = ApproveUpdate(update_id="u1")
    await bus.jetstream.publish(
        command.subject,
        command.model_dump_json().encode(),
        stream="COMMANDS",
        headers={"Nats-Msg-Id": "c1", "traceparent": trace},
    )
    async with asyncio.timeout(10):
        while (await bus.stream("EVENTS")).state.messages == 0:
            await asyncio.sleep(0.02)
    headers = (await bus.jetstream.get_msg("EVENTS", seq=1)).headers or {}
    assert headers["traceparent"].split("-")[1] == "ab" * 16
