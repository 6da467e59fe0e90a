"""Studies started and stopped from the page, with a coordinator that is real."""

from collections.abc import Iterator

import pytest
from stage import Loop, Stage, show, texts, until

from examples import AGENT
from tars.automl_worker.app import worker as coordinator
from tars.dashboard.by_hand import CHOSEN
from tars.dashboard.starting import ALONE
from tars.runtime.settings import Settings
from tars.schemas.study import StudyStarted


@pytest.fixture(scope="module", autouse=True)
def coordinating(stage: Stage) -> Iterator[None]:
    """A coordinator; no trainer, so that a study waits for its trials."""
    with Loop(coordinator(Settings(nats_url=stage.nats.url, use_redis=False, ack_wait_seconds=2))):
        yield


def started(stage: Stage, study_id: str) -> StudyStarted:
    until(lambda: stage.client.events("study", study_id))
    event = stage.client.events("study", study_id)[0]
    assert isinstance(event, StudyStarted)
    return event


def test_a_study_is_started_for_a_role_shown_and_stopped_with_a_reason(stage: Stage) -> None:
    page = show("studies").button(key="start-open").click().run()
    assert page.selectbox(key="start-for").options == ["policy", CHOSEN, ALONE]
    page.number_input(key="start-trials").set_value(3)
    page.number_input(key="start-minutes").set_value(2.0)
    page = page.button(key="start-send").click().run()
    study_id = page.session_state["start-id"]
    assert f"{study_id} is started." in texts(page)
    event = started(stage, study_id)
    assert (tuple(event.base), event.trials, event.wall_seconds, event.propose) == ((AGENT,), 3, 120.0, True)
    until(lambda: stage.client.study(study_id))
    page = page.button(key="start-show").click().run()
    until(lambda: f"stop_study-{study_id}" in [button.key for button in page.run().button])
    page.text_input(key=f"reason-{study_id}").input("it was only a test")
    page = page.button(key=f"stop_study-{study_id}").click().run()
    assert f"{study_id} is stopped." in texts(page)
    until(lambda: (row := stage.client.study(study_id)) and row.stage == "stopped")
    until(lambda: "it was only a test" in texts(show("studies", id=study_id)))


def test_an_algorithm_as_such_is_searched_without_a_target(stage: Stage) -> None:
    page = show("studies", start=ALONE)
    page.selectbox(key="start-algorithm").select("ppo")
    page.checkbox(key="start-quick").check()
    page = page.button(key="start-send").click().run()
    event = started(stage, page.session_state["start-id"])
    assert (event.algorithm, event.base, event.quick) == ("ppo", {}, True)
    stage.client.stop_study(event.study_id)


def test_what_is_refused_says_why_and_can_be_mended(stage: Stage) -> None:
    page = show("studies", start=CHOSEN)
    page = page.button(key="start-send").click().run()
    assert "name exactly one of role, agents and algorithm" in texts(page)
    assert not page.button(key="start-send").disabled
