"""A proposal made by hand: checked by the sync worker's own rules before it is sent, and then sent as any other."""

import pytest
from stage import Stage, read, show, texts, until
from streamlit.testing.v1 import AppTest

from examples import AGENT, RUNNING
from tars.dashboard.by_hand import CHOSEN, inputs, targets, typed
from tars.schemas.views import AgentRow

ROW = AgentRow(agent_id=AGENT, role="policy", algorithm="dqn", values=RUNNING)


def form(target: str = "policy", **values: str) -> AppTest:
    """The form with something typed into it."""
    page = show("approvals", propose=target)
    for name, text in values.items():
        page.text_input(key=f"set-{name}").input(text)
    return page


def errors(page: AppTest) -> list[str]:
    return [read(error.value) for error in page.error]


def test_the_queue_leads_to_the_form_and_back(stage: Stage) -> None:
    page = show("approvals").button(key="propose-open").click().run()
    assert page.selectbox(key="propose-for").options == ["policy", CHOSEN]
    page = page.button(key="propose-close").click().run()
    assert "Nothing waits for approval." in texts(page)
    assert "`tars propose --role policy --set gamma=0.97`" in texts(page)


def test_each_key_has_an_input_with_what_runs_its_bounds_and_its_sentence(stage: Stage) -> None:
    page = form()
    assert page.text_input(key="set-gamma").placeholder == "0.99"
    assert "runs 0.99; allowed 0.9 … 0.9999" in texts(page)
    assert page.text_input(key="set-learning_rate").help.startswith("Step size of Adam.")


def test_every_broken_rule_is_shown_at_once_and_nothing_is_sent(stage: Stage) -> None:
    before = stage.count("COMMANDS")
    page = form(gamma="0.5", learning_rate="much", batch_size="6.5", tau="7")
    page = page.button(key="propose-send").click().run()
    told = errors(page)
    assert "learning_rate = much: it must be a finite number, as 64 or 3e-4" in told
    assert "batch_size = 6.5: it must be a whole number, as 64 or 3e-4" in told
    assert any(text.startswith("gamma = 0.5 is outside [0.9, 0.9999]") for text in told)
    assert any(text.startswith("tau = 7") for text in told)
    assert stage.count("COMMANDS") == before


def test_a_check_sends_nothing(stage: Stage) -> None:
    before = stage.count("COMMANDS")
    page = form(gamma="0.97").button(key="propose-check").click().run()
    assert "Nothing speaks against it; nothing was sent." in texts(page)
    page = form().button(key="propose-check").click().run()
    assert errors(page) == ["nothing is changed: type at least one value"]
    assert stage.count("COMMANDS") == before


def test_what_was_typed_is_proposed_once_with_its_reason(stage: Stage) -> None:
    page = form(gamma="0.97", batch_size="64")
    page.text_input(key="propose-reason").input("a hunch")
    before = stage.count("COMMANDS")
    page = page.button(key="propose-send").click().run()
    update_id = page.session_state["propose-id"]
    assert f"{update_id} is proposed." in texts(page)
    assert page.button(key="propose-send").disabled
    assert stage.count("COMMANDS") == before + 1
    until(lambda: stage.client.update(update_id))
    row = stage.client.update(update_id)
    assert row is not None
    assert (row.values, row.base, row.reason) == ({"gamma": 0.97, "batch_size": 64}, {AGENT: 0}, "a hunch")
    page = page.button(key="propose-another").click().run()
    assert page.session_state["propose-id"] != update_id
    assert page.text_input(key="set-gamma").value == ""
    stage.client.reject(update_id)


def test_after_a_refusal_what_is_mended_is_proposed_anew(stage: Stage) -> None:
    stage.client.propose({"gamma": 0.96}, agents=[AGENT], update_id="u-taken")
    stage.client.reject("u-taken")
    page = form(gamma="0.97")
    page.session_state["propose-id"] = "u-taken"
    page = page.button(key="propose-send").click().run()
    assert "u-taken: propose was refused" in texts(page)
    page = page.button(key="propose-send").click().run()
    update_id = page.session_state["propose-id"]
    assert f"{update_id} is proposed." in texts(page)
    stage.client.reject(update_id)


def test_agents_can_be_chosen_one_by_one(stage: Stage) -> None:
    page = form(CHOSEN)
    assert "Choose at least one agent." in texts(page)
    page = page.multiselect(key="propose-agents").select(AGENT).run()
    assert page.text_input(key="set-gamma").placeholder == "0.99"


def test_nobody_who_learns_nobody_to_propose_for() -> None:
    assert targets([ROW.model_copy(update={"state": "stopped"}), AgentRow(agent_id="reference", role="ethical")]) == []


def test_what_strictness_high_bars_is_locked_and_its_steps_start_from_each_agent() -> None:
    other = ROW.model_copy(update={"values": {**RUNNING, "learning_rate": 2e-4}})
    found = {one.name: one for one in inputs([ROW, other], "high")}
    assert found["learning_rate"].runs == "0.0001 or 0.0002"
    assert found["learning_rate"].bounds == "6.66667e-05 … 0.00015 or 0.000133333 … 0.0003"
    locked = [one for one in found.values() if one.locked]
    assert locked
    assert all("May not change at strictness high" in one.help for one in locked)


def test_agents_of_different_algorithms_share_no_form() -> None:
    assert inputs([ROW, ROW.model_copy(update={"algorithm": "ppo"})], "medium") == ()


@pytest.mark.parametrize(("text", "value"), [("64", 64), (" 1_000 ", 1000), ("1,000", 1000)])
def test_whole_numbers_are_read_as_people_write_them(text: str, value: int) -> None:
    assert typed([ROW], {"batch_size": text, "gamma": " "}) == ({"batch_size": value}, [])


def test_nothing_is_a_value_where_the_key_has_it_as_default() -> None:
    ppo = ROW.model_copy(update={"algorithm": "ppo"})
    assert typed([ppo], {"target_kl": "none"}) == ({"target_kl": None}, [])
    assert typed([ROW], {"gamma": "none"})[1]
    assert typed([ROW], {"gamma": "inf"})[1]
