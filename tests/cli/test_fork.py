"""What `tars fork` reads and says, without a server."""

from datetime import timedelta

import pytest
import typer
from ledgers import SNAPSHOT

from examples import EVIDENCE, NOON
from tars.cli.fork import best_of, candidates_of, origin_of, told_of
from tars.cli.study_options import seconds
from tars.schemas.evidence import Verdict
from tars.schemas.views import AgentPoint, AgentRow

HISTORY = [
    AgentPoint(at=NOON + timedelta(seconds=2 * n), episode=n, score=0.5, version=0) for n in reversed(range(40, 63))
]
AGENT = AgentRow(agent_id="a1", run_id="r1", role="policy", algorithm="dqn", world="w1", values={}, episode=62)


def test_each_try_is_a_candidate_and_a_comma_changes_two_keys_at_once() -> None:
    assert candidates_of(["learning_rate=1e-4,gamma=.97", "batch_size=32"]) == [
        {"learning_rate": 1e-4, "gamma": 0.97}, {"batch_size": 32},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tries", "told"),
    [
        (["gamma"], "is not KEY=VALUE"),
        (["gamma=.9,"], "is not KEY=VALUE"),
        (["gamma=.9,gamma=.8"], "sets a key twice"),
        (["gamma=.9", "gamma=0.90"], "is asked twice"),
        (["gamma=.6", "gamma=.7", "gamma=.8", "gamma=.9"], "at most 3"),
    ],
    ids=" ".join,
)
def test_a_try_that_cannot_be_read_says_why(tries: list[str], told: str) -> None:
    with pytest.raises(typer.BadParameter, match=told):
        candidates_of(tries)


def test_a_snapshot_is_as_old_as_the_episodes_since() -> None:
    origin = origin_of(SNAPSHOT, AGENT, HISTORY)
    assert (origin.episode, origin.episodes_ago, origin.seconds_ago) == (50, 12, 24.0)
    assert "of episode 50, which is 12 episodes or 24 s old" in told_of(origin)


def test_without_consumers_a_snapshot_has_no_age() -> None:
    assert "of episode 50; the agent itself runs on" in told_of(origin_of(SNAPSHOT, None, ()))


def test_the_best_is_the_better_one_with_the_highest_gain() -> None:
    small, large = (EVIDENCE.model_copy(update={"gain": gain}) for gain in (0.1, 0.2))
    luckier = EVIDENCE.model_copy(update={"gain": 0.9, "verdict": Verdict.INCONCLUSIVE})
    assert best_of([small, luckier, large]) == large
    assert best_of([luckier]) is None


@pytest.mark.parametrize(("text", "read"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_a_time_is_read_with_and_without_its_unit(text: str, read: float) -> None:
    assert seconds(text) == read


@pytest.mark.parametrize("text", ["", "0", "0s", "-5", "5d", "m", "1e3", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time"):
        seconds(text)
