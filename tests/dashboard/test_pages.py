"""The page on real servers, a real sync worker and real consumers: what a person sees, clicks and is told."""

import math
import re
from pathlib import Path

import pytest
from ledgers import SNAPSHOT
from stage import Stage, show, texts, until
from streamlit.testing.v1 import AppTest

from examples import AGENT, CHANGE, EVIDENCE, EXAMPLES, GRACE, LATER, READ_BACK, RUNNING
from played_studies import Score, better_by, play, started
from tars.dashboard import panels, session
from tars.dashboard.app import PAGES
from tars.dashboard.pages import agents
from tars.schemas.agent import AgentStarted
from tars.schemas.evidence import KeyWorth
from tars.schemas.hyperparameters import DQN
from tars.schemas.study import StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial
from tars.schemas.update import UpdateApproved, UpdateConfirmed, UpdateProposed, UpdateReloaded

START = Path(__file__).parents[2] / "dashboard" / "entry" / "start.py"
MODULES = sorted(path.stem for path in (START.parents[1] / "pages").glob("[!_]*.py"))


ROLLED_BACK = "to be rolled back (the values), with the updates that came after it: it was a mistake"


def click(page: AppTest, button: str) -> AppTest:
    return page.button(key=button).click().run()


def test_the_menu_has_every_page_and_opens_at_the_agents(stage: Stage) -> None:
    page = AppTest.from_file(str(START), default_timeout=20).run()
    assert not page.exception
    assert page.title[0].value == "Agents"
    assert sorted(page.name for page in PAGES) == MODULES


def test_the_script_has_no_pages_beside_it() -> None:
    """Streamlit would run a page's module bare for whoever comes first by a deep link."""
    assert START.is_file()
    assert not (START.parent / "pages").exists()


def test_the_wall_shows_what_an_agent_runs_and_how_it_does(stage: Stage) -> None:
    page = show("agents")
    assert AGENT in [button.label for button in page.button]
    assert "score **0.97** · episode 29 · runs **code**" in texts(page)
    values = page.dataframe[0].value
    assert dict(zip(values["key"], values[f"{AGENT} code"], strict=True))["learning_rate"] == "0.0001"


def test_a_click_on_an_agent_opens_its_history(stage: Stage) -> None:
    page = click(show("agents"), f"open-{AGENT}")
    assert page.query_params["id"] in (AGENT, [AGENT])
    assert {metric.label: metric.value for metric in page.metric}["gradient steps"] == "29"
    assert dict(zip(*page.dataframe[0].value[["key", "value"]].T.to_numpy(), strict=True))["gamma"] == "0.99"


def test_older_episodes_are_a_page_further(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "HISTORY_EPISODES", 20)
    page = show("agents", id=AGENT)
    assert "Episodes 10 to 29." in texts(page)
    page = click(page, "history-older")
    assert "Episodes 0 to 9." in texts(page)
    assert page.button(key="history-older").disabled
    assert "Episodes 10 to 29." in texts(click(page, "history-newer"))
    assert "Episodes 10 to 29." in texts(show("agents", id=AGENT, sheet="no number"))
    assert "No older episode is kept." in texts(show("agents", id=AGENT, sheet="99"))


def test_an_agent_that_runs_other_values_than_it_was_sent_is_shown_as_drifted(stage: Stage) -> None:
    stage.publish(
        AgentStarted(
            agent_id="foreign", run_id="r-2", role="", algorithm="dqn", world=None, values=RUNNING, heard_version=7,
            applied_version=0,
        )
    )  # fmt: skip
    until(lambda: "open-foreign" in [button.key for button in show("agents").button])
    assert ":orange-badge[drifted]" in texts(show("agents"))
    assert "It has heard version 7 and runs the values of its code" in texts(show("agents", id="foreign"))
    assert ":orange-badge[drifted]" not in texts(show("agents", id=AGENT))


def test_a_pending_update_is_shown_with_its_difference_and_its_evidence(stage: Stage) -> None:
    stage.propose("u-shown", CHANGE, EVIDENCE)
    page = show("approvals")
    rows = page.dataframe[0].value[["key", "runs", "proposed", "change"]].to_numpy().tolist()
    assert rows == [["learning_rate", "0.0001", "0.0012", "×12"], ["gamma", "0.99", "0.95", "1-x ×5"]]  # noqa: RUF001
    assert "u-shown" in texts(page)
    assert "The smallest harm that its watch can find is known once its agents have reported 15 episodes." in texts(
        page
    )
    assert "u-shown" in texts(show("approvals", id="u-shown"))
    assert "u-other does not wait for approval: *Changes* shows what became of it." in texts(
        show("approvals", id="u-other")
    )
    assert f"**1 agent** · {AGENT}" in texts(page)
    assert ":green-badge[better] on 2 held-out seeds" in texts(page)
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown["held-out gain"] == "+18.8 pp"
    assert shown["search claimed"] == "+25.0 pp"
    stage.client.reject("u-shown")


def test_a_double_click_on_approve_sends_one_command(stage: Stage) -> None:
    stage.propose("u-yes", {"learning_rate": 0.001})
    before = stage.count("COMMANDS")
    page = show("approvals")
    page.text_input(key="reason-u-yes").input("good enough")
    page.button(key="approve-u-yes").click()
    page.run()
    # AppTest refuses to click on what is drawn disabled; a browser's second click was on its way before that.
    page.session_state["desk"].approve("u-yes", "good enough")
    assert "u-yes is approved." in texts(page)
    assert stage.count("COMMANDS") == before + 1
    until(lambda: len(stage.said("u-yes")) > 2)
    assert stage.said("u-yes")[1] == ("update.approved.v1", "grace (unsigned)", "approved: good enough")


def test_reject_carries_its_reason(stage: Stage) -> None:
    stage.propose("u-no", {"learning_rate": 0.001})
    page = show("approvals")
    page.text_input(key="reason-u-no").input("not on a Friday")
    page = click(page, "reject-u-no")
    assert "u-no is rejected." in texts(page)
    until(lambda: len(stage.said("u-no")) > 1)
    assert stage.said("u-no")[1] == ("update.rejected.v1", "grace (unsigned)", "rejected: not on a Friday")


def test_a_refused_command_shows_every_reason(stage: Stage) -> None:
    stage.propose("u-late", {"learning_rate": 0.001})
    page = show("approvals")
    stage.client.reject("u-late", "ada was quicker")
    page = click(page, "approve-u-late")
    assert "u-late: approve was refused: update is rejected." in texts(page)


def test_one_change_is_audited_with_its_read_backs_and_can_be_rolled_back(stage: Stage) -> None:
    stage.publish(
        UpdateProposed(
            update_id="u-done", by=GRACE, values=CHANGE, base={AGENT: 0}, before={AGENT: RUNNING}, evidence=EVIDENCE,
            study_id="s-17", reason="", expires_at=LATER, strictness="medium", content="5f" * 32,
        ),
        UpdateApproved(update_id="u-done", by=GRACE, mode="manual", reason="", hold=False),
        UpdateReloaded(update_id="u-done", read_backs=(READ_BACK,)),
        UpdateConfirmed(update_id="u-done"),
    )  # fmt: skip
    until(lambda: len(stage.said("u-done")) == 4)
    page = show("changes", id="u-done")
    assert "u-done :green-badge[confirmed]" in texts(page)
    history, read_backs = page.dataframe[0].value, page.dataframe[1].value
    assert history["event"].iloc[0] == "update.proposed.v1"
    assert list(history["who"])[:2] == ["grace", "grace"]
    assert read_backs[["agent", "effective = requested", "weights"]].to_numpy().tolist() == [[AGENT, "equal", "kept"]]
    assert page.selectbox(key="what-u-done").options == ["the values"]
    assert "Only the values can go back: no agent took a snapshot before its reload." in texts(page)
    page.text_input(key="reason-u-done").input("it was a mistake")
    page.checkbox(key="over_later-u-done").check()
    page = click(page, "roll_back-u-done")
    assert "u-done is to be rolled back." in texts(page)
    until(lambda: ROLLED_BACK in [text for _, _, text in stage.said("u-done")])


def test_a_change_is_shown_with_its_effect_and_all_of_it_can_be_taken_back(stage: Stage) -> None:
    judged = EXAMPLES["update.judged.v1"].model_copy(update={"update_id": "u-judged"})
    started = EXAMPLES["update.started.v1"].model_copy(update={"update_id": "u-judged", "normalised": True})
    back = READ_BACK.model_copy(update={"snapshot": SNAPSHOT.model_copy(update={"agent_id": AGENT})})
    stage.publish(
        UpdateProposed(
            update_id="u-judged", by=GRACE, values=CHANGE, base={AGENT: 0}, before={AGENT: RUNNING}, evidence=None,
            study_id=None, reason="why not", expires_at=LATER, strictness="medium", content="5f" * 32,
        ),
        UpdateApproved(update_id="u-judged", by=GRACE, mode="manual", reason="", hold=False),
        started, UpdateReloaded(update_id="u-judged", read_backs=(back,)), judged,
        UpdateConfirmed(update_id="u-judged"),
    )  # fmt: skip
    until(lambda: len(stage.said("u-judged")) == 6)
    row = stage.client.update("u-judged")
    assert row is not None
    assert row.judgements[0].effect is not None
    shown = show("changes").dataframe[0].value.set_index("update").loc["u-judged"]
    assert shown["effect"].startswith(f"{100 * row.judgements[0].effect:+.1f} pp (")
    assert shown["why"] == "why not"
    page = show("changes", id="u-judged")
    assert page.dataframe[0].value["verdict"].tolist() == [row.judgements[0].verdict.replace("_", " ").lower()]
    assert ["key", "before", "proposed"] in [list(table.value.columns[:3]) for table in page.dataframe]
    what = page.selectbox(key="what-u-judged")
    assert what.options == ["the values", "values, weights and optimiser"]
    what.select("all")
    page = click(page, "roll_back-u-judged")
    until(
        lambda: "to be rolled back (values, weights and optimiser)" in [text for _, _, text in stage.said("u-judged")]
    )


def test_what_was_approved_on_hold_is_released_from_the_page(stage: Stage) -> None:
    stage.propose("u-held", {"gamma": 0.975})
    stage.client.approve("u-held", hold=True)
    until(lambda: "approved on hold (single operator)" in [text for _, _, text in stage.said("u-held")])
    page = click(show("changes", id="u-held"), "apply-u-held")
    assert "u-held is released." in texts(page)


def test_all_changes_are_listed_with_stage_and_reason(stage: Stage) -> None:
    stage.propose("u-listed", {"gamma": 0.96})
    stage.client.reject("u-listed", "seen enough")
    until(lambda: len(stage.said("u-listed")) == 2)
    row = show("changes").dataframe[0].value.iloc[0]
    assert row[["update", "stage", "sets", "why"]].tolist() == ["u-listed", "rejected", "gamma 0.96", "seen enough"]


def publish_study(stage: Stage, study: StudyStarted, score: Score) -> StudyFinished:
    """A whole study, played out; until the page can see its end."""
    finished, board = play(study, score)
    stage.publish(study, *board.asked.values(), *board.outcomes.values(), finished)
    until(lambda: (row := stage.client.study(study.study_id)) and row.stage == "finished")
    until(lambda: "finished" in texts(show("studies", id=study.study_id)))
    return finished


def test_a_study_is_shown_with_its_aim_its_front_its_importances_and_what_each_key_is_worth(stage: Stage) -> None:
    def score(trial: RunTrial) -> tuple[float, float, float]:
        changed = trial.hyperparameters["learning_rate"] != DQN.demo_start()["learning_rate"]
        return 0.5 + 0.3 * changed + (trial.seed % 97) / 970, 0.1 - (trial.number % 5) / 100, 0.2

    found = publish_study(stage, started(12, study_id="s-pareto", objective="pareto", explain=True), score)
    assert found.front
    assert found.evidence is not None
    assert found.evidence.worth
    page = show("studies", id="s-pareto")
    assert "Objective: score, conflict and latency apart; trials are trained from fresh weights." in texts(page)
    assert "The Pareto front in colour" in texts(page)
    assert "Importances: by which keys the good trials differ from all." in texts(page)
    assert "What each key is worth" in texts(page)
    trials = page.dataframe[0].value
    assert {"conflict", "latency"} <= set(trials.columns)


def test_a_study_whose_search_is_over_says_what_it_does_now(stage: Stage) -> None:
    study = started(2, study_id="s-weighing", explain=False)
    _, board = play(study, better_by(0.2))
    weighing = next(number for number, trial in sorted(board.asked.items()) if trial.phase == "confirmation")
    stage.publish(study, *(board.asked[number] for number in sorted(board.asked) if number <= weighing))
    until(lambda: len(stage.client.trials("s-weighing")) > 2)
    told = "Now: the best few and the incumbent are trained on held-out seeds."
    until(lambda: told in texts(show("studies", id="s-weighing")))


def test_a_fork_is_shown_by_its_candidates_though_nothing_was_searched(stage: Stage) -> None:
    candidates = ({"learning_rate": 5e-4}, {"gamma": 0.95})
    snapshot = SNAPSHOT.model_copy(update={"agent_id": "a"})
    fork = started(0, study_id="s-fork", candidates=candidates, start="snapshot", snapshots=(snapshot,), explain=False)
    publish_study(stage, fork, better_by(0.2))
    page = show("studies", id="s-fork")
    assert "Nothing is searched: candidates that were given are weighed." in texts(page)
    assert "trained on from a snapshot of the running agent" in texts(page)
    weighed = page.dataframe[1].value
    assert weighed[["changes", "seeds", "verdict"]].to_numpy().tolist() == [
        ["learning_rate 0.0005", 8, "BETTER"], ["gamma 0.95", 8, "BETTER"],
    ]  # fmt: skip


def test_a_study_older_than_those_listed_is_found_by_its_address(stage: Stage) -> None:
    oldest = started(4, study_id="s-oldest", explain=False)
    stage.publish(oldest, *(oldest.model_copy(update={"study_id": f"s-later-{n}"}) for n in range(100)))
    until(lambda: stage.client.study("s-later-99"))
    until(lambda: "s-later-99" in show("studies").selectbox(key="study").options)
    assert "s-oldest" not in show("studies").selectbox(key="study").options
    page = show("studies", id="s-oldest")
    assert page.selectbox(key="study").value == "s-oldest"
    assert "There is no study" not in texts(page)


def test_an_update_says_what_each_of_its_keys_is_worth(stage: Stage) -> None:
    worth = KeyWorth(key="gamma", before=0.99, after=0.95, gain=0.1, gain_low=0.05, gain_high=0.15, seeds=16, kept=True)
    stage.propose("u-worth", CHANGE, EVIDENCE.model_copy(update={"worth": (worth,), "conflict_gain": -0.0125}))
    page = show("approvals")
    assert "What each key is worth: the loss on held-out seeds when it alone is put back." in texts(page)
    assert "conflicts a step -0.013" in texts(page)
    stage.client.reject("u-worth")


def test_what_does_not_exist_is_said_to_be_missing(stage: Stage) -> None:
    for name in ("agents", "changes", "studies"):
        assert "There is no" in texts(show(name, id="nobody"))


def test_without_nats_a_command_is_not_sent_now_nor_later(stage: Stage) -> None:
    stage.propose("u-dark", {"learning_rate": 0.001})
    page = show("approvals")
    stage.nats.kill()
    try:
        until(lambda: not _reached(page))
        page = click(page, "approve-u-dark")
        assert "u-dark: approve was NOT sent" in texts(page)
        assert not page.button(key="approve-u-dark").disabled
    finally:
        stage.restart_nats()
    until(lambda: _reached(page))
    until(lambda: stage.said("u-dark"))
    assert [kind for kind, _, _ in stage.said("u-dark")] == ["update.proposed.v1"]
    assert "u-dark is approved." in texts(click(page, "approve-u-dark"))


def _reached(page: AppTest) -> bool:
    """Whether a command could be sent now."""
    try:
        page.session_state["desk"].open()
    except Exception:  # noqa: BLE001 - why not is another test's matter
        return False
    return True


def test_when_both_are_away_the_last_rows_stay_with_their_age(stage: Stage) -> None:
    page = show("agents")
    stage.valkey.kill()
    stage.nats.kill()
    try:
        until(lambda: "Neither Redis nor the consumers answer: what you see is" in texts(page.run()))
        assert AGENT in [button.label for button in page.button]
        assert "Nothing can be shown" in texts(show("changes", id="never-asked-before"))
    finally:
        stage.restart_nats()
        stage.restart_valkey()
    until(lambda: "from redis" in texts(page.run()))


def test_while_redis_is_away_the_consumers_are_asked_and_it_comes_back_by_itself(stage: Stage) -> None:
    page = show("agents")
    until(lambda: "from redis" in texts(page.run()))
    stage.valkey.kill()
    until(lambda: "from queries" in texts(page.run()))
    assert "Redis is away" in texts(page)
    assert AGENT in [button.label for button in page.button]
    stage.restart_valkey()
    until(lambda: "from redis" in texts(page.run()))
    assert "Redis is away" not in texts(page)


def test_while_no_consumer_writes_a_banner_says_how_old_the_rows_are(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = show("approvals")
    until(lambda: re.search(r"read at [0-9:]+ UTC, \d+ s old, from redis", texts(page.run())))
    assert "The consumers have not written" not in texts(page)
    monkeypatch.setattr(panels, "LATE_SECONDS", 2.0)
    stage.nats.kill()  # without it the consumers have nothing to write, as if they were away themselves
    try:
        until(lambda: re.search(r"The consumers have not written for \d+ s", texts(page.run())))
    finally:
        stage.restart_nats()
    until(lambda: "The consumers have not written" not in texts(page.run()))


def test_a_redis_that_nobody_ever_wrote_is_said_to_be_empty(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.reader().sources[0], "age", lambda: math.inf)
    until(lambda: "Redis is empty: the consumers have written nothing yet." in texts(show("approvals")))
