"""The next points of a study: inside the declared ranges, and the same from the same history."""

import logging
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tars.automl_worker.sampler import Asked, space_of, suggest
from tars.schemas.bounds import objections
from tars.schemas.hyperparameters import DQN, Choice, Value
from tars.schemas.study import Sampler
from tars.schemas.trial import FAILED_SCORE

SEARCHED = tuple(DQN.game_search)
STRUCTURAL = (*SEARCHED, *(d.name for d in DQN.hyperparameters if d.structural and d.search is not None))
INCUMBENT: dict[str, Value] = dict(DQN.game_defaults)
SAMPLERS: tuple[Sampler, ...] = ("tpe", "random")


def ask(history: list[Asked], *, seed: int = 0, count: int = 4, sampler: Sampler = "tpe") -> list[dict[str, Value]]:
    return suggest(DQN, SEARCHED, history, in_game=True, sampler=sampler, seed=seed, count=count)


def played(rounds: int, seed: int = 0, *, best: float = 3e-3) -> list[Asked]:
    """A search whose score is the nearness of the learning rate to `best`."""
    history = [Asked(INCUMBENT, (0.3,))]
    for _ in range(rounds):
        points = ask(history, seed=seed)
        history += [Asked(p, (1 - abs((p["learning_rate"] or 0.0) / best - 1),)) for p in points]
    return history


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_history_gives_the_same_points_whoever_asks(sampler: Sampler) -> None:
    history = played(3)
    assert ask(history, sampler=sampler) == ask(list(history), sampler=sampler)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_gives_other_points(sampler: Sampler) -> None:
    assert ask([], seed=1, sampler=sampler) != ask([], seed=2, sampler=sampler)


def test_no_point_of_a_search_comes_twice() -> None:
    points = [tuple(asked.point[name] for name in SEARCHED) for asked in played(6)]
    assert len(set(points)) == len(points)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(SAMPLERS))
def test_every_point_is_of_plain_numbers_that_validation_lets_pass(seed: int, sampler: Sampler) -> None:
    for point in suggest(DQN, STRUCTURAL, [], in_game=True, sampler=sampler, seed=seed, count=4):
        assert {type(value) for value in point.values()} <= {int, float}
        assert objections(DQN, point, INCUMBENT, "medium") == []


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_every_point_lies_where_the_game_is_searched(seed: int) -> None:
    for point in ask([], seed=seed):
        for name, search in space_of(DQN, SEARCHED, in_game=True).items():
            value = point[name]
            assert value is not None
            assert not isinstance(search, Choice)
            assert search.low <= value <= search.high


def test_what_scored_well_is_looked_for_again() -> None:
    later = [asked.point["learning_rate"] or 0.0 for asked in played(12)[-16:]]
    assert sorted(abs(rate / 3e-3 - 1) for rate in later)[8] < 0.5


def test_a_failed_trial_is_no_place_to_go_back_to() -> None:
    """Everything above a learning rate of 1e-3 failed; what comes next is mostly below."""
    history = played(6, best=5e-4)
    failing = [Asked(a.point, (FAILED_SCORE,) if (a.point["learning_rate"] or 0) > 1e-3 else a.values) for a in history]
    rates = [point["learning_rate"] or 0.0 for point in ask(failing, count=8)]
    assert sum(rate <= 1e-3 for rate in rates) >= 6


def test_an_incumbent_outside_the_searched_range_does_no_harm() -> None:
    outside = {**INCUMBENT, "learning_rate": 0.09}
    assert len(ask([Asked(outside, (0.9,))])) == 4


def test_what_runs_is_known_to_the_sampler_which_looks_elsewhere_meanwhile() -> None:
    best = played(8)
    running = ask(best, count=8)
    rates = [
        [point["learning_rate"] or 0.0 for point in ask(known, seed=1, count=8)]
        for known in (best, [*best, *(Asked(point, None) for point in running)])
    ]
    assert rates[0] != rates[1]


def test_asking_is_silent(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        ask(played(3))
    assert caplog.records == []
    assert capsys.readouterr() == ("", "")
