"""The sequential paired test: honest about noise, able to see a gain, and never fooled by what is missing."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tars.automl_worker.evidence import ALPHA, LOOKS, Look, assess, level, paired
from tars.schemas.evidence import PairedScore, Verdict

SPREAD = 0.14
"""Standard deviation of a paired difference on real lanes."""


def pairs(differences: Sequence[float]) -> list[PairedScore]:
    return [PairedScore(seed=n, incumbent=0.0, candidate=float(d)) for n, d in enumerate(differences)]


def follow(differences: Sequence[float], candidates: int = 1) -> Look:
    """Look until a verdict."""
    for look, count in enumerate(LOOKS, 1):
        found = assess(pairs(differences[:count]), look, threshold=0.03, candidates=candidates)
        if found.verdict is not None:
            return found
    raise AssertionError("the last look always has a verdict")


def verdicts(gain: float, repeats: int) -> Counter[Verdict]:
    random = np.random.default_rng(1)
    found = (follow(random.normal(gain, SPREAD, LOOKS[-1]).tolist()).verdict for _ in range(repeats))
    return Counter(verdict for verdict in found if verdict is not None)


@pytest.mark.slow
def test_equal_candidates_are_promoted_no_oftener_than_the_error_allows() -> None:
    repeats = 600
    promoted = verdicts(0.0, repeats)[Verdict.BETTER]
    assert promoted <= ALPHA * repeats + 3 * math.sqrt(ALPHA * repeats)


def test_a_real_gain_is_found_and_a_real_loss_never_promoted() -> None:
    assert verdicts(0.10, 100)[Verdict.BETTER] >= 95
    assert verdicts(-0.05, 200)[Verdict.BETTER] == 0


def test_the_levels_of_all_looks_add_up_to_the_error_whatever_the_candidates() -> None:
    for candidates in (1, 2, 3):
        levels = [level(look, candidates) for look in range(1, len(LOOKS) + 1)]
        assert sum(levels) == pytest.approx(ALPHA / candidates)
        assert levels == sorted(levels), "late looks may spend more"


def test_a_hopeless_candidate_is_given_up_at_the_first_look() -> None:
    found = follow([-0.5 + 0.01 * (n % 3) for n in range(64)])
    assert (found.verdict, found.number) == (Verdict.NOT_BETTER, 1)


def test_a_gain_below_the_threshold_is_not_better_however_certain() -> None:
    assert follow([0.01 + 1e-6 * (n % 2) for n in range(64)]).verdict is Verdict.NOT_BETTER


def test_equal_scores_on_every_seed_prove_nothing() -> None:
    found = follow([0.0] * 64)
    assert (found.verdict, found.p_value) == (Verdict.NOT_BETTER, 1.0)


@given(st.lists(st.floats(-2, 2), min_size=8, max_size=8), st.floats(-1, 1))
def test_the_reported_gain_is_the_mean_inside_its_interval_and_moves_with_the_scores(
    differences: list[float], shift: float
) -> None:
    one = assess(pairs(differences), 1, threshold=0.03, candidates=1)
    other = assess(pairs([d + shift for d in differences]), 1, threshold=0.03, candidates=1)
    assert one.gain == pytest.approx(sum(differences) / 8)
    assert one.gain_low <= one.gain <= one.gain_high
    assert other.gain == pytest.approx(one.gain + shift)
    assert other.gain_high - other.gain_low == pytest.approx(one.gain_high - one.gain_low, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.4e251, -1e300, None])
def test_seeds_on_which_the_incumbent_has_no_sensible_score_are_left_out(bad: float | None) -> None:
    seeds = list(range(64))
    incumbent: dict[int, float | None] = {seed: (bad if seed % 2 else 0.0) for seed in seeds}
    candidate: dict[int, float | None] = {seed: 5.0 + 0.01 * seed for seed in seeds}
    never_better(usable := paired(seeds, incumbent, candidate))
    assert [pair.seed for pair in usable] == seeds[::2]
    assert paired(seeds, incumbent, dict.fromkeys(seeds, bad))[1:] == tuple(
        PairedScore(seed=seed, incumbent=0.0, candidate=0.0, failed=True) for seed in seeds[2::2]
    ), "where both failed there is no pair"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1.4e251, -1e300, None])
def test_a_candidate_that_fails_on_too_many_seeds_is_never_better_however_good_it_is_on_the_rest(
    bad: float | None,
) -> None:
    seeds = list(range(64))
    candidate: dict[int, float | None] = {seed: (5.0 + 0.01 * seed if seed % 3 else bad) for seed in seeds}
    never_better(paired(seeds, dict.fromkeys(seeds, 0.0), candidate))


def never_better(usable: Sequence[PairedScore]) -> None:
    """At no look; a pair's seed is its place."""
    for look in range(1, len(LOOKS) + 1):
        count = sum(pair.seed < LOOKS[look - 1] for pair in usable)
        assert assess(usable[:count], look, threshold=0.03, candidates=1).verdict is not Verdict.BETTER


def failing(seeds: Sequence[int], failures: int, gain: float) -> tuple[PairedScore, ...]:
    """A candidate that is better by so much, but for the last seeds, where it fails."""
    random = np.random.default_rng(2)
    incumbent = {seed: 0.4 + float(random.normal(0, 0.05)) for seed in seeds}
    scores = {seed: incumbent[seed] + gain + float(random.normal(0, 0.05)) for seed in seeds}
    return paired(seeds, incumbent, scores | dict.fromkeys(seeds[len(seeds) - failures :]))


def test_a_candidate_that_diverges_on_a_quarter_of_the_seeds_is_not_better_for_a_gain_on_the_others() -> None:
    verdicts = [assess(failing(range(16), count, 0.1), 2, threshold=0.03, candidates=1).verdict for count in (0, 4)]
    assert verdicts[0] is Verdict.BETTER
    assert verdicts[1] in {None, Verdict.NOT_BETTER}


def test_a_failure_counts_as_the_worst_that_either_has_shown_and_says_so() -> None:
    found = paired([1, 2, 3], {1: 0.5, 2: -0.2, 3: 0.4}, {1: 0.6, 2: 0.1, 3: None})
    assert found[-1] == PairedScore(seed=3, incumbent=0.4, candidate=-0.2, failed=True)
    assert [pair.failed for pair in found] == [False, False, True]
    assert paired([3], {3: 0.4}, {3: None})[0].candidate == 0.0


def test_evidence_without_failures_is_written_as_before_there_was_a_word_for_them() -> None:
    written = PairedScore(seed=1, incumbent=0.1, candidate=0.2).canonical()
    assert written == b'{"candidate":0.2,"incumbent":0.1,"seed":1}'
    failed = PairedScore(seed=1, incumbent=0.1, candidate=0.0, failed=True)
    assert PairedScore.model_validate_json(failed.canonical()) == failed


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=16, max_size=16),
    st.sets(st.integers(0, 15), max_size=8),
)
def test_no_failure_ever_adds_to_the_gain(scores: list[tuple[float, float]], failures: set[int]) -> None:
    seeds = range(16)
    incumbent = {seed: scores[seed][0] for seed in seeds}
    candidate = {seed: scores[seed][1] for seed in seeds}
    whole = assess(paired(seeds, incumbent, candidate), 2, threshold=0.03, candidates=1)
    failed = assess(paired(seeds, incumbent, candidate | dict.fromkeys(failures)), 2, threshold=0.03, candidates=1)
    assert failed.gain <= whole.gain + 1e-12


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
def test_whatever_was_scored_a_look_answers_with_numbers(scores: list[float]) -> None:
    found = assess(pairs(scores), 1, threshold=0.03, candidates=1)
    assert all(map(math.isfinite, (found.gain, found.gain_low, found.gain_high, found.p_value)))
