"""What a watch will be able to see, said before it starts."""

from random import Random

import pytest

from tars.schemas.effect import Plan, smallest_harm
from tars.schemas.outlook import SHORTEST_FOREIGN_SLOT, look_ahead, seen_from
from tars.schemas.slots import Episode

PLAN = Plan()
SPREAD = 0.05
NOW = 600.0


def reporting(every: float, *, of: int = 1, since: float = 0.0) -> list[Episode]:
    """Episodes from then until now: so many at once, a millisecond apart."""
    dice, moments = Random(1), range(int((NOW - since) / every))
    return [
        Episode(NOW - (at + 0.5) * every + copy / 1000, dice.gauss(0.5, SPREAD)) for at in moments for copy in range(of)
    ]


def test_episodes_that_are_reported_in_bursts_are_watched_from_burst_to_burst() -> None:
    found = look_ahead({"a": reporting(2.0, of=4)}, NOW, PLAN, hosted=False)
    assert found.complete
    assert found.known == {"a"}
    assert found.slot_seconds == pytest.approx(2.0, abs=0.01)
    assert found.smallest_harm == pytest.approx(smallest_harm(SPREAD**2 / 4, 1, 0, PLAN), rel=0.4)


def test_a_foreign_learner_s_slot_is_well_above_what_its_reports_wait() -> None:
    fast = {"a": reporting(0.1, of=3)}
    assert look_ahead(fast, NOW, PLAN, hosted=False).slot_seconds == SHORTEST_FOREIGN_SLOT


def test_a_learner_that_pauses_to_learn_is_watched() -> None:
    """An episode each tenth of a second for three seconds, then five of gradient steps."""
    learns = [episode for episode in reporting(0.1) if episode.time % 8 < 3]
    found = look_ahead({"a": learns}, NOW, PLAN, hosted=False)
    assert found.known == {"a"}
    assert found.slot_seconds == pytest.approx(5.1, abs=0.1)


def test_slower_agents_are_judged_with_the_others() -> None:
    speeds = {"a": 1.0, "b": 2.0, "c": 1.0, "d": 4.0, "e": 1.0, "f": 2.5, "g": 1.0, "h": 1.0}
    found = look_ahead({name: reporting(every) for name, every in speeds.items()}, NOW, PLAN, hosted=True)
    assert found.complete
    assert found.known == set(speeds)
    assert found.slot_seconds == pytest.approx(1.0)


def test_an_agent_that_has_only_just_been_reloaded_is_waited_for() -> None:
    found = look_ahead({"a": reporting(1.0), "b": reporting(1.0, since=NOW - 10)}, NOW, PLAN, hosted=False)
    assert not found.complete
    assert found.known == {"a"}
    assert found.lacking == {"b"}


def test_agents_that_report_too_little_keep_nobody_else_from_being_watched() -> None:
    fleet = {"a": reporting(1.0), "b": reporting(1.0), "c": reporting(50.0)}
    found = look_ahead(fleet, NOW, PLAN, hosted=False)
    assert found.complete
    assert seen_from(found, {"a"}) == found
    assert found.smallest_harm == pytest.approx(smallest_harm(SPREAD**2, 1, 1, PLAN), rel=0.4)
    blind = seen_from(found, {"c"})
    assert (blind.slot_seconds, blind.unwatched) == (None, "its canaries report too few episodes")


def test_what_is_compared_with_a_twin_finds_what_a_twin_s_formula_says() -> None:
    found = look_ahead({"a": reporting(1.0)}, NOW, PLAN, hosted=True)
    with_twin = smallest_harm(1.0, 1, 1, PLAN, twin=True) / smallest_harm(1.0, 1, 0, PLAN)
    past = look_ahead({"a": reporting(1.0)}, NOW, PLAN, hosted=False)
    assert found.twins
    assert (found.smallest_harm or 0) / (past.smallest_harm or 1) == pytest.approx(with_twin)
