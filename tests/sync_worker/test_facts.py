"""What a decision is told beside the journal: how often its sender asks."""

from datetime import timedelta

from hypothesis import given as forall
from hypothesis import strategies as st

from story import ADA, BOB, NOW
from tars.schemas.message import By, Envelope
from tars.sync_worker.facts import MINUTE, RateLimit


def command(command_id: str, seconds: float = 0.0, by: By = ADA) -> Envelope:
    """A command in hand."""
    return Envelope(id=command_id, subject="s", sequence=1, time=NOW + timedelta(seconds=seconds), by=by)


def test_a_sender_over_its_rate_is_stopped_and_the_others_are_not() -> None:
    limit = RateLimit(2)
    assert [limit.exceeds(command(name)) for name in "xyz"] == [False, False, True]
    assert not limit.exceeds(command("w", by=BOB))


def test_a_command_that_is_delivered_again_counts_once() -> None:
    limit = RateLimit(2)
    assert not any(limit.exceeds(command("x")) for _ in range(5))
    assert not limit.exceeds(command("y"))


def test_a_minute_later_there_is_room_again() -> None:
    limit = RateLimit(1)
    assert not limit.exceeds(command("x"))
    assert limit.exceeds(command("y", 59.0))
    assert not limit.exceeds(command("z", 60.0))


@forall(st.lists(st.floats(0, 300), max_size=60).map(sorted), st.integers(1, 5))
def test_no_minute_lets_more_through_than_the_limit(times: list[float], per_minute: int) -> None:
    limit = RateLimit(per_minute)
    through = [time for n, time in enumerate(times) if not limit.exceeds(command(str(n), time))]
    assert all(b - a >= MINUTE.total_seconds() for a, b in zip(through, through[per_minute:], strict=False))


def test_no_limit_lets_everything_through() -> None:
    limit = RateLimit(0)
    assert not any(limit.exceeds(command(str(n))) for n in range(1000))
