"""The declarations against the table they were made from, and what counts as a value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tars.schemas.hyperparameters import DQN, Value, all_same, same
from tars.schemas.update import ProposeUpdate

TABLE = {
    "learning_rate": (float, 0.0001, (1e-6, 0.1), (1e-5, 0.1), "live", False),
    "gamma": (float, 0.99, (0, 1), (0.9, 0.9999), "live", False),
    "exploration_initial_eps": (float, 1, (0, 1), (0.5, 1), "live", False),
    "exploration_final_eps": (float, 0.05, (0, 1), (0, 0.2), "live", False),
    "exploration_fraction": (float, 0.1, (0.001, 1), (0.005, 0.5), "live", True),
    "batch_size": (int, 32, (1, 1024), (16, 512), "live", False),
    "buffer_size": (int, 1_000_000, (1, 10_000_000), (500, 1_000_000), "rebuild", True),
    "learning_starts": (int, 100, (0, 100_000), (0, 20_000), "boundary", True),
    "target_update_interval": (int, 10_000, (1, 100_000), (1, 20_000), "live", False),
    "tau": (float, 1, (0.0001, 1), (0.01, 1), "live", False),
    "train_freq": (int, 4, (1, 100_000), (1, 1000), "boundary", False),
    "gradient_steps": (int, 1, (1, 1000), (1, 1000), "boundary", False),
    "max_grad_norm": (float, 10, (0.001, 100), (0.3, 10), "live", False),
}
"""Name -> type, default, low, medium, when it takes effect in SB3, high risk: as the design's reference has it."""
VALUE: TypeAdapter[Value] = TypeAdapter(Value)


def test_dqn_is_declared_as_the_reference_has_it() -> None:
    found = {
        d.name: (d.type, d.default, d.low, d.medium, d.takes_effect["sb3"], bool(d.high_risk))
        for d in DQN.hyperparameters
    }
    assert found == TABLE


def test_each_key_says_what_it_is_and_when_it_takes_effect_in_every_learner() -> None:
    for declared in DQN.hyperparameters:
        assert declared.meaning.endswith(".")
        assert set(declared.takes_effect) == {"ours", "sb3", "torch_loop"}


def test_a_key_that_is_not_declared_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="gama"):
        DQN["gama"]


def test_what_a_demo_starts_from_is_a_whole_set() -> None:
    assert set(DQN.demo_start()) == set(DQN.defaults) == set(DQN.game_defaults) == set(DQN.names)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, True, "0.1", [0.1], {}])
def test_what_is_no_plain_finite_number_is_no_value(bad: object) -> None:
    """Neither a bool nor a text becomes a number on the way."""
    with pytest.raises(ValidationError):
        ProposeUpdate.model_validate({"update_id": "u", "agents": ["a"], "values": {"gamma": bad}})


@given(st.one_of(st.none(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_value_comes_back_from_json_as_it_was(value: Value) -> None:
    again = VALUE.validate_json(VALUE.dump_json(value))
    assert again == value
    assert type(again) is type(value)


@given(st.floats(-1e6, 1e6, width=32))
def test_a_number_and_its_32_bit_neighbour_are_the_same_only_if_the_learner_cannot_tell(value: float) -> None:
    assert same(value, value * (1 + 1e-12))
    assert same(value, math.nextafter(value, math.inf)) or abs(value) < 1e-37  # subnormal: all of it is noise
    assert value == 0 or not same(value, value * 1.001) or abs(value) < 1e-37


def test_whole_numbers_must_be_equal() -> None:
    assert not same(16_777_216, 16_777_217)  # their 32-bit floats are one number
    assert same(4, 4.0)
    assert same(None, None)
    assert not same(None, 0)
    assert not all_same({"gamma": 0.9}, {"gamma": 0.9, "tau": 1.0})
    assert all_same({"gamma": 0.9}, {"gamma": 0.9 + 1e-12})
