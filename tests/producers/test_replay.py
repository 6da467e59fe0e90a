"""Dead letters sent again: the same bytes in the name of who sends them, and a reason where that cannot be."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from working import at_work

from examples import AGENT, EXAMPLES
from people import trusted
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.producers.replay import renewed
from tars.runtime.bus import Bus
from tars.runtime.delivery import Unreadable, put_aside
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.schemas.errors import Poison
from tars.schemas.message import Event
from tars.schemas.update import ProposeUpdate
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
PROPOSE = ProposeUpdate(update_id="u1", agents=(AGENT,), values={"gamma": 0.95}, reason="über")


async def dead(bus: Bus, subject: str, body: bytes) -> int:
    """Put a message aside as a worker would; return its place in DEAD."""
    headers = {"Nats-Msg-Id": "c-old", "Tars-By": "ada", "Tars-Key": "ada's", "Tars-Signature": "ada's"}
    letter = Unreadable("COMMANDS", "update-command", 7, subject, body, headers)
    await put_aside(bus, letter, "attempts-exhausted", Poison("no luck"))
    return (await bus.stream("DEAD")).state.last_seq


async def ledger(bus: Bus) -> History[Event]:
    return await Journal(bus).read("update", "u1")


@pytest.fixture
async def agent(bus: Bus) -> None:
    """A live agent, as its own event tells."""
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")


async def test_a_dead_command_is_carried_out_in_the_name_of_who_sends_it_again(
    bus: Bus, settings: Settings, agent: None
) -> None:
    sequence = await dead(bus, PROPOSE.subject, PROPOSE.model_dump_json().encode())
    async with at_work(sync(settings).serve(0)), AsyncClient.connect(settings.nats_url, user="grace") as client:
        outcome = await client.replay(sequence)
    assert outcome.events == ("update.proposed.v1",)
    proposed = (await ledger(bus)).entries[0]
    assert str(getattr(proposed.event, "by", None)) == "grace (unsigned)"
    assert proposed.id.startswith(f"replay-{sequence}-")


async def test_what_has_long_been_late_is_sent_with_a_new_deadline_and_nothing_else_new(
    bus: Bus, settings: Settings, agent: None
) -> None:
    late = PROPOSE.model_copy(update={"deadline": datetime.now(UTC) - timedelta(days=1)})
    sequence = await dead(bus, late.subject, late.model_dump_json().encode())
    async with at_work(sync(settings).serve(0)), AsyncClient.connect(settings.nats_url, user="grace") as client:
        assert (await client.replay(sequence)).events == ("update.proposed.v1",)
    assert getattr((await ledger(bus)).events[0], "reason", None) == "über"


async def test_a_replay_is_signed_by_who_sends_it_and_needs_their_right(
    bus: Bus, settings: Settings, agent: None, tmp_path: Path
) -> None:
    """The trust file lets ada propose; what was signed before the letter died counts for nothing."""
    folder = tmp_path / "keys"
    trusted(folder)
    proposal = await dead(bus, PROPOSE.subject, PROPOSE.model_dump_json().encode())
    async with (
        at_work(sync(settings.model_copy(update={"tars_data": folder})).serve(0)),
        AsyncClient.connect(settings.nats_url, key=folder / "keys" / "ada.key") as ada,
        AsyncClient.connect(settings.nats_url, user="somebody without a key") as nobody,
    ):
        with pytest.raises(CommandRefused, match="it is not signed"):
            await nobody.replay(proposal)
        await ada.replay(proposal)
        assert str(getattr((await ledger(bus)).events[0], "by", None)) == "ada"
        approval = await dead_later(bus, "tars.command.update.approve.v1.u1", b'{"update_id":"u1"}')
        with pytest.raises(CommandRefused, match=r"ada may not: update.approve.v1 needs the role approver"):
            await ada.replay(approval)


async def dead_later(bus: Bus, subject: str, body: bytes) -> int:
    """Put another message aside."""
    await put_aside(bus, Unreadable("COMMANDS", "update-command", 8, subject, body), "malformed", Poison("no luck"))
    return (await bus.stream("DEAD")).state.last_seq


@pytest.mark.parametrize(
    "subject",
    ["tars.event.study.started.v1.s1", "tars.command.trial.run.v1.s1.4", "tars.command.agent.configure.v1.a", "x"],
)
async def test_only_what_people_send_can_be_sent_again(bus: Bus, settings: Settings, subject: str) -> None:
    sequence = await dead(bus, subject, b"{}")
    async with AsyncClient.connect(settings.nats_url) as client:
        with pytest.raises(CommandRefused, match=f"letter {sequence} cannot be sent again: {subject} is no command"):
            await client.replay(sequence)
        with pytest.raises(CommandRefused, match=f"there is no dead letter {sequence + 1}"):
            await client.replay(sequence + 1)


async def test_a_host_s_letter_is_never_sent_again_whatever_it_says_that_it_was(bus: Bus, settings: Settings) -> None:
    """The role `attached` may write it, and who sent it again would sign an approval that nobody asked for."""
    forged = Unreadable("AGENTS", "a-7", 3, "tars.command.update.approve.v1.u1", b'{"update_id":"u1"}')
    await put_aside(bus, forged, "attempts-exhausted", Poison("no luck"))
    async with AsyncClient.connect(settings.nats_url) as client:
        with pytest.raises(CommandRefused, match=r"it lies on tars\.dead\.AGENTS\.a-7: only what a worker put aside"):
            await client.replay((await bus.stream("DEAD")).state.last_seq)


async def test_what_nobody_can_read_is_said_to_be_dead_again(bus: Bus, settings: Settings) -> None:
    sequence = await dead(bus, "tars.command.update.approve.v9.u1", b"\xff")
    async with (
        at_work(sync(settings).serve(0), consumers(settings).serve(0)),
        AsyncClient.connect(settings.nats_url) as client,
    ):
        with pytest.raises(CommandRefused, match=f"newer-version.*it is dead letter {sequence + 1}"):
            await client.replay(sequence)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[1]", b'{"a":1e400,"deadline":"soon"}', b'{"x":1, "deadline":"2026-11-24T12:00:01Z"}'],
)
def test_bytes_stay_as_they_are_while_a_deadline_is_ahead_or_cannot_be_read(body: bytes) -> None:
    assert renewed(body, NOW) == body


@pytest.mark.parametrize("deadline", [{}, {"deadline": None}, {"deadline": "2026-11-24T11:59:59"}])
def test_a_deadline_that_has_passed_or_is_missing_is_renewed(deadline: dict[str, object]) -> None:
    rest = {"update_id": "u1", "values": {"gamma": 0.1, "n": 2**53}}
    found = json.loads(renewed(json.dumps(rest | deadline).encode(), NOW))
    assert datetime.fromisoformat(found.pop("deadline")) > NOW
    assert found == rest
