"""What an operator reads of an agent at a glance."""

from datetime import UTC, datetime, timedelta

import pytest

from tars.consumers import agent_health
from tars.dashboard.wording import condition
from tars.schemas.agent import AgentReported
from tars.schemas.views import AgentRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPORT = AgentReported(agent_id="a", run_id="r", episode=3, step=9, score=0.7, version=0)


@pytest.mark.parametrize("finite", [True, False])
def test_a_diverged_agent_is_shown_as_such_though_its_score_looks_well(finite: bool) -> None:
    row = agent_health.measured(REPORT.model_copy(update={"finite": finite}), NOW)
    assert row.score == 0.7
    assert condition(row, NOW) == (("running", "green") if finite else ("diverged", "red"))


def test_an_agent_that_is_not_heard_of_is_silent_whatever_it_said_last() -> None:
    row = AgentRow(agent_id="a", finite=False, seen_at=NOW)
    assert condition(row, NOW + timedelta(minutes=5)) == ("silent", "red")
