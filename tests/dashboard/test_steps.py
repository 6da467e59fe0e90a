"""The way of an update, step by step, as people see it while it goes on and when it is over."""

from collections.abc import Iterable
from datetime import timedelta
from typing import cast

import pytest

from examples import ADA, EXAMPLES, NOON, READ_BACK
from tars.consumers.update_queue import row
from tars.dashboard.steps import badges, steps
from tars.schemas.update import (
    RolloutStage,
    UpdateApproved,
    UpdateConfirmed,
    UpdateEvent,
    UpdateFailed,
    UpdateJudged,
    UpdateProposed,
    UpdateRejected,
    UpdateReleased,
    UpdateReloaded,
    UpdateResumed,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)
from tars.schemas.views import UpdateRow

AGENTS = ("a", "b", "c", "d")
PROPOSED = cast("UpdateProposed", EXAMPLES["update.proposed.v1"]).model_copy(update={"base": dict.fromkeys(AGENTS, 0)})
APPROVED = cast("UpdateApproved", EXAMPLES["update.approved.v1"]).model_copy(
    update={"by": ADA, "single_operator": False}
)
RELEASED = UpdateReleased(update_id="u", agents=AGENTS, by=ADA)
STARTED = UpdateStarted(update_id="u", agents=AGENTS, canary=("a",), slot_seconds=1.0, slots=60, smallest_harm=0.1)


def reloaded(stage: RolloutStage) -> UpdateReloaded:
    return UpdateReloaded(update_id="u", stage=stage, read_backs=(READ_BACK,))


def judged(stage: RolloutStage, then: str) -> UpdateJudged:
    example = cast("UpdateJudged", EXAMPLES["update.judged.v1"])
    return example.model_copy(update={"stage": stage, "then": then, "effect": 0.042})


def after(*events: UpdateEvent, proposed: UpdateProposed = PROPOSED) -> UpdateRow:
    """The row after these, one a second; the last at noon."""
    story: UpdateRow | None = None
    told = (proposed, *events)
    for number, event in enumerate(told):
        story = row(event, story, NOON - timedelta(seconds=len(told) - 1 - number))
    assert story is not None
    return story


def way(*events: UpdateEvent, seconds: float = 0.0) -> list[str]:
    return [str(step) for step in steps(after(*events), NOON + timedelta(seconds=seconds))]


def test_before_its_release_all_that_is_to_come_is_shown() -> None:
    assert way() == ["✓ proposed", "● approval: waits", "○ release", "○ canary", "○ rest", "○ confirmed"]
    held = APPROVED.model_copy(update={"hold": True})
    assert way(held)[1:] == ["✓ approved: ada (unsigned)", "● release: on hold", "○ canary", "○ rest", "○ confirmed"]


def test_a_rollout_shows_which_agents_are_reloaded_and_how_long_they_are_watched() -> None:
    begun = (APPROVED, RELEASED, STARTED)
    assert way(*begun)[3:] == ["● canary: reloading", "○ rest", "○ confirmed"]
    canary = (*begun, reloaded("canary"))
    assert way(*canary, seconds=20)[3:] == ["● canary: watched, 40 s more at most", "○ rest", "○ confirmed"]
    assert way(*canary, seconds=61)[3] == "● canary: watched, about to be judged"
    resumed = UpdateResumed(update_id="u", holder="h", delivery=2)
    assert way(*canary, resumed, seconds=20)[3] == "● canary: watched, 39 s more at most"
    passed = (*canary, judged("canary", "go on"))
    assert way(*passed)[3:] == ["✓ canary: +4.2 pp", "● rest: reloading", "○ confirmed"]
    whole = (*passed, reloaded("rest"), judged("rest", "go on"), UpdateConfirmed(update_id="u"))
    assert way(*whole)[3:] == ["✓ canary: +4.2 pp", "✓ rest: +4.2 pp", "✓ confirmed"]


def test_a_stage_that_told_too_little_is_widened_and_one_in_a_changed_environment_starts_anew() -> None:
    canary = (APPROVED, RELEASED, STARTED, reloaded("canary"))
    assert way(*canary, judged("canary", "start anew"))[3] == "● canary: reloading"
    widened = (*canary, judged("canary", "widen"))
    assert way(*widened)[3:] == ["✓ canary: +4.2 pp", "● half: reloading", "○ rest", "○ confirmed"]
    wider = (*widened, reloaded("half"))
    assert way(*wider)[3:] == ["✓ canary: +4.2 pp", "● half: watched, 60 s more at most", "○ rest", "○ confirmed"]


def test_what_is_taken_back_shows_where_it_went_wrong_and_no_step_that_is_not_taken() -> None:
    undone = (
        APPROVED, RELEASED, STARTED, reloaded("canary"), judged("canary", "undo"),
        UpdateRollBackRequested(update_id="u", by=ADA, reason="worse", what="all"),
    )  # fmt: skip
    assert way(*undone)[3:] == ["✗ canary: +4.2 pp", "● rolling back"]
    ended = UpdateRolledBack(update_id="u", by=ADA, reason="worse", read_backs=(READ_BACK,), unreached={})
    assert way(*undone, ended)[-1] == "✗ rolled back"
    kept = (*undone[:4], judged("canary", "go on"), reloaded("rest"), UpdateConfirmed(update_id="u"))
    assert way(*kept, undone[-1], ended)[3:] == ["✓ canary: +4.2 pp", "✓ confirmed", "✗ rolled back"]


def test_what_somebody_takes_back_while_it_is_watched_shows_that_it_ran() -> None:
    watched = (APPROVED, RELEASED, STARTED, reloaded("canary"))
    asked = UpdateRollBackRequested(update_id="u", by=ADA, reason="no", what="all")
    assert way(*watched, asked)[3:] == ["✓ canary: read back", "● rolling back"]
    assert way(*watched, UpdateFailed(update_id="u", error="it broke"))[3:] == ["✓ canary: read back", "✗ failed"]


def test_where_nothing_is_watched_the_rest_follows_the_canary() -> None:
    blind = STARTED.model_copy(update={"slot_seconds": None, "unwatched": "they report no episodes"})
    begun = (APPROVED, RELEASED, blind, reloaded("canary"))
    assert way(*begun)[3:] == ["● canary: read back", "○ rest", "○ confirmed"]
    whole = (*begun, reloaded("rest"))
    assert way(*whole)[3:] == ["✓ canary", "● rest: read back", "○ confirmed"]
    assert way(*whole, UpdateConfirmed(update_id="u"))[3:] == ["✓ canary", "✓ rest", "✓ confirmed"]


def test_one_that_was_turned_down_goes_no_further() -> None:
    assert way(UpdateRejected(update_id="u", by=ADA, reason="no")) == ["✓ proposed", "✗ rejected"]


def test_a_rollout_of_one_agent_that_nothing_watches_has_one_stage() -> None:
    alone = STARTED.model_copy(update={"agents": ("a",), "slot_seconds": None, "unwatched": "it reports no episodes"})
    story = (APPROVED, RELEASED, alone, reloaded("rest"))
    told = after(*story, proposed=PROPOSED.model_copy(update={"base": {"a": 0}}))
    assert [str(step) for step in steps(told, NOON)][3:] == ["● rest: read back", "○ confirmed"]


@pytest.mark.parametrize("events", [(), (APPROVED, RELEASED, STARTED)])
def test_the_page_has_a_badge_for_each(events: Iterable[UpdateEvent]) -> None:
    shown = steps(after(*events), NOON)
    assert badges(shown).count("-badge[") == len(shown)
