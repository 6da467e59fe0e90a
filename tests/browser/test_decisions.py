"""What a person does on the page, in a real browser, and what the ledger says of it afterwards."""

import asyncio

import pytest
from stage import Stage, until

from browsing import FLEET, House, Window
from tars.runtime.bus import connect_bus
from tars.runtime.delivery import Unreadable, put_aside
from tars.schemas.errors import Poison
from tars.schemas.hyperparameters import Value
from tars.schemas.update import ProposeUpdate

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CHANGE: dict[str, Value] = {"learning_rate": 1e-3}


def verbs(stage: Stage, update_id: str) -> list[str]:
    """What happened to an update, in order."""
    return [kind.split(".")[1] for kind, _, _ in stage.said(update_id)]


def rates(stage: Stage) -> set[Value]:
    """Learning rates that the agents run."""
    return {row.values["learning_rate"] for row in stage.client.agents()}


def test_an_approved_update_reloads_the_agents_and_is_rolled_back_from_its_audit(house: House, window: Window) -> None:
    stage = house.stage
    before = rates(stage)
    stage.client.propose(CHANGE, agents=FLEET, update_id="u-yes", reason="from the laboratory")
    window.open("/approvals", "u-yes").write("reason-u-yes", "good enough").press("approve-u-yes")
    window.sees("u-yes is approved.")
    until(lambda: verbs(stage, "u-yes")[-1:] == ["confirmed"])
    assert rates(stage) == {1e-3}
    assert ("update.approved.v1", "grace (unsigned)", "approved: good enough") in stage.said("u-yes")
    window.open("/changes?id=u-yes", "confirmed").write("reason-u-yes", "only to see").press("roll_back-u-yes")
    window.sees("u-yes is to be rolled back.", "rolled back")
    until(lambda: verbs(stage, "u-yes")[-1:] == ["rolled-back"])
    assert rates(stage) == before


def test_a_rejected_update_leaves_the_queue(house: House, window: Window) -> None:
    stage = house.stage
    stage.client.propose(CHANGE, agents=FLEET[:1], update_id="u-no")
    window.open("/approvals", "u-no").write("reason-u-no", "not on a Friday").press("reject-u-no")
    window.sees("u-no is rejected.", "Nothing waits for approval.")
    assert stage.said("u-no")[-1] == ("update.rejected.v1", "grace (unsigned)", "rejected: not on a Friday")


def test_what_is_proposed_by_hand_is_checked_first_and_waits_then(house: House, window: Window) -> None:
    stage = house.stage
    window.open("/approvals", "Nothing waits for approval.").press("propose-open").sees("Strictness")
    window.write("set-gamma", "1.5").press("propose-check").sees("gamma")
    window.press("propose-send").sees("gamma")
    assert not stage.client.pending()
    window.write("set-gamma", "0.97").write("propose-reason", "a shorter horizon").press("propose-send")
    window.sees("is proposed.")
    [row] = stage.client.pending()
    assert (row.proposed_by, row.values, row.reason) == ("grace (unsigned)", {"gamma": 0.97}, "a shorter horizon")
    stage.client.reject(row.update_id)


def test_a_dead_command_is_replayed(house: House, window: Window) -> None:
    stage = house.stage
    command = ProposeUpdate(update_id="u-risen", agents=FLEET[:1], values={"gamma": 0.97}, reason="late")

    async def die() -> int:
        bus = await connect_bus(stage.nats.url, "test", patience=5)
        letter = Unreadable("COMMANDS", "update-command", 1, command.subject, command.model_dump_json().encode())
        await put_aside(bus, letter, "attempts-exhausted", Poison("the moon was not up"))
        last = (await bus.stream("DEAD")).state.last_seq
        await bus.close()
        return last

    sequence = asyncio.run(die())
    window.open("/pipeline", "the moon was not up").press(f"replay-{sequence}")
    window.sees(f"dead letter {sequence} is carried out.")
    until(lambda: verbs(stage, "u-risen") == ["proposed"])
    until(lambda: not window.can_press(f"replay-{sequence}"))
    stage.client.reject("u-risen")


@pytest.mark.parametrize("path", ["/", "/agents", "/approvals", "/changes", "/studies", "/coordination", "/pipeline"])
def test_every_page_can_be_opened_by_its_address(window: Window, path: str) -> None:
    window.open(path, "from redis")
    assert "Page not found" not in window.text()
    assert "cannot be drawn" not in window.text()


def test_what_a_proposer_wrote_is_read_as_they_wrote_it(house: House, window: Window) -> None:
    reason = (
        ":green-badge[better] ![seal](https://evil.example/s.png) [Go](https://evil.example) **now** <b>$x$</b> a_b_c"
    )
    house.stage.client.propose({"gamma": 0.97}, agents=FLEET[:1], update_id="u-eve", reason=reason)
    window.open("/approvals?id=u-eve", "u-eve").sees(reason)
    house.stage.client.reject("u-eve", reason)
    window.open("/changes?id=u-eve", "u-eve").sees(reason)
