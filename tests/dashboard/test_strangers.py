"""What others wrote is shown as they wrote it: it draws nothing on the page, wherever it comes in."""

import asyncio

import pytest
from stage import Stage, markdown, show, texts, until

from examples import AGENT, CHANGE, EXAMPLES, LATER, RUNNING
from played_studies import started
from tars.dashboard.app import PAGES
from tars.runtime.bus import connect_bus
from tars.runtime.delivery import Unreadable, put_aside
from tars.schemas.agent import AgentStarted
from tars.schemas.errors import Poison
from tars.schemas.message import By
from tars.schemas.study import StudyFailed
from tars.schemas.update import UpdateApproved, UpdateProposed, UpdateRefused

BADGE = ":violet-badge[approved]"
"""No page draws one of its own in this colour."""
MARKUP = f"{BADGE} ![seal](https://evil.example/seal.png) [Approve](https://evil.example) <b>$now$</b> `_*~`"
EVE = By(principal=f"eve {BADGE}")


def draws_nothing_of(page_name: str, wrote: str = MARKUP, **query: str) -> None:
    """The page shows what was written, and takes none of it for markup."""
    until(lambda: wrote in texts(show(page_name, **query)))
    written = markdown(show(page_name, **query))
    for markup in (BADGE, "![seal]", "[Approve](", "<b>", "$now$", "`_*~`"):
        assert markup not in written


@pytest.mark.parametrize("name", [page.name for page in PAGES])
def test_an_id_in_the_address_is_no_markup(stage: Stage, name: str) -> None:
    stage.publish(EXAMPLES["game.reported.v1"], started(study_id="s-shown"))
    until(stage.client.equilibria)
    until(lambda: stage.client.study("s-shown"))
    draws_nothing_of(name, id=MARKUP)


def test_the_reason_of_a_proposal_is_no_markup(stage: Stage) -> None:
    stage.publish(proposed("u-eve"))
    draws_nothing_of("approvals", id="u-eve")
    draws_nothing_of("approvals", str(EVE), id="u-eve")
    draws_nothing_of("changes", str(EVE), id="u-eve")


def proposed(update_id: str) -> UpdateProposed:
    return UpdateProposed(
        update_id=update_id, by=EVE, values=CHANGE, base={AGENT: 0}, before={AGENT: RUNNING}, evidence=None,
        study_id=None, reason=MARKUP.replace(" ", "\n\n", 1), expires_at=LATER, strictness="medium",
        content="5f" * 32,
    )  # fmt: skip


def test_why_an_update_was_refused_and_who_approved_it_are_no_markup(stage: Stage) -> None:
    refused = UpdateRefused(update_id="u-refused", by=EVE, reasons=(MARKUP,), agents=(AGENT,), values=CHANGE)
    approved = UpdateApproved(update_id="u-approved", by=EVE, mode="manual", reason="", hold=True)
    stage.publish(refused, proposed("u-approved"), approved)
    draws_nothing_of("changes", id="u-refused")
    draws_nothing_of("changes", f"approved by {EVE}", id="u-approved")
    draws_nothing_of("changes", f"✓ approved: {EVE}", id="u-approved")


def test_the_error_of_a_study_who_started_it_and_where_are_no_markup(stage: Stage) -> None:
    environment = MARKUP.replace(" ", "")
    study = started(study_id="s-eve", by=EVE, environment=environment)
    stage.publish(study, StudyFailed(study_id="s-eve", error=MARKUP))
    draws_nothing_of("studies", id="s-eve")
    draws_nothing_of("studies", environment, id="s-eve")
    assert [BADGE in str(metric.value) for metric in show("studies", id="s-eve").metric] == [False] * 4


def test_the_role_of_an_agent_is_no_markup(stage: Stage) -> None:
    stage.publish(
        AgentStarted(
            agent_id="eve", run_id="r-2", role=MARKUP, algorithm="dqn", world=None, values=RUNNING, heard_version=0,
            applied_version=0,
        )
    )  # fmt: skip
    draws_nothing_of("agents")
    draws_nothing_of("agents", id="eve")


def test_a_dead_letter_is_no_markup(stage: Stage) -> None:
    subject = f"tars.event.{MARKUP.replace(' ', '')}"

    async def put() -> None:
        bus = await connect_bus(stage.nats.url, "test", patience=5)
        letter = Unreadable("COMMANDS", "update-command", 1, subject, b"")
        await put_aside(bus, letter, "attempts-exhausted", Poison(MARKUP))
        await bus.close()

    asyncio.run(put())
    draws_nothing_of("pipeline")
    draws_nothing_of("pipeline", subject)
    helps = [str(button.help) for button in show("pipeline").button]
    assert any("evil" in told for told in helps)
    assert not any(BADGE in told for told in helps)
