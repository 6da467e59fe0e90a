"""What a rollout does next is a function of its events."""

from datetime import timedelta

import pytest

from examples import EXAMPLES
from story import NOW
from tars.schemas.agent import AgentReloaded
from tars.schemas.running import RunningAgent
from tars.schemas.update import (
    ReadBack,
    RolloutStage,
    UpdateConfirmed,
    UpdateEvent,
    UpdateJudged,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateStarted,
)
from tars.sync_worker.stages import Conclude, Observe, Switch, canaries, next_step, strayed, taken_back, too_long

EIGHT = tuple("abcdefgh")
STARTED = UpdateStarted(update_id="u", agents=EIGHT, canary=("c",), slot_seconds=1.0, slots=60)
UNWATCHED = STARTED.model_copy(update={"slot_seconds": None, "unwatched": "its agents report no episodes"})


def reloaded(stage: RolloutStage, *names: str, attempt: int = 1) -> UpdateReloaded:
    backs = tuple(
        ReadBack(
            agent_id=name, version=1, requested={}, effective={}, step=1, milliseconds=1.0, weights_kept=True,
            buffer_kept=True,
        )
        for name in names
    )  # fmt: skip
    return UpdateReloaded(update_id="u", read_backs=backs, stage=stage, attempt=attempt)


def judged(
    then: str, stage: RolloutStage = "canary", attempt: int = 1, reloaded: tuple[str, ...] = ("c",)
) -> UpdateEvent:
    return UpdateJudged.model_validate(
        {
            "update_id": "u", "stage": stage, "attempt": attempt, "verdict": "INCONCLUSIVE", "then": then,
            "reason": "so", "effect": 0.0, "effect_low": -0.1, "effect_high": 0.1, "slot": 60, "reloaded": ("c",),
            "compared": (), "smallest_harm": 0.2, "stopped_early": False,
        }
    )  # fmt: skip


def test_the_canaries_switch_first() -> None:
    assert next_step([STARTED], ()) == Switch("canary", 1, ("c",), tuple("abdefgh"))


def test_the_canaries_are_watched_against_all_that_did_not_switch() -> None:
    step = next_step([STARTED, reloaded("canary", "c")], ())
    assert isinstance(step, Observe)
    assert (step.agents, step.compared) == (("c",), tuple("abdefgh"))


def test_the_rest_is_compared_with_the_canaries() -> None:
    story: list[UpdateEvent] = [STARTED, reloaded("canary", "c"), judged("go on")]
    assert next_step(story, ()) == Switch("rest", 1, tuple("abdefgh"), ("c",))
    step = next_step([*story, reloaded("rest", *"abdefgh")], ())
    assert isinstance(step, Observe)
    assert (step.agents, step.compared) == (tuple("abdefgh"), ("c",))


def test_what_no_watch_took_back_stays() -> None:
    story: list[UpdateEvent] = [
        STARTED,
        reloaded("canary", "c"),
        judged("go on"),
        reloaded("rest", *"abdefgh"),
        judged("go on", "rest"),
    ]
    assert next_step(story, ()) == Conclude(UpdateConfirmed(update_id="u", reason="so"))


def test_what_a_watch_finds_harmful_is_wanted_back() -> None:
    step = next_step([STARTED, reloaded("canary", "c"), judged("undo")], ())
    assert isinstance(step, Conclude)
    assert isinstance(step.event, UpdateRollBackRequested)
    assert (step.event.reason, step.event.what) == ("so", "all")


def test_a_watch_that_said_too_little_is_widened_to_half_of_the_agents() -> None:
    story: list[UpdateEvent] = [STARTED, reloaded("canary", "c"), judged("widen")]
    step = next_step(story, ())
    assert isinstance(step, Switch)
    assert (step.stage, len(step.agents), "c" in step.agents) == ("half", 3, False)
    then = next_step([*story, reloaded("half", *step.agents), judged("go on", "half")], ())
    assert isinstance(then, Switch)
    assert set(then.agents) == set(EIGHT) - {"c", *step.agents}


def test_a_watch_that_starts_anew_switches_the_same_agents_again() -> None:
    step = next_step([STARTED, reloaded("canary", "c"), judged("start anew")], ())
    assert step == Switch("canary", 2, ("c",), tuple("abdefgh"))


def test_agents_that_report_nothing_are_switched_in_stages_and_not_watched() -> None:
    assert next_step([UNWATCHED], ()) == Switch("canary", 1, ("c",), tuple("abdefgh"))
    story: list[UpdateEvent] = [UNWATCHED, reloaded("canary", "c")]
    assert next_step(story, ()) == Switch("rest", 1, tuple("abdefgh"), ("c",))
    last = next_step([*story, reloaded("rest", *"abdefgh")], ())
    assert last == Conclude(UpdateConfirmed(update_id="u", reason="not watched: its agents report no episodes"))


def test_who_no_longer_runs_the_values_is_named_unless_they_are_taken_back_anyway() -> None:
    back = reloaded("canary", "c").read_backs
    proof = EXAMPLES["agent.reloaded.v1"].model_copy(update={"agent_id": "c", "version": 1})
    assert isinstance(proof, AgentReloaded)
    begun_anew = {"c": RunningAgent(agent_id="c", run_id="r2", applied=0, reload=proof)}
    confirmed = Conclude(UpdateConfirmed(update_id="u"))
    assert "c: it no longer runs the values" in (strayed(confirmed, back, begun_anew) or "")
    assert strayed(Conclude(taken_back("u", "worse")), back, begun_anew) is None


def test_an_agent_that_has_finished_is_left_out() -> None:
    assert next_step([STARTED], {"a", "b"}) == Switch("canary", 1, ("c",), tuple("defgh"))
    watched = next_step([STARTED, reloaded("canary", "c")], {"a"})
    assert isinstance(watched, Observe)
    assert watched.compared == tuple("bdefgh")


def test_where_the_only_canary_has_finished_the_others_follow() -> None:
    step = next_step([STARTED, reloaded("canary", "c")], {"c"})
    assert step == Switch("rest", 1, tuple("abdefgh"), ())


def test_a_watch_whose_agents_have_finished_is_not_begun_anew() -> None:
    story: list[UpdateEvent] = [STARTED, reloaded("canary", "c"), judged("start anew")]
    assert next_step(story, {"c"}) == Switch("rest", 1, tuple("abdefgh"), ())


def test_where_the_others_have_finished_nobody_is_left_to_tell_more() -> None:
    step = next_step([STARTED, reloaded("canary", "c"), judged("widen")], set("abdefgh"))
    assert isinstance(step, Conclude)
    assert isinstance(step.event, UpdateConfirmed)
    assert step.event.reason == "not proven: the agents that were to tell more have finished"


def test_a_rollout_whose_agents_have_all_finished_is_over() -> None:
    step = next_step([STARTED], set(EIGHT))
    assert isinstance(step, Conclude)
    assert isinstance(step.event, UpdateConfirmed)


@pytest.mark.parametrize(("count", "canary"), [(1, 1), (2, 1), (8, 1), (32, 3), (100, 10)])
def test_a_tenth_switches_first_at_least_one(count: int, canary: int) -> None:
    assert len(canaries({f"agent-{n}": 0 for n in range(count)})) == canary


def test_rival_updates_draw_the_same_canaries_and_later_ones_others() -> None:
    base = {f"agent-{n}": 0 for n in range(8)}
    assert canaries(base) == canaries(dict(reversed(base.items())))
    drawn = {canaries(dict.fromkeys(base, version)) for version in range(20)}
    assert len(drawn) > 3


def test_a_rollout_that_would_outlast_its_approval_or_take_for_ever_does_not_start() -> None:
    hour = timedelta(hours=1)
    assert too_long(hour, NOW, None) is None
    assert too_long(hour, NOW, NOW + hour) is None
    assert "was approved until" in (too_long(2 * hour, NOW, NOW + hour) or "")
    assert "3.1 days" in (too_long(timedelta(days=3.1), NOW, None) or "")
