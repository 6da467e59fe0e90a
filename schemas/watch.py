"""Watching a reload: has it harmed the agents that switched? WATCH.md's procedure, slot by slot and pure.

A Watch is folded: `begin` with the slots before the change, `step` for each slot after it; `judge` does both. What is
judged is the difference in differences of agent means: (reloaded after - before) - (compared after - before), by
mixture evidence at every slot and one t-test at the end. Scores are normalised (0.1 = 10 percentage points) unless the
plan says otherwise. Section numbers are WATCH.md's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, log, sqrt
from statistics import fmean
from typing import Final

from tars.schemas.effect import LEAST_PRE, Change, Effect, Plan, effect, log_evidence, record, smallest_harm, t_quantile
from tars.schemas.judgement import Comparison, Judgement, Verdict
from tars.schemas.noise import Limits, is_filled, limits, noise
from tars.schemas.slots import Slot

COLLAPSE_SLOTS: Final = 3
"""Slots in a row below everything before the change that make a collapse (section 2, fast track)."""
COLLAPSE_ERRORS: Final = 3.0
"""Standard errors by which a collapse must exceed what the controls lost in the same slots."""
OVERTIME: Final = 2
"""The watch closes at its planned slots, or at so many times their wall time (section 2)."""
SLOPE: Final = 2.0
"""Standard errors of the slope before the change beyond which the agents are still learning (section 3)."""


@dataclass(frozen=True)
class Trace:
    """One agent in the watch."""

    limits: Limits
    level: float
    """Mean before the change, of clipped values."""
    before: int
    """Slots it is the mean of."""
    total: float = 0.0
    filled: int = 0
    silent: bool = False

    @property
    def mean(self) -> float:
        """Since the change; needs a filled slot."""
        return self.total / self.filled

    @property
    def change(self) -> Change:
        """How it changed; needs a filled slot."""
        return Change(self.mean - self.level, 1 / self.filled + 1 / self.before)

    def seen(self, value: Slot) -> "Trace":
        """The trace after a slot."""
        if value is None:
            return self
        silent = self.silent or isnan(value)
        return replace(self, total=self.total + self.limits.clip(value), filled=self.filled + 1, silent=silent)


@dataclass(frozen=True)
class Fall:
    """How long a group's mean has been below everything before the change."""

    lowest: float
    """The lowest mean before the change, each agent's level taken off."""
    run: tuple[float, ...] = ()
    """The means below it, as many slots as they are in a row."""
    happened: bool = False
    """It was long enough to be a collapse, now or before."""

    def seen(self, values: Sequence[float]) -> "Fall":
        """After a slot with these values, levels taken off; a slot without any counts neither way."""
        if not values:
            return self
        run = (*self.run, fmean(values)) if fmean(values) < self.lowest else ()
        return replace(self, run=run, happened=self.happened or len(run) >= COLLAPSE_SLOTS)


Traces = tuple[Trace | None, ...]
"""None: an agent of which too little was known before the change."""


@dataclass(frozen=True)
class Watch:
    """A watch at some slot."""

    plan: Plan
    """Its `pre` is the number of slots that there were."""
    canaries: Traces
    controls: Traces
    noise: float | None
    """S2 of the role; None: too little was known of every reloaded agent, so there are no statistics."""
    twin: bool
    restarted: bool
    rising: bool
    fall: Fall
    control_fall: Fall
    beside: tuple[float, ...] = ()
    """Means of the controls, levels taken off, while the reloaded agents' fall lasts."""
    at: int = 0
    """Slots since the change."""
    slots: int = 0
    """Those in which a reloaded agent had a value."""
    decided: tuple[Verdict, int, str] | None = None
    """Verdict, slot, reason."""

    @property
    def complete(self) -> bool:
        """Its planned slots, or their time, are over."""
        return self.slots >= self.plan.length or self.at >= OVERTIME * self.plan.length

    @property
    def over(self) -> bool:
        """No further slot can change it."""
        return self.complete or (self.decided is not None and self.decided[0] is not Verdict.CONFIRM)


def begin(
    pre_canary: Sequence[Sequence[Slot]],
    pre_control: Sequence[Sequence[Slot]],
    plan: Plan,
    *,
    twin: bool = False,
    restarted: bool = False,
) -> Watch:
    """Begin a watch from each agent's slots before the change, the newest last, all of one length.

    twin: the controls are shadow twins of the canaries, in their order; what was before is the canaries'.
    """
    canaries = [tuple(row[-plan.pre :]) for row in pre_canary]
    controls = canaries if twin else [tuple(row[-plan.pre :]) for row in pre_control]
    known = [row for row in (canaries if twin else [*canaries, *controls]) if _is_known(row)]
    spread = noise(known) if any(_is_known(row) for row in canaries) else None
    return Watch(
        plan=replace(plan, pre=len(known[0])) if known else plan,
        canaries=tuple(_trace(row) for row in canaries),
        controls=tuple(_trace(row) for row in controls),
        noise=spread,
        twin=twin,
        restarted=restarted,
        rising=spread is not None and _is_rising(known, spread),
        fall=Fall(min(_means(canaries), default=-inf)),
        control_fall=Fall(min(_means(controls), default=-inf)),
    )


def step(watch: Watch, canary: Sequence[Slot], control: Sequence[Slot]) -> Watch:
    """The watch after one more slot of each agent.

    After CONFIRM only a collapse can change the verdict; the slots up to the end are measured for the record.
    """
    if watch.over:
        return watch
    controls = _seen(watch.controls, control)
    others = _off_level([trace if trace and not trace.silent else None for trace in controls], control)
    fall = watch.fall.seen(_off_level(watch.canaries, canary))
    watch = replace(
        watch,
        canaries=_seen(watch.canaries, canary),
        controls=controls,
        fall=fall,
        control_fall=watch.control_fall.seen(others),
        beside=(*watch.beside, *([fmean(others)] if others else ())) if fall.run else (),
        at=watch.at + 1,
        slots=watch.slots + any(value is not None for value in canary),
    )
    found = _collapse(watch) or (None if watch.decided else _statistics(watch))
    return replace(watch, decided=(found[0], watch.at, found[1])) if found else watch


def diverge(watch: Watch) -> Watch:
    """The watch once a parameter, loss or gradient norm of a reloaded agent is not finite, at whatever moment.

    A diverged learner may go on reporting ordinary scores, so its parameters must tell (section 1).
    """
    if watch.decided is not None and watch.decided[0] is not Verdict.CONFIRM:
        return watch
    reason = "diverged: a parameter, loss or gradient of an agent reloaded is not finite"
    return replace(watch, decided=(Verdict.ROLL_BACK, watch.at, reason))


def judge(  # noqa: PLR0913 - all that was seen, in the order of time
    pre_canary: Sequence[Sequence[Slot]],
    post_canary: Sequence[Sequence[Slot]],
    pre_control: Sequence[Sequence[Slot]],
    post_control: Sequence[Sequence[Slot]],
    *,
    finite: bool,
    plan: Plan,
    twin: bool = False,
    restarted: bool = False,
) -> Judgement:
    """Judge a watch from all its slots up to now, as `begin` and `step` for each do; `finite` is as of now."""
    watch = begin(pre_canary, pre_control, plan, twin=twin, restarted=restarted)
    for now in zip(*post_canary, *post_control, strict=True):
        watch = step(watch, now[: len(post_canary)], now[len(post_canary) :])
    return judgement(watch if finite else diverge(watch))


def judgement(watch: Watch) -> Judgement:
    """Say what the watch found, and what it records."""
    verdict, slot, reason = watch.decided or (Verdict.WATCH, watch.at, "nothing is shown yet")
    found, compared = _effect(watch), _compared(watch)
    recorded = record(found, watch.plan.tau, early=not watch.complete) if found else (None, None, None)
    return Judgement(
        verdict=verdict,
        slot=slot,
        reason=reason,
        effect=recorded[0],
        low=recorded[1],
        high=recorded[2],
        d=found.d if found else None,
        v=found.v if found else None,
        df=found.df if found else watch.plan.nu0,
        slots=watch.slots,
        stopped_early=not watch.complete,
        rising=watch.rising,
        smallest=_smallest(watch),
        reloaded=len(watch.canaries),
        compared=len(compared),
        comparison=_comparison(watch),
    )


def _collapse(watch: Watch) -> tuple[Verdict, str] | None:
    """The fast track (section 2, 1)."""
    if len(watch.fall.run) < COLLAPSE_SLOTS:
        return None
    if watch.control_fall.happened:
        shift = "agents that did not switch fell as well: the environment changed"
        return (Verdict.INCONCLUSIVE, f"{shift} again") if watch.restarted else (Verdict.ENVIRONMENT, shift)
    if not _is_theirs_alone(watch):
        return None
    slots = f"{len(watch.fall.run)} slots in a row below all {watch.plan.pre} before the change"
    return Verdict.ROLL_BACK, f"collapse: {slots}"


def _is_theirs_alone(watch: Watch) -> bool:
    """Whether the fall is clear against the controls, too, over its slots.

    This goes beyond WATCH.md: a large group's mean crosses its lowest sooner than a small one's, so the controls' veto
    alone comes too late. Simulated (7 of 8 agents switch, then all lose 40 points): the fast track undid 92 % of these
    harmless reloads, and undoes 2 % so; of those that lose 70 points themselves it finds all either way.
    """
    if not watch.beside or watch.noise is None:
        return True
    groups = (watch.canaries, watch.controls)
    agents = [max(1, sum(trace is not None and not trace.silent for trace in group)) for group in groups]
    per_agent = watch.noise * (1 / len(watch.fall.run) + 1 / watch.plan.pre)
    error = sqrt(per_agent * (1 / agents[0] + 1 / agents[1]))
    return fmean(watch.fall.run) - fmean(watch.beside) < -COLLAPSE_ERRORS * error


def _statistics(watch: Watch) -> tuple[Verdict, str] | None:
    """Evidence, the test at the end, and confirmation (section 2, 2 to 5)."""
    found, plan = _effect(watch), watch.plan
    if found is None or watch.slots < plan.first:
        return (Verdict.INCONCLUSIVE, _too_little(watch)) if watch.complete else None
    d, v, df = found
    told = _told(watch, found)
    if log_evidence(d, v, plan.tau) >= log(plan.back):
        return Verdict.ROLL_BACK, f"worse: {told}"
    if watch.complete and d < -t_quantile(1 - plan.end, df) * sqrt(v):
        return Verdict.ROLL_BACK, f"worse: {told}"
    trusted = not (watch.rising and _comparison(watch) == "own past")  # learning on by itself would hide harm
    if (
        trusted
        and watch.slots >= plan.first_confirm
        and log_evidence(-(d + plan.margin), v, plan.tau) >= log(plan.confirm)
    ):
        return Verdict.CONFIRM, f"a loss of {plan.size(plan.margin)} or more is excluded: {told}"
    if not watch.complete:
        return None
    return Verdict.INCONCLUSIVE, f"{told}; a loss below {plan.size(_smallest(watch) or 0)} is often missed here"


def _told(watch: Watch, found: Effect) -> str:
    value, low, high = (watch.plan.amount(number) for number in record(found, watch.plan.tau, early=not watch.complete))
    against = {"controls": "against the others", "twin": "against the twin", "own past": "against their own past"}
    rising = ", while still learning" if watch.rising else ""
    return f"{value} ({low} to {high}) on the agents reloaded, {against[_comparison(watch)]}{rising}"


def _too_little(watch: Watch) -> str:
    if watch.noise is None:
        return f"fewer than {LEAST_PRE} slots were known before the change"
    return f"only {watch.slots} slots of the agents reloaded in the time of the watch"


def _effect(watch: Watch) -> Effect | None:
    """The effect up to now; None while nothing can be said."""
    present = [trace for trace in watch.canaries if trace and trace.filled]
    if watch.noise is None or not present:
        return None
    plan = watch.plan
    rho = plan.rho * (plan.rising if watch.rising else 1)
    if pairs := _pairs(watch):
        changes = [Change(a.mean - b.mean, 1 / a.filled + 1 / b.filled) for a, b in pairs]
        return effect(changes, (), watch.noise, rho * 2 * watch.at / 3, plan.nu0)
    others = () if watch.twin else _compared(watch)
    wander = rho * (watch.at + plan.pre) / 3
    return effect([t.change for t in present], [t.change for t in others], watch.noise, wander, plan.nu0)


def _pairs(watch: Watch) -> list[tuple[Trace, Trace]]:
    """Each reloaded agent with its twin, where both have values and the twin still lives."""
    if not watch.twin:
        return []
    both = zip(watch.canaries, watch.controls, strict=True)
    return [(a, b) for a, b in both if a and b and a.filled and b.filled and not b.silent]


def _compared(watch: Watch) -> tuple[Trace, ...]:
    """Who is compared with; a control that fell silent is left out, before and after (section 2)."""
    if watch.at == 0:
        return tuple(trace for trace in watch.controls if trace)
    if watch.twin:
        return tuple(twin for _, twin in _pairs(watch))
    return tuple(trace for trace in watch.controls if trace and trace.filled and not trace.silent)


def _comparison(watch: Watch) -> Comparison:
    if not _compared(watch):
        return "own past"
    return "twin" if watch.twin else "controls"


def _smallest(watch: Watch) -> float | None:
    canaries = sum(trace is not None for trace in watch.canaries)
    if watch.noise is None:
        return None
    twin = _comparison(watch) == "twin"
    return smallest_harm(watch.noise, canaries, len(_compared(watch)), watch.plan, twin=twin)


def _is_known(row: Sequence[Slot]) -> bool:
    return len(row) >= LEAST_PRE and is_filled(row)


def _trace(row: Sequence[Slot]) -> Trace | None:
    if not _is_known(row):
        return None
    bounds = limits(row)
    values = [bounds.clip(value) for value in row if value is not None]
    return Trace(bounds, fmean(values), len(values))


def _seen(traces: Traces, values: Sequence[Slot]) -> Traces:
    return tuple(trace and trace.seen(value) for trace, value in zip(traces, values, strict=True))


def _off_level(traces: Sequence[Trace | None], values: Sequence[Slot]) -> list[float]:
    """A slot's values, each agent's level taken off; one that failed or is silent is infinitely low."""
    known = [(value, trace.level) for trace, value in zip(traces, values, strict=True) if trace and value is not None]
    return [-inf if isnan(value) else value - level for value, level in known]


def _means(rows: Sequence[Sequence[Slot]]) -> list[float]:
    """Mean of a group in each slot before the change, clipped, each agent's level taken off; empty slots left out."""
    traces = [(row, trace) for row in rows if (trace := _trace(row))]
    found = [
        [trace.limits.clip(value) - trace.level for row, trace in traces if (value := row[at]) is not None]
        for at in range(len(traces[0][0]) if traces else 0)
    ]
    return [fmean(values) for values in found if values]


def _is_rising(rows: Sequence[Sequence[Slot]], spread: float) -> bool:
    """Whether the slope of the group's mean before the change is above 2 standard errors."""
    means = _means(rows)
    times = [at - (len(means) - 1) / 2 for at in range(len(means))]
    squares = sum(time**2 for time in times)
    slope = sum(time * mean for time, mean in zip(times, means, strict=True)) / squares
    return slope > SLOPE * sqrt(spread / len(rows) / squares)
