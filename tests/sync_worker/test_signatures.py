"""Signed commands through a real sync worker and coordinator: who may do what, and what stands in the history."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from people import ADA, GRACE, MALLORY, answered, deliver, events_of, refused, signed, soon, trusted
from story import CHANGE, VALUES
from tars.automl_worker.app import worker as coordinator
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.schemas.agent import AgentStarted
from tars.schemas.message import By
from tars.schemas.study import StartStudy
from tars.schemas.update import (
    ApproveUpdate,
    ProposeUpdate,
    UpdateApproved,
    UpdateEvent,
    UpdateProposed,
    content_of,
)
from tars.sync_worker.app import worker

pytestmark = pytest.mark.anyio
PROPOSE = ProposeUpdate(update_id="u", agents=("a",), values=CHANGE)


@pytest.fixture
def signing(settings: Settings, tmp_path: Path) -> Settings:
    """Settings of a worker that trusts ADA to propose and GRACE to approve."""
    trusted(tmp_path / "keys")
    return settings.model_copy(update={"tars_data": tmp_path / "keys"})


@pytest.fixture
async def at_work(bus: Bus, signing: Settings) -> AsyncIterator[None]:
    """A sync worker and a coordinator, and a live agent in the ledger."""
    started = AgentStarted(
        agent_id="a", run_id="r", role="policy", algorithm="dqn", world=None, values=VALUES, heard_version=0,
        applied_version=0,
    )  # fmt: skip
    await bus.publish(started, id="a-started")
    serving = [asyncio.create_task(each(signing).serve(0)) for each in (worker, coordinator)]
    yield
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


async def proposed(bus: Bus) -> UpdateProposed:
    """An update that ADA proposed."""
    assert (await deliver(bus, signed(ADA, soon(PROPOSE), "c-propose"))).done
    event = (await events_of(bus))[0]
    assert isinstance(event, UpdateProposed)
    return event


def approval(update: UpdateProposed, **change: object) -> ApproveUpdate:
    """What GRACE signs."""
    command = ApproveUpdate(update_id="u", content=content_of(update).digest(), apply_until=ahead(days=14), hold=True)
    return soon(command.model_copy(update=change))


def ahead(**time: float) -> datetime:
    return datetime.now(UTC) + timedelta(**time)


async def test_a_signed_approval_is_kept_with_the_bytes_that_prove_it(bus: Bus, at_work: None) -> None:
    sent = signed(GRACE, approval(await proposed(bus)), "c1")
    assert (await deliver(bus, sent)).done
    approved = (await events_of(bus))[-1]
    assert isinstance(approved, UpdateApproved)
    assert (approved.by, approved.signed) == (By(principal="grace", signed=True), sent)
    assert not approved.single_operator


async def test_who_signs_counts_and_not_the_name_in_the_header(bus: Bus, at_work: None) -> None:
    update = await proposed(bus)
    answer = await deliver(bus, signed(ADA, approval(update), "c1"))  # says it is from grace
    await refused(bus, answer, "ada may not: update.approve.v1 needs the role approver")


async def test_an_unsigned_command_is_refused_in_the_answer_alone(bus: Bus, at_work: None) -> None:
    update = await proposed(bus)
    bare = signed(GRACE, approval(update), "c1").model_copy(update={"key": "", "signature": ""})
    await answered(bus, await deliver(bus, bare), "it is not signed")


async def test_a_forged_approval_is_refused_in_the_answer_alone(bus: Bus, at_work: None) -> None:
    forged = signed(MALLORY, approval(await proposed(bus)), "c1")
    await answered(bus, await deliver(bus, forged), "is nobody's in the trust file")
    posing = forged.model_copy(update={"id": "c2", "key": signed(GRACE, PROPOSE, "x").key})
    await answered(bus, await deliver(bus, posing), "not grace's")


async def test_an_altered_approval_is_refused_in_the_answer_alone(bus: Bus, at_work: None) -> None:
    sent = signed(GRACE, approval(await proposed(bus)), "c1")
    await answered(bus, await deliver(bus, sent, body=sent.body.replace('"hold":true', '"hold":false')), "altered")


async def test_an_approval_sent_again_changes_nothing_and_under_another_id_is_refused(bus: Bus, at_work: None) -> None:
    sent = signed(GRACE, approval(await proposed(bus)), "c1")
    await deliver(bus, sent)
    once = ("update.proposed.v1", "update.approved.v1")
    await answered(bus, await deliver(bus, sent, as_id="c2"), "altered", after=once)


async def test_an_approval_of_another_content_is_refused_in_the_history(bus: Bus, at_work: None) -> None:
    other = approval(await proposed(bus), content="0" * 64)
    await refused(bus, await deliver(bus, signed(GRACE, other, "c1")), "approves another content")


async def test_an_approval_that_came_late_or_whose_time_is_over_is_refused_in_the_history(
    bus: Bus, at_work: None
) -> None:
    update = await proposed(bus)
    late = approval(update).model_copy(update={"deadline": ahead(seconds=-1)})
    await refused(bus, await deliver(bus, signed(GRACE, late, "c1")), "after its deadline")
    over = approval(update, apply_until=ahead(seconds=-1))
    await refused(bus, await deliver(bus, signed(GRACE, over, "c2")), "applying it until")


async def test_a_base_that_moved_after_the_approval_was_signed_is_refused(bus: Bus, at_work: None) -> None:
    sent = signed(GRACE, approval(await proposed(bus)), "c1")
    moved = AgentStarted(
        agent_id="a", run_id="r2", role="policy", algorithm="dqn", world=None, values=VALUES, heard_version=7,
        applied_version=7,
    )  # fmt: skip
    await bus.publish(moved, id="a-moved")
    answer = await deliver(bus, sent)
    assert "has moved on" in answer.reasons[0]
    assert [event.kind for event in await events_of(bus)][1:] == ["update.command-refused.v1", "update.superseded.v1"]


async def test_who_proposed_may_not_approve_once_two_may(
    bus: Bus, at_work: None, tmp_path: Path, signing: Settings
) -> None:
    own = soon(PROPOSE.model_copy(update={"update_id": "u"}))
    assert (await deliver(bus, signed(GRACE, own, "c1"))).done
    trusted(tmp_path / "keys", MALLORY)  # a second approver; the file is read again
    update = (await events_of(bus))[0]
    assert isinstance(update, UpdateProposed)
    await refused(bus, await deliver(bus, signed(GRACE, approval(update), "c2")), "four eyes")
    assert (await deliver(bus, signed(MALLORY, approval(update), "c3"))).done


async def test_a_single_operator_s_own_approval_is_marked(bus: Bus, at_work: None) -> None:
    assert (await deliver(bus, signed(GRACE, soon(PROPOSE), "c1"))).done
    update = (await events_of(bus))[0]
    assert isinstance(update, UpdateProposed)
    assert (await deliver(bus, signed(GRACE, approval(update), "c2"))).done
    approved = (await events_of(bus))[-1]
    assert isinstance(approved, UpdateApproved)
    assert approved.single_operator


async def test_a_stranger_s_proposal_spoils_no_id(bus: Bus, at_work: None) -> None:
    answer = await deliver(bus, signed(MALLORY, soon(PROPOSE), "c1"))
    assert "nobody's" in answer.reasons[0]
    assert await events_of(bus) == ()
    await proposed(bus)


async def test_a_study_is_started_by_who_may_propose_alone(bus: Bus, at_work: None) -> None:
    start = soon(StartStudy(study_id="s", algorithm="dqn", trials=1, quick=True))
    assert "not signed" in (await deliver(bus, signed(ADA, start, "c1").model_copy(update={"key": ""}))).reasons[0]
    assert (await deliver(bus, signed(ADA, start, "c2"))).done
    history: History[UpdateEvent] = await Journal(bus).read("study", "s")
    assert getattr(history.events[0], "by", None) == By(principal="ada", signed=True)


async def test_a_script_signs_with_the_key_of_its_user_and_names_what_it_approves(
    bus: Bus, at_work: None, signing: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARS_DATA", str(signing.tars_data))
    async with (
        AsyncClient.connect(signing.nats, user="ada") as ada,
        AsyncClient.connect(signing.nats, user="grace") as grace,
    ):
        await ada.send(PROPOSE)
        with pytest.raises(CommandRefused, match="ada may not"):
            await ada.send(ApproveUpdate(update_id="u"))
        await grace.send(ApproveUpdate(update_id="u", hold=True))
    update, _, approved = await events_of(bus)
    assert isinstance(update, UpdateProposed)
    assert isinstance(approved, UpdateApproved)
    assert approved.apply_until is not None
    assert approved.apply_until > ahead(days=13)
    assert approved.signed is not None
    assert content_of(update).digest() in approved.signed.body
