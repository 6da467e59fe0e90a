"""The rows of live agents."""

import pytest
from ledgers import START

from examples import EXAMPLES
from tars.consumers.agent_health import measured, point, row
from tars.schemas.agent import AgentEvent, AgentReported
from tars.schemas.views import AgentRow

WORDS = [EXAMPLES[f"agent.{verb}.v1"] for verb in ("started", "accepted", "reloaded", "refused", "restored")]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.kind)
def test_a_lost_agent_that_says_something_runs_again(word: AgentEvent) -> None:
    lost = AgentRow(agent_id="a", state="lost")
    assert row(word, lost, START).state == "running"


@pytest.mark.parametrize("word", WORDS[1:], ids=lambda word: word.kind)
def test_a_stopped_agent_does_not_run_again_by_a_late_word(word: AgentEvent) -> None:
    assert row(word, AgentRow(agent_id="a", state="stopped"), START).state == "stopped"


def test_an_episode_that_failed_has_no_score_and_no_point_on_the_curve() -> None:
    failed = AgentReported(agent_id="a", run_id="r", episode=3, step=9, score=0.0, version=0, failed=True)
    assert (measured(failed, START).episode, measured(failed, START).score) == (3, None)
    assert point(failed, START) is None
