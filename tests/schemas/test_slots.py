"""Episodes on one clock."""

from math import isnan, nan

import pytest

from tars.schemas.slots import FAILED, Episode, median_interval, slots


def test_an_agent_s_value_in_a_slot_is_the_mean_of_its_episodes_there() -> None:
    episodes = [Episode(10.0, 1.0), Episode(14.9, 3.0), Episode(15.0, 5.0), Episode(31.0, 7.0)]
    assert slots(episodes, 10.0, 5.0, 4) == (2.0, 5.0, None, None)


@pytest.mark.parametrize("value", [nan, float("inf"), float("-inf")])
def test_a_slot_with_a_failed_episode_failed(value: float) -> None:
    assert slots([Episode(1.0, 0.5), Episode(2.0, value)], 0.0, 5.0, 1) == (FAILED,)


def test_an_agent_silent_for_five_of_its_own_intervals_fails_until_it_reports_again() -> None:
    episodes = [Episode(float(at), 1.0) for at in (-2, -1, 1, 12)]
    found = slots(episodes, 0.0, 2.0, 8, interval=1.0)
    assert found[:3] == (1.0, None, None)  # last heard at 1: silent from 6 on
    assert all(value is not None and isnan(value) for value in found[3:6])
    assert found[6:] == (1.0, None)


def test_a_slow_agent_is_not_silent_between_its_episodes() -> None:
    episodes = [Episode(float(at), 1.0) for at in (0, 8, 16)]
    assert slots(episodes, 0.0, 2.0, 9, interval=8.0)[1:4] == (None, None, None)


def test_an_agent_never_heard_is_silent_from_the_start_of_the_window() -> None:
    found = slots([], 100.0, 1.0, 7, interval=1.0)
    assert found[:5] == (None,) * 5
    assert all(value is not None and isnan(value) for value in found[5:])


def test_a_role_s_slot_is_the_median_interval_of_all_its_agents() -> None:
    fast = [Episode(float(at), 0.0) for at in range(10)]
    slow = [Episode(4.0 * at, 0.0) for at in range(4)]
    assert median_interval(fast, slow) == 1.0
    assert median_interval(slow) == 4.0
    assert median_interval([Episode(1.0, 0.0)], []) is None
