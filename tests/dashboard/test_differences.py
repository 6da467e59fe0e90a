"""What an update changes, for whom, and where it lies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from examples import CHANGE, NOON, RUNNING
from tars.dashboard.differences import differences, groups, place
from tars.schemas.bounds import Strictness, interval
from tars.schemas.hyperparameters import DQN, Hyperparameter, Value
from tars.schemas.views import UpdateRow

STRICTNESSES: tuple[Strictness, ...] = ("low", "medium", "high")


def update(before: dict[str, dict[str, Value]]) -> UpdateRow:
    return UpdateRow(
        update_id="u-1", stage="pending", proposed_at=NOON, proposed_by="ada", changed_at=NOON, agents=tuple(before),
        values=CHANGE, before=before,
    )  # fmt: skip


def test_agents_that_run_the_same_are_one_group() -> None:
    other = {**RUNNING, "gamma": 0.97}
    found = groups(update({"a": RUNNING, "b": other, "c": RUNNING}), dict.fromkeys("abc", "dqn"), "medium")
    assert sorted(group.agents for group in found) == [("a", "c"), ("b",)]
    assert {group.agents: group.differences[1].old for group in found} == {("a", "c"): 0.99, ("b",): 0.97}


def test_what_runs_already_is_no_difference() -> None:
    assert differences(CHANGE, {**RUNNING, **CHANGE}, "dqn", "medium") == ()


def test_a_value_out_of_bounds_is_said_to_be_so() -> None:
    (found,) = differences({"gamma": 0.5}, RUNNING, "dqn", "medium")
    assert found.objection is not None
    assert "gamma = 0.5 is outside [0.9, 0.9999]" in found.objection
    assert found.place_new == 0


def test_a_key_that_nobody_declares_is_shown_without_bounds() -> None:
    (found,) = differences({"momentum": 0.9}, {"momentum": 0.5}, None, "medium")
    assert (found.old_text, found.new_text, found.bounds, found.place_new) == ("0.5", "0.9", None, None)


@pytest.mark.parametrize("strictness", STRICTNESSES)
@pytest.mark.parametrize("declared", DQN.hyperparameters, ids=lambda declared: declared.name)
@settings(max_examples=20)
@given(shares=some.tuples(some.floats(0, 1), some.floats(0, 1)))
def test_a_larger_value_lies_further_right(
    declared: Hyperparameter, strictness: Strictness, shares: tuple[float, float]
) -> None:
    bounds = interval(declared, strictness, declared.default)
    if bounds is None:
        assert place(declared, bounds, declared.default) is None
        return
    low, high = bounds
    small, large = sorted(low + share * (high - low) for share in shares)
    at = [place(declared, bounds, value) for value in (low, small, large, high)]
    assert [where for where in at if where is not None] == sorted(where for where in at if where is not None)
    assert at[0] in (0, None)
    assert at[3] in (1, None)
