"""Episodes on one clock."""

from math import isnan, nan

import pytest

from tars.schemas.slots import FAILED, Episode, longest_pause, own_interval, patient_interval, slots, usual_interval


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


def test_an_agent_that_pauses_as_it_did_before_is_not_silent() -> None:
    """Reports in bursts for two seconds, then six in which it learns."""
    episodes = [Episode(8.0 * cycle + at / 10, 1.0) for cycle in range(3) for at in range(20)]
    before = slots(episodes, 0.0, 0.5, 48)
    assert longest_pause(before) == 12
    assert longest_pause((None, None, *before[:16])) == 12  # what was before its first episode is no pause
    after = slots(episodes, 0.0, 0.5, 48, interval=patient_interval(episodes, 0.5, longest_pause(before)))
    assert after == before
    fallen = slots(episodes[:20], 0.0, 0.5, 48, interval=patient_interval(episodes[:20], 0.5, longest_pause(before)))
    assert fallen[-1] is not None
    assert isnan(fallen[-1])


def test_an_agent_whose_reports_leave_in_bursts_is_not_silent_between_them() -> None:
    episodes = [Episode(at + copy / 1000, 1.0) for at in range(9) for copy in range(4)]
    assert None in slots(episodes, 0.0, 0.1, 85, interval=patient_interval(episodes, 0.1, 0))
    assert not any(
        value is not None and isnan(value)
        for value in slots(episodes, 0.0, 0.1, 85, interval=patient_interval(episodes, 0.1, 0))
    )


def test_an_agent_s_own_interval_is_the_one_in_which_its_time_passes() -> None:
    regular = [Episode(float(at), 0.0) for at in range(10)]
    bursts = [Episode(2.0 * at + copy / 1000, 0.0) for at in range(10) for copy in range(4)]
    learns = [Episode(3.0 * cycle + at / 10, 0.0) for cycle in range(10) for at in range(10)]
    assert own_interval(regular) == 1.0
    assert own_interval(bursts) == pytest.approx(2.0, abs=0.01)
    assert own_interval(learns) == pytest.approx(2.1)
    assert own_interval([Episode(1.0, 0.0)]) is None


def test_a_role_s_slot_is_the_median_of_its_agents_intervals() -> None:
    fast = [Episode(float(at), 0.0) for at in range(10)]
    slow = [Episode(4.0 * at, 0.0) for at in range(40)]
    assert usual_interval(fast, fast, slow) == 1.0
    assert usual_interval(slow) == 4.0
    assert usual_interval([Episode(1.0, 0.0)], []) is None
