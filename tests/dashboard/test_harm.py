"""The smallest harm that a watch would find: said before it starts, by the rollout's own formula."""

import random
from datetime import timedelta

import pytest

from examples import NOON
from tars.dashboard.harm import LATER, estimate, foreseen, told
from tars.schemas.effect import Plan, smallest_harm
from tars.schemas.views import AgentPoint, AgentRow

PLAN = Plan(length=60)


def fleet(count: int, *, world: str | None = "w") -> list[AgentRow]:
    return [AgentRow(agent_id=f"a{n}", algorithm="dqn", world=world) for n in range(count)]


def histories(count: int, episodes: int, spread: float = 0.05) -> dict[str, list[AgentPoint]]:
    """An episode a second, the newest just before noon and first, with scores around 0.5."""
    dice = random.Random(1)
    return {
        f"a{agent}": [
            AgentPoint(at=NOON - timedelta(seconds=n), episode=-n, score=dice.gauss(0.5, spread), version=3)
            for n in range(1, episodes + 1)
        ]
        for agent in range(count)
    }


def test_of_ten_agents_one_switches_first_and_the_others_are_compared_with_it() -> None:
    found = estimate(fleet(10), histories(10, 60), NOON, PLAN)
    assert found.smallest_harm == pytest.approx(smallest_harm(0.05**2, 1, 9, PLAN), rel=0.3)
    assert not found.twins
    sentence = told(found, 10, PLAN)
    assert sentence.startswith("Released now, 1 of 10 would switch first, compared with the other 9: a loss of ")
    assert "-" not in sentence
    assert "by 60 episodes (about 60 s)" in sentence


def test_a_few_hosted_ones_are_compared_with_copies_of_themselves() -> None:
    found = estimate(fleet(1), histories(1, 60), NOON, PLAN)
    assert found.twins
    assert "copies of themselves" in told(found, 1, PLAN)


def test_a_foreign_one_alone_is_compared_with_its_past_in_its_own_unit() -> None:
    sentence = told(estimate(fleet(1, world=None), histories(1, 60, spread=20.0), NOON, PLAN), 1, PLAN)
    assert "their own past" in sentence
    assert " pp" not in sentence


def test_what_was_reported_under_other_values_does_not_count() -> None:
    short = {
        name: [point.model_copy(update={"version": 3 if n < 5 else 2}) for n, point in enumerate(points)]
        for name, points in histories(2, 60).items()
    }
    found = estimate(fleet(2), short, NOON, PLAN)
    assert found.smallest_harm is None
    assert "is known once its agents have reported 15 episodes" in told(found, 2, PLAN)


def test_agents_that_report_nothing_cannot_be_watched() -> None:
    assert told(estimate(fleet(2), {}, NOON, PLAN), 2, PLAN) == (
        "Nothing of it can be watched: its agents report no episodes."
    )


class Told:
    """Episodes in bursts of ten each second, as vectorised environments end them."""

    def history(self, agent_id: str, *, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        del agent_id
        return [
            AgentPoint(at=NOON - timedelta(seconds=1 + n // 10), episode=-n, score=0.5, version=3)
            for n in range(offset, offset + limit)
        ]


def test_of_an_agent_too_fast_for_a_page_the_harm_is_said_when_its_rollout_starts() -> None:
    assert foreseen(fleet(1, world=None), Told(), NOON, 60) == LATER


class Begun(Told):
    """Only two of those bursts yet."""

    def history(self, agent_id: str, *, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        return super().history(agent_id, offset=offset, limit=min(limit, 20))


def test_of_an_agent_that_has_only_begun_it_is_said_what_is_waited_for() -> None:
    assert "is known once its agents have reported" in foreseen(fleet(1, world=None), Begun(), NOON, 60)
