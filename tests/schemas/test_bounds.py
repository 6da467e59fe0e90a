"""Bounds and invariants: what each strictness allows, and that no strictness can trap a value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tars.schemas.bounds import STEP, Strictness, interval, objections
from tars.schemas.hyperparameters import DQN, Choice, Hyperparameter, OneMinusLog, Uniform, Value

KEYS = [pytest.param(declared, id=declared.name) for declared in DQN.hyperparameters]
STEPPED = [declared for declared in DQN.hyperparameters if not declared.high_risk]
STRICTNESSES: tuple[Strictness, ...] = ("low", "medium", "high")


def searched(declared: Hyperparameter) -> tuple[float, ...]:
    """The values of a search that lie furthest out."""
    match declared.search:
        case Uniform(low, high) | OneMinusLog(low, high):
            return low, high
        case Choice(values):
            return tuple(value for value in values if value is not None)
        case None:
            return ()


@pytest.mark.parametrize("declared", KEYS)
def test_the_default_lies_in_medium_and_medium_in_low(declared: Hyperparameter) -> None:
    assert declared.default is not None
    assert declared.low[0] <= declared.medium[0] <= declared.default <= declared.medium[1] <= declared.low[1]


@pytest.mark.parametrize("declared", KEYS)
def test_a_search_stays_in_medium(declared: Hyperparameter) -> None:
    assert [value for value in searched(declared) if not declared.medium[0] <= value <= declared.medium[1]] == []


def test_a_search_of_the_game_stays_in_medium() -> None:
    for name, search in DQN.game_search.items():
        assert isinstance(search, Uniform | OneMinusLog)
        assert DQN[name].medium[0] <= search.low < search.high <= DQN[name].medium[1]


@pytest.mark.parametrize("start", [DQN.defaults, DQN.game_defaults, DQN.demo_start()], ids=["sb3", "game", "demo"])
@pytest.mark.parametrize("strictness", STRICTNESSES)
def test_what_agents_start_from_breaks_no_rule(start: dict[str, Value], strictness: Strictness) -> None:
    assert objections(DQN, start, start, strictness) == []


@st.composite
def key_and_value(draw: st.DrawFn) -> tuple[Hyperparameter, float]:
    """A key that strictness high lets change, and a value that an agent may run: anything inside low."""
    declared = draw(st.sampled_from(STEPPED))
    low, high = declared.low
    if declared.type is int:
        return declared, draw(st.integers(int(low), int(high)))
    return declared, draw(st.floats(low, high))


@given(key_and_value())
def test_a_step_at_high_contains_the_current_value(pair: tuple[Hyperparameter, float]) -> None:
    declared, current = pair
    allowed = interval(declared, "high", current)
    assert allowed is not None
    assert allowed[0] <= current <= allowed[1]


@given(key_and_value())
def test_a_step_at_high_is_never_stuck(pair: tuple[Hyperparameter, float]) -> None:
    """There is a value to go to: another whole number, or an interval that a 32-bit learner can tell from a point."""
    declared, current = pair
    allowed = interval(declared, "high", current)
    assert allowed is not None
    low, high = allowed
    assert high - low >= 1 if declared.type is int else high - low > 1e-7 * max(abs(low), abs(high))


@given(key_and_value(), st.integers(0, 1))
def test_steps_at_high_lead_from_anywhere_to_either_end_of_medium(pair: tuple[Hyperparameter, float], end: int) -> None:
    """Neither a value outside medium nor a zero is a trap; only a whole number stops at 2 (1 is below 2 / 1.5)."""
    declared, current = pair
    goal = max(declared.medium[end], 2) if declared.type is int else declared.medium[end]
    current = max(current, 2) if declared.type is int else current
    for _ in range(200):
        allowed = interval(declared, "high", current)
        assert allowed is not None
        current = min(max(goal, allowed[0]), allowed[1])
    assert math.isclose(current, goal, abs_tol=1e-9)


@given(key_and_value())
def test_a_step_at_high_never_leaves_medium_by_more_than_it_already_is(pair: tuple[Hyperparameter, float]) -> None:
    declared, current = pair
    allowed = interval(declared, "high", current)
    assert allowed is not None
    assert allowed[0] >= min(declared.medium[0], current)
    assert allowed[1] <= max(declared.medium[1], current)


FIRST_STEPS = {
    "learning_rate": (6.667e-5, 0.00015), "gamma": (0.985, 0.9933), "exploration_initial_eps": (0.6667, 1),
    "exploration_final_eps": (0.03333, 0.075), "batch_size": (22, 48), "target_update_interval": (6667, 15000),
    "tau": (0.6667, 1), "train_freq": (3, 6), "gradient_steps": (1, 2), "max_grad_norm": (6.667, 10),
}  # fmt: skip
"""Strictness high from SB3's default, as the table of the design has it."""


def test_the_first_steps_at_high_are_the_tables() -> None:
    found = {declared.name: interval(declared, "high", declared.default) for declared in STEPPED}
    assert found == {name: pytest.approx(step, rel=1e-3) for name, step in FIRST_STEPS.items()}


@pytest.mark.parametrize("declared", KEYS)
def test_just_outside_low_is_refused_at_every_strictness(declared: Hyperparameter) -> None:
    for value in (declared.low[0] - 1, declared.low[1] * 2 + 1):
        for strictness in STRICTNESSES:
            assert objections(DQN, {declared.name: value}, DQN.defaults, strictness), (value, strictness)


@pytest.mark.parametrize("name", [declared.name for declared in DQN.hyperparameters if declared.high_risk])
def test_high_says_why_a_risky_key_may_not_change(name: str) -> None:
    change = {name: searched(DQN[name])[1]}
    (why,) = objections(DQN, change, DQN.demo_start(), "high")
    assert DQN[name].high_risk in why
    assert objections(DQN, {name: DQN.demo_start()[name]}, DQN.demo_start(), "high") == []  # as it is: no change


@pytest.mark.parametrize("strictness", STRICTNESSES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("declared", KEYS)
def test_what_is_not_finite_is_refused(declared: Hyperparameter, bad: float, strictness: Strictness) -> None:
    (why,) = objections(DQN, {declared.name: bad}, DQN.defaults, strictness)
    assert "finite" in why


@pytest.mark.parametrize("name", [declared.name for declared in DQN.hyperparameters if declared.type is int])
def test_a_whole_number_must_be_written_as_one(name: str) -> None:
    (why,) = objections(DQN, {name: float(DQN.demo_start()[name] or 0)}, DQN.demo_start(), "low")
    assert "whole number" in why


@pytest.mark.parametrize("declared", KEYS)
def test_none_is_no_number(declared: Hyperparameter) -> None:
    (why,) = objections(DQN, {declared.name: None}, DQN.defaults, "low")
    assert "must be a number" in why


BROKEN = [
    pytest.param({"exploration_initial_eps": 0.1, "exploration_final_eps": 0.2}, "exploration_final_eps", id="grows"),
    pytest.param({"batch_size": 1024, "buffer_size": 1000}, "larger than buffer_size", id="batch over buffer"),
    *(
        pytest.param({name: value}, name, id=f"{name} {value}")
        for name, value in {
            "gamma": 1.5, "tau": 0.0, "learning_rate": 0.0, "max_grad_norm": -1.0, "exploration_fraction": 0.0,
            "batch_size": 0, "buffer_size": 0, "train_freq": 0, "gradient_steps": 0, "target_update_interval": 0,
            "learning_starts": -1,
        }.items()
    ),
]  # fmt: skip


@pytest.mark.parametrize(("values", "named"), BROKEN)
def test_an_invariant_holds_for_what_runs_whatever_changes(values: dict[str, Value], named: str) -> None:
    """The resulting set is judged: a set that is broken already is refused, though nothing in the change is."""
    broken = {**DQN.demo_start(), **values}
    assert [why for why in objections(DQN, {"max_grad_norm": 5.0} | values, broken, "low") if named in why]


def test_everything_wrong_is_said_at_once() -> None:
    change: dict[str, Value] = {"gama": 0.9, "batch_size": 1.5, "learning_rate": 7.0, "gamma": math.nan}
    reasons = objections(DQN, change, DQN.demo_start(), "medium")
    assert [why.split()[0] for why in reasons] == ["gama", "batch_size", "gamma", "learning_rate"]


def test_a_reason_names_key_value_bounds_and_strictness() -> None:
    (why,) = objections(DQN, {"gamma": 0.5}, DQN.demo_start(), "medium")
    assert why == "gamma = 0.5 is outside [0.9, 0.9999], what strictness medium allows (its bounds)"
    (why,) = objections(DQN, {"learning_rate": 1e-3}, DQN.demo_start(), "high")
    assert f"at most x{STEP} from 0.0001" in why
