"""Commands of people who logged in at a page, through a real sync worker and real id tokens."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from identity_provider import IdentityProvider, altered, forged, identity_provider, wait_until_over
from people import ADA, GRACE, MALLORY, PAGE, answered, deliver, events_of, refused, signed, soon, trusted
from story import CHANGE, VALUES
from tars.automl_worker.app import worker as coordinator
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.settings import Settings
from tars.runtime.signing import Gateway, key_path
from tars.schemas.agent import AgentStarted
from tars.schemas.message import Answer, Command, Role
from tars.schemas.study import StartStudy
from tars.schemas.update import (
    ApproveUpdate,
    ProposeUpdate,
    RejectUpdate,
    UpdateApproved,
    UpdateEvent,
    UpdateProposed,
    content_of,
)
from tars.sync_worker.app import worker

pytestmark = pytest.mark.anyio
PROPOSE = ProposeUpdate(update_id="u", agents=("a",), values=CHANGE)
REJECT = RejectUpdate(update_id="u", reason="no")


@pytest.fixture(scope="module")
def idp() -> Iterator[IdentityProvider]:
    with identity_provider() as found:
        found.member("ann", "tars-proposers")
        found.member("bo", "tars-approvers", "tars-proposers")
        found.member("vic", "tars-viewers")
        yield found


@pytest.fixture
def believing(settings: Settings, tmp_path: Path, idp: IdentityProvider) -> Settings:
    """Settings of a worker that trusts ADA, GRACE, the page, and the identity provider."""
    trusted(tmp_path / "keys", ADA, GRACE, PAGE)
    own = {"oidc_issuer": idp.issuer, "oidc_client_id": "tars", "tars_data": tmp_path / "keys"}
    return settings.model_copy(update=own)


@pytest.fixture
async def at_work(bus: Bus, believing: Settings) -> AsyncIterator[None]:
    """A sync worker and a coordinator, a live agent in the ledger, and an update that ADA proposed."""
    started = AgentStarted(
        agent_id="a", run_id="r", role="policy", algorithm="dqn", world=None, values=VALUES, heard_version=0,
        applied_version=0,
    )  # fmt: skip
    await bus.publish(started, id="a-started")
    serving = [asyncio.create_task(each(believing).serve(0)) for each in (worker, coordinator)]
    assert (await deliver(bus, signed(ADA, soon(PROPOSE), "c-propose"))).done
    yield
    for task in serving:
        task.cancel()
    await asyncio.gather(*serving, return_exceptions=True)


async def approval(bus: Bus) -> ApproveUpdate:
    """What approves the update of the ledger."""
    update = (await events_of(bus))[0]
    assert isinstance(update, UpdateProposed)
    until = datetime.now(UTC) + timedelta(days=14)
    return soon(ApproveUpdate(update_id="u", content=content_of(update).digest(), apply_until=until, hold=True))


async def said(bus: Bus, idp: IdentityProvider, subject: str, command: Command, *, key: str = "c1") -> Answer:
    """Send a command of somebody who has just logged in, as the page does."""
    token = idp.token(subject)
    return await deliver(bus, signed(idp.gateway(PAGE, token), soon(command), key), token=token)


async def test_an_approval_of_who_logged_in_is_kept_with_claims_and_hash_and_without_the_token(
    bus: Bus, at_work: None, idp: IdentityProvider
) -> None:
    token = idp.token("bo")
    sent = signed(idp.gateway(PAGE, token), await approval(bus), "c1")
    assert (await deliver(bus, sent, token=token)).done
    approved = (await events_of(bus))[-1]
    assert isinstance(approved, UpdateApproved)
    assert approved.signed == sent
    assert (approved.by.principal, approved.by.signed) == (f"{idp.issuer}#bo", True)
    assert approved.by.login == idp.login(token)
    assert str(approved.by) == f"bo@example.com ({idp.issuer}#bo)"
    assert token not in approved.model_dump_json()
    assert token.split(".")[2] not in approved.model_dump_json()


async def test_who_logged_in_may_do_what_their_groups_say(bus: Bus, at_work: None, idp: IdentityProvider) -> None:
    await refused(
        bus, await said(bus, idp, "vic", REJECT), f"{idp.issuer}#vic may not: update.reject.v1 needs the role"
    )
    await refused(bus, await said(bus, idp, "ann", await approval(bus), key="c2"), "needs the role approver")
    assert (await said(bus, idp, "ann", REJECT, key="c3")).done


async def test_studies_are_started_by_who_logged_in_and_may(bus: Bus, at_work: None, idp: IdentityProvider) -> None:
    start = StartStudy(study_id="s", algorithm="dqn", trials=1, quick=True)
    assert "needs the role proposer" in (await said(bus, idp, "vic", start)).reasons[0]
    assert (await said(bus, idp, "ann", start, key="c2")).done


async def test_a_stolen_gateway_key_alone_moves_nothing(bus: Bus, at_work: None, idp: IdentityProvider) -> None:
    command, token = await approval(bus), idp.token("bo")
    bare = signed(PAGE, command, "c1")
    await answered(bus, await deliver(bus, bare), "page is a gateway: it speaks for those who logged in")
    claimed = signed(idp.gateway(PAGE, token), command, "c2")
    await answered(bus, await deliver(bus, claimed), "sent no id token that proves it")
    strange = forged(token, kid=idp.key_id())
    posing = signed(Gateway(PAGE, idp.login(strange), strange), command, "c3")
    await answered(bus, await deliver(bus, posing, token=strange), "it is forged, or was altered")


async def test_a_stolen_id_token_alone_moves_nothing(bus: Bus, at_work: None, idp: IdentityProvider) -> None:
    command, token = await approval(bus), idp.token("bo")
    for number, key in enumerate((MALLORY, ADA, GRACE)):
        sent = signed(idp.gateway(key, token), command, f"c{number}")
        why = "is nobody's in the trust file" if key is MALLORY else f"{key.name} is no gateway"
        await answered(bus, await deliver(bus, sent, token=token), why)


async def test_a_gateway_speaks_for_nobody_but_whoever_the_token_is_about(
    bus: Bus, at_work: None, idp: IdentityProvider
) -> None:
    command, vic, bo = await approval(bus), idp.token("vic"), idp.token("bo")
    another = signed(idp.gateway(PAGE, bo), command, "c1")
    await answered(bus, await deliver(bus, another, token=vic), "its id token is another's")
    roles: tuple[Role, ...] = ("approver", "viewer")
    more = idp.login(vic).model_copy(update={"roles": roles})
    raised = signed(Gateway(PAGE, more, vic), command, "c2")
    await answered(
        bus, await deliver(bus, raised, token=vic), "read its id token differently (approver, viewer and viewer)"
    )
    moved = another.model_copy(update={"id": "c3", "on_behalf": idp.login(vic).canonical().decode()})
    await answered(bus, await deliver(bus, moved, token=vic), "altered")


async def test_a_token_that_is_no_more_or_is_somebody_else_s_is_refused(
    bus: Bus, at_work: None, idp: IdentityProvider
) -> None:
    command, bo = await approval(bus), idp.token("bo")
    elsewhere = idp.token("bo", audience="wiki")
    login = idp.login(bo)
    for number, (token, why) in enumerate(
        (
            (elsewhere, "not for tars alone"),
            (altered(idp.token("vic"), bo), "forged, or was altered"),
            ("x", "no JSON web"),
        )
    ):
        sent = signed(Gateway(PAGE, login, token), command, f"c{number}")
        await answered(bus, await deliver(bus, sent, token=token), why)
    idp.member("gone", "tars-approvers")
    before = idp.login(idp.token("gone"))
    idp.member("gone")
    after = idp.token("gone")
    sent = signed(Gateway(PAGE, before, after), command, "c9")
    await answered(bus, await deliver(bus, sent, token=after), "gone@example.com is in none of the groups")


async def test_four_eyes_compare_who_logged_in(bus: Bus, at_work: None, idp: IdentityProvider) -> None:
    mine = PROPOSE.model_copy(update={"update_id": "own"})
    assert (await said(bus, idp, "bo", mine)).done
    history: History[UpdateEvent] = await Journal(bus).read("update", "own")
    update = history.events[0]
    assert isinstance(update, UpdateProposed)
    until = datetime.now(UTC) + timedelta(days=14)
    yes = ApproveUpdate(update_id="own", content=content_of(update).digest(), apply_until=until, hold=True)
    assert "four eyes" in (await said(bus, idp, "bo", yes, key="c2")).reasons[0]
    assert (await deliver(bus, signed(GRACE, soon(yes), "c3"))).done


async def test_an_approval_said_again_after_another_login_changes_nothing(
    bus: Bus, at_work: None, idp: IdentityProvider
) -> None:
    command = await approval(bus)
    assert (await said(bus, idp, "bo", command)).done
    await asyncio.sleep(1.0)  # another second, another token
    again = await said(bus, idp, "bo", command, key="c2")
    assert (again.done, again.events) == (True, ())


async def test_a_page_sends_for_who_logged_in_by_its_key(
    bus: Bus, at_work: None, believing: Settings, idp: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARS_DATA", str(believing.tars_data))
    bo, vic = idp.token("bo"), idp.token("vic")
    async with AsyncClient.connect(believing.nats, key=key_path(believing.tars_data, "page")) as page:
        with pytest.raises(CommandRefused, match="vic may not"):
            await page.speaking_for(idp.login(vic), vic).send(ApproveUpdate(update_id="u", hold=True))
        with pytest.raises(CommandRefused, match="page is a gateway"):
            await page.send(ApproveUpdate(update_id="u", hold=True))
        await page.speaking_for(idp.login(bo), bo).send(ApproveUpdate(update_id="u", hold=True))
    approved = (await events_of(bus))[-1]
    assert isinstance(approved, UpdateApproved)
    assert approved.by.principal == f"{idp.issuer}#bo"


async def test_no_dead_letter_keeps_a_token(bus: Bus, at_work: None, idp: IdentityProvider) -> None:
    token = idp.token("bo")
    unreadable = signed(idp.gateway(PAGE, token), soon(REJECT), "c1")
    headers = {"Nats-Msg-Id": "c1", "Tars-Id-Token": token, "Tars-On-Behalf": unreadable.on_behalf or ""}
    await bus.jetstream.publish(unreadable.subject, b"{", stream="COMMANDS", headers=headers)
    async with asyncio.timeout(10):
        while (letter := await bus.jetstream.stream_info("DEAD")).state.messages == 0:
            await asyncio.sleep(0.02)
    found = await bus.jetstream.get_msg("DEAD", letter.state.last_seq)
    assert "Tars-On-Behalf" in (found.headers or {})
    assert token not in str(found.headers)


async def test_where_people_log_in_a_missing_trust_file_lets_nobody_through(
    bus: Bus, settings: Settings, tmp_path: Path, idp: IdentityProvider
) -> None:
    own = {"oidc_issuer": idp.issuer, "oidc_client_id": "tars", "tars_data": tmp_path / "none"}
    serving = asyncio.create_task(worker(settings.model_copy(update=own)).serve(0))
    answer = await deliver(bus, signed(GRACE, soon(PROPOSE), "c1"))
    assert "trust.toml is not there" in answer.reasons[0]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.slow
async def test_a_login_that_has_ended_is_refused_however_good_its_signature(
    bus: Bus, settings: Settings, tmp_path: Path
) -> None:
    with identity_provider(seconds=1) as brief:
        brief.member("bo", "tars-approvers", "tars-proposers")
        trusted(tmp_path / "keys", PAGE)
        own = {"oidc_issuer": brief.issuer, "oidc_client_id": "tars", "tars_data": tmp_path / "keys"}
        serving = asyncio.create_task(worker(settings.model_copy(update=own)).serve(0))
        token = brief.token("bo")
        wait_until_over(token)
        answer = await deliver(bus, signed(brief.gateway(PAGE, token), soon(PROPOSE), "c1"), token=token)
        assert "the login of bo@example.com ended at" in answer.reasons[0]
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
