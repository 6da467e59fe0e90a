"""How many points are in flight: trainers are kept busy, and the sampler still learns."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tars.automl_worker.pace import Pace, pace_of


@pytest.mark.parametrize(
    ("trials", "pace"),
    [(1, Pace(1, 4)), (20, Pace(1, 7)), (100, Pace(4, 34)), (200, Pace(8, 64)), (3000, Pace(32, 64))],
)
def test_the_longer_a_study_the_more_is_in_flight_up_to_two_populations(trials: int, pace: Pace) -> None:
    assert pace_of(trials) == pace


@given(st.integers(1, 3000))
def test_every_number_is_asked_once_and_never_more_are_in_flight_than_there_is_room_for(trials: int) -> None:
    pace = pace_of(trials)
    batches = list(pace.batches(trials))
    assert [number for batch in batches for number in batch] == list(range(trials))
    assert all(batch.stop - pace.needed(batch) <= pace.in_flight for batch in batches)
    assert all(pace.needed(one) < pace.needed(other) <= one.stop for one, other in pairwise(batches))
