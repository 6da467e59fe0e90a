"""What a live agent runs, folded from its events."""

import pytest

from examples import EXAMPLES
from tars.schemas.agent import AgentEvent
from tars.schemas.running import evolve, replay

STARTED, LOST, STOPPED = (EXAMPLES[f"agent.{verb}.v1"] for verb in ("started", "lost", "stopped"))
WORDS = [EXAMPLES[f"agent.{verb}.v1"] for verb in ("accepted", "reloaded", "refused", "restored")]


@pytest.mark.parametrize("word", [*WORDS, STARTED], ids=lambda word: word.kind)
def test_a_lost_agent_that_says_something_lives(word: AgentEvent) -> None:
    lost = replay([STARTED, LOST])  # type: ignore[list-item]
    assert (lost.alive, lost.lost) == (False, True)
    found = evolve(lost, word)
    assert (found.alive, found.lost) == (True, False)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.kind)
def test_an_agent_that_said_that_it_stopped_does_not_live_by_a_late_word(word: AgentEvent) -> None:
    assert not replay([STARTED, STOPPED, word]).alive  # type: ignore[list-item]
    assert not replay([STARTED, LOST, STOPPED, word]).alive  # type: ignore[list-item]
