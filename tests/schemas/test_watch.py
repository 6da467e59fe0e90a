"""Has a reload harmed the agents that switched? The watch, slot by slot."""

from math import exp, inf, sqrt
from random import Random
from statistics import fmean, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tars.schemas.effect import Change, Plan, effect, log_evidence, smallest_harm, t_quantile
from tars.schemas.judgement import Judgement, Verdict, keep_or_undo
from tars.schemas.noise import limits, noise
from tars.schemas.slots import FAILED, SILENT, Slot
from tars.schemas.watch import begin, diverge, judge, judgement, step

PLAN = Plan()
SD = 0.265
"""Of one episode's score: the mean of the game's four roles (WATCH.md section 4)."""


class Fleet:
    """Agents whose scores are noise about a level of their own that wanders, as those measured do."""

    def __init__(self, seed: int, agents: int, canaries: int, *, sd: float = SD, trend: float = 0.0) -> None:
        random = Random(seed)
        self.canaries = canaries
        self.pre: list[list[float]] = []
        self.post: list[list[float]] = []
        for _ in range(agents):
            level, row = random.gauss(0.8, 0.05), []
            for _ in range(PLAN.pre + 2 * PLAN.length):
                level += trend + random.gauss(0, sd * sqrt(PLAN.rho))
                row.append(random.gauss(level, sd))
            self.pre.append(row[: PLAN.pre])
            self.post.append(row[PLAN.pre :])

    def judge(self, harm: float = 0.0, shift: float = 0.0, slots: int = PLAN.length, **options: bool) -> Judgement:
        """harm: what the reload costs the canaries; shift: what the environment costs all from the 10th slot on."""
        post: list[list[Slot]] = [
            [
                value - (harm if agent < self.canaries else 0) - (shift if at >= 10 else 0)
                for at, value in enumerate(row[:slots])
            ]
            for agent, row in enumerate(self.post)
        ]
        m = self.canaries
        return judge(self.pre[:m], post[:m], self.pre[m:], post[m:], finite=True, plan=PLAN, **options)


def share(verdict: Verdict, found: list[Judgement]) -> float:
    return fmean(judgement.verdict is verdict for judgement in found)


# The anchors of WATCH.md section 2.


def test_evidence_is_that_of_the_formula() -> None:
    assert exp(log_evidence(-0.2, 0.0064, 0.2)) == pytest.approx(10.875, abs=5e-4)
    assert exp(log_evidence(0.0, 0.0064, 0.2)) == pytest.approx(0.3714, abs=5e-5)


def test_evidence_stays_finite_for_harms_that_floats_cannot_tell_from_certain() -> None:
    assert log_evidence(-50.0, 1e-6, 0.2) > 1e6
    assert log_evidence(50.0, 1e-6, 0.2) < -9


@pytest.mark.parametrize(("share", "df", "t"), [(0.975, 12, 2.1788), (0.975, 43, 2.0167), (0.95, 12, 1.7823)])
def test_student_s_quantiles_are_those_of_the_tables(share: float, df: int, t: float) -> None:
    assert t_quantile(share, df) == pytest.approx(t, abs=2e-3)


@pytest.mark.parametrize(
    ("canaries", "controls", "predicted"), [(1, 1, 0.32), (1, 7, 0.24), (2, 6, 0.19), (4, 28, 0.12)]
)
def test_the_smallest_harm_is_the_one_predicted(canaries: int, controls: int, predicted: float) -> None:
    assert smallest_harm(SD**2, canaries, controls, PLAN) == pytest.approx(predicted, abs=0.01)


def test_the_difference_in_differences_leaves_out_the_canaries_own_spread() -> None:
    controls = [Change(x, 0.05) for x in (0.0, 0.1, 0.2)]
    calm = effect([Change(-0.2, 0.05)] * 2, controls, 0.07, 0.03, 12)
    torn = effect([Change(-0.4, 0.05), Change(0.0, 0.05)], controls, 0.07, 0.03, 12)
    assert calm == torn
    assert calm.d == pytest.approx(-0.3)
    assert calm.df == 14
    assert calm.v == pytest.approx((12 * 0.07 * 0.08 + 0.02) / 14 * (1 / 2 + 1 / 3))


# The noise of a slot.


def test_noise_is_the_variance_about_a_level_that_rises() -> None:
    fleets = [Fleet(seed, 8, 1, trend=0.02) for seed in range(20)]
    assert fmean(noise(fleet.pre) for fleet in fleets) == pytest.approx(SD**2, rel=0.1)


def test_a_few_outliers_do_not_make_noise() -> None:
    calm = Fleet(3, 8, 1).pre
    hit = [[value + 10 * SD * (at == 7) for at, value in enumerate(row)] for row in calm]
    assert noise(hit) < 2.2 * noise(calm)


def test_scores_that_follow_one_another_count_as_noisier_than_they_look() -> None:
    random, rows = Random(1), []
    for _ in range(8):
        value, row = 0.0, []
        for _ in range(60):
            value = 0.6 * value + random.gauss(0, 0.8 * SD)
            row.append(value)
        rows.append(row[-30:])
    assert noise(rows) == pytest.approx((0.8 * SD / 0.4) ** 2, rel=0.5)
    assert noise(rows) > 2 * SD**2


def test_missing_slots_leave_the_noise_as_it_is() -> None:
    random, rows = Random(5), Fleet(5, 16, 1).pre
    thinned = [[value if random.random() > 0.3 else None for value in row] for row in rows]
    assert noise(thinned) == pytest.approx(noise(rows), rel=0.25)


def test_scores_that_never_vary_can_still_be_compared() -> None:
    assert 0 < noise([[500.0] * 30]) < 1e-3
    assert limits([500.0] * 30).high > 500


def test_a_failed_slot_counts_as_the_lowest_value() -> None:
    bounds = limits(Fleet(2, 1, 1).pre[0])
    assert bounds.clip(FAILED) == bounds.clip(SILENT) == bounds.low


# Verdicts, by simulation.


@pytest.mark.parametrize(("agents", "canaries"), [(2, 1), (8, 1), (32, 4)])
def test_a_reload_that_changes_nothing_is_seldom_undone(agents: int, canaries: int) -> None:
    found = [Fleet(seed, agents, canaries).judge() for seed in range(80)]
    assert share(Verdict.ROLL_BACK, found) <= 0.05


def test_twenty_points_lost_are_mostly_found_with_one_canary_of_eight_and_always_with_four_of_32() -> None:
    few = [Fleet(seed, 8, 1).judge(harm=0.2) for seed in range(100)]
    many = [Fleet(seed, 32, 4).judge(harm=0.2) for seed in range(20)]
    assert share(Verdict.ROLL_BACK, few) >= 0.6
    assert share(Verdict.ROLL_BACK, many) == 1


def test_forty_points_lost_are_found_within_a_quarter_of_the_watch() -> None:
    found = [Fleet(seed, 8, 1).judge(harm=0.4) for seed in range(100)]
    assert share(Verdict.ROLL_BACK, found) >= 0.97
    assert quantiles([judgement.slot for judgement in found], n=2)[0] <= 15


def test_a_lone_agent_s_loss_of_forty_points_is_found() -> None:
    found = [Fleet(seed, 1, 1).judge(harm=0.4) for seed in range(60)]
    assert share(Verdict.ROLL_BACK, found) >= 0.9
    assert {judgement.comparison for judgement in found} == {"own past"}


def test_an_environment_that_shifts_for_all_is_not_blamed_on_the_reload() -> None:
    found = [Fleet(seed, 8, 1).judge(shift=0.4) for seed in range(100)]
    alone = [Fleet(seed, 1, 1).judge(shift=0.4) for seed in range(100)]
    assert share(Verdict.ROLL_BACK, found) <= 0.05
    assert share(Verdict.ROLL_BACK, alone) > 0.5  # what a lone agent cannot tell, and people are told


@pytest.mark.parametrize("shift", [0.2, 0.4, 0.7])
def test_one_canary_that_switched_before_serves_as_control_of_the_rest(shift: float) -> None:
    found = [Fleet(seed, 8, 7).judge(shift=shift) for seed in range(60)]
    assert share(Verdict.ROLL_BACK, found) <= 0.1


def test_a_collapse_of_the_rest_is_undone_at_its_third_slot() -> None:
    found = [Fleet(seed, 8, 7).judge(harm=1.0) for seed in range(60)]
    assert {(judgement.verdict, judgement.slot) for judgement in found} == {(Verdict.ROLL_BACK, 3)}


def test_a_gain_is_never_undone_and_mostly_confirmed() -> None:
    found = [Fleet(seed, 8, 1).judge(harm=-0.3) for seed in range(60)]
    assert share(Verdict.ROLL_BACK, found) == 0
    assert share(Verdict.CONFIRM, found) >= 0.8


def test_the_recorded_interval_holds_the_effect_nine_times_in_ten() -> None:
    found = [Fleet(seed, 8, 2).judge(harm=0.05) for seed in range(150)]
    held = [j.low <= -0.05 <= j.high for j in found if j.low is not None and j.high is not None]
    assert fmean(held) >= 0.86


def test_a_watch_that_stops_early_records_less_than_it_saw() -> None:
    found = Fleet(4, 32, 4).judge(harm=0.4)
    assert found.verdict is Verdict.ROLL_BACK
    assert found.stopped_early
    assert found.d is not None
    assert found.effect is not None
    assert found.d < found.effect < 0


def test_a_shadow_twin_finds_what_an_agent_s_own_past_cannot() -> None:
    caught = []
    for seed in range(40):
        both = Fleet(seed, 2, 1)
        worse = [[value - 0.25 for value in both.post[0][:60]]]
        caught.append(judge(both.pre[:1], worse, (), [both.post[0][60:]], finite=True, plan=PLAN, twin=True))
    assert share(Verdict.ROLL_BACK, caught) >= 0.8
    assert {judgement.comparison for judgement in caught} == {"twin"}


# Verdicts, one by one.

FLEET = Fleet(7, 8, 1)


def test_a_collapse_is_undone_at_its_third_slot() -> None:
    found = FLEET.judge(harm=2.0)
    assert (found.verdict, found.slot) == (Verdict.ROLL_BACK, 3)
    assert found.reason.startswith("collapse")


def test_a_collapse_of_all_is_the_environment_and_the_second_time_undecided() -> None:
    first, second = FLEET.judge(shift=2.0), FLEET.judge(shift=2.0, restarted=True)
    assert (first.verdict, first.slot) == (Verdict.ENVIRONMENT, 13)
    assert second.verdict is Verdict.INCONCLUSIVE


def test_a_diverged_learner_is_undone_at_once_whatever_it_scores() -> None:
    watch = begin(FLEET.pre[:1], FLEET.pre[1:], PLAN)
    assert judgement(diverge(watch)).verdict is Verdict.ROLL_BACK
    found = judge(
        FLEET.pre[:1], [FLEET.post[0][:1]], FLEET.pre[1:], [row[:1] for row in FLEET.post[1:]], finite=False, plan=PLAN
    )
    assert (found.verdict, found.slot) == (Verdict.ROLL_BACK, 1)


def test_a_confirmed_reload_is_still_undone_when_it_collapses_or_diverges() -> None:
    better = [[value + 0.5 for value in FLEET.post[0][:30]]]
    pre, others = FLEET.pre[1:], [row[:33] for row in FLEET.post[1:]]
    confirmed = judge(FLEET.pre[:1], better, pre, [row[:30] for row in others], finite=True, plan=PLAN)
    collapsed = judge(FLEET.pre[:1], [better[0] + [-3.0] * 3], pre, others, finite=True, plan=PLAN)
    diverged = judge(FLEET.pre[:1], better, pre, [row[:30] for row in others], finite=False, plan=PLAN)
    assert confirmed.verdict is Verdict.CONFIRM
    assert collapsed.verdict is diverged.verdict is Verdict.ROLL_BACK


def test_a_verdict_does_not_change_when_more_is_seen() -> None:
    early = FLEET.judge(harm=0.5, slots=20)
    assert early.verdict is Verdict.ROLL_BACK
    assert FLEET.judge(harm=0.5, slots=60) == early


def test_a_canary_that_falls_silent_is_undone() -> None:
    silent: list[Slot] = [*FLEET.post[0][:10], *[SILENT] * 50]
    found = judge(FLEET.pre[:1], [silent], FLEET.pre[1:], [row[:60] for row in FLEET.post[1:]], finite=True, plan=PLAN)
    assert (found.verdict, found.slot) == (Verdict.ROLL_BACK, 13)


def test_a_control_that_falls_silent_is_left_out() -> None:
    rows: list[list[Slot]] = [list(row[:20]) for row in FLEET.post]
    rows[3][10:] = [SILENT] * 10
    found = judge(FLEET.pre[:1], rows[:1], FLEET.pre[1:], rows[1:], finite=True, plan=PLAN)
    assert found.compared == 6


def test_a_slow_canary_is_watched_for_longer() -> None:
    slow: list[Slot] = [value if at % 2 else None for at, value in enumerate(FLEET.post[0])]
    others: list[list[Slot]] = [list(row) for row in FLEET.post[1:]]
    half = judge(FLEET.pre[:1], [slow[:60]], FLEET.pre[1:], [row[:60] for row in others], finite=True, plan=PLAN)
    whole = judge(FLEET.pre[:1], [slow], FLEET.pre[1:], others, finite=True, plan=PLAN)
    assert (half.verdict, half.slots) == (Verdict.WATCH, 30)
    assert (whole.slots, whole.stopped_early) == (60, False)


def test_while_agents_still_learn_nothing_is_confirmed_without_comparison() -> None:
    learning = Fleet(11, 1, 1, trend=0.02)
    found = learning.judge()
    assert found.rising
    assert found.verdict is Verdict.INCONCLUSIVE
    assert Fleet(11, 8, 1, trend=0.02).judge(harm=-0.5).verdict is Verdict.CONFIRM


def test_with_too_little_known_before_there_is_no_verdict_but_of_a_divergence() -> None:
    short = [row[:14] for row in FLEET.pre]
    rows = [row[:60] for row in FLEET.post]
    found = judge(short[:1], rows[:1], short[1:], rows[1:], finite=True, plan=PLAN)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.effect is None
    assert "fewer than 15 slots" in found.reason
    assert keep_or_undo(found).then == "undo"
    assert judge(short[:1], rows[:1], short[1:], rows[1:], finite=False, plan=PLAN).verdict is not Verdict.CONFIRM


def test_a_plan_without_a_scale_is_measured_in_the_noise_of_the_returns() -> None:
    scaled = [[100 * value for value in row] for row in FLEET.pre]
    plan = Plan.unnormalised(noise(scaled))
    post = [[100 * value - 60 for value in FLEET.post[0][:60]]]
    found = judge(
        scaled[:1], post, scaled[1:], [[100 * v for v in row[:60]] for row in FLEET.post[1:]], finite=True, plan=plan
    )
    assert found.verdict is Verdict.ROLL_BACK
    assert "pp" not in found.reason


def test_a_plan_too_short_to_judge_by_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 15 slots before"):
        Plan(pre=10)


# What follows from a verdict.

UNDECIDED = Judgement(
    verdict=Verdict.INCONCLUSIVE, slot=60, reason="undecided", effect=0.0, low=-0.1, high=0.1, d=0.02, v=0.01, df=18,
    slots=60, stopped_early=False, rising=False, smallest=0.24, reloaded=1, compared=7, comparison="controls",
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "widened", "then"),
    [
        ({}, False, "widen"),
        ({}, True, "keep"),
        ({"d": -0.001}, False, "undo"),
        ({"compared": 2}, False, "keep"),
        ({"reloaded": 7, "compared": 1}, False, "keep"),
        ({"comparison": "own past", "compared": 0}, False, "undo"),
        ({"comparison": "own past", "compared": 0, "d": 0.06}, False, "keep"),
        ({"comparison": "twin", "compared": 1}, False, "keep"),
        ({"d": None, "v": None}, False, "undo"),
    ],
)
def test_an_undecided_reload_is_widened_once_then_kept_if_it_seems_no_worse(
    change: dict[str, object], widened: bool, then: str
) -> None:
    conclusion = keep_or_undo(UNDECIDED.model_copy(update=change), widened=widened)
    assert conclusion.then == then
    assert conclusion.text.startswith(
        {"keep": "kept, not proven", "undo": "undone: not shown safe"}.get(then, "goes on")
    )


def test_nothing_follows_while_there_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="WATCH"):
        keep_or_undo(UNDECIDED.model_copy(update={"verdict": Verdict.WATCH}))


@given(harm=st.sampled_from([-0.4, 0.0, 0.1, 0.2, 0.6]), seed=st.integers(0, 500), agents=st.integers(1, 6))
def test_no_text_promises_safety_or_names_a_p_value(harm: float, seed: int, agents: int) -> None:
    found = Fleet(seed, agents, 1).judge(harm=harm)
    follows = keep_or_undo(found).text if found.verdict is not Verdict.ENVIRONMENT else ""  # then it starts anew
    words = found.reason + follows.replace("not shown safe", "")
    assert not any(word in words for word in ("safe", "no effect", "p-value", "significant"))


VALUES = st.one_of(st.none(), st.just(FAILED), st.just(SILENT), st.floats(-1e6, 1e6))


@given(st.data())
def test_whatever_agents_report_a_watch_ends_with_a_verdict(data: st.DataObject) -> None:
    agents = data.draw(st.integers(1, 3))
    pre = data.draw(st.lists(st.lists(VALUES, min_size=30, max_size=30), min_size=agents, max_size=agents))
    watch = begin(pre[:1], pre[1:], PLAN)
    row = data.draw(st.lists(VALUES, min_size=agents, max_size=agents))
    for _ in range(2 * PLAN.length):
        watch = step(watch, row[:1], row[1:])
    found = judgement(watch)
    assert found.verdict is not Verdict.WATCH
    assert all(value is None or abs(value) < inf for value in (found.effect, found.low, found.high, found.d, found.v))
