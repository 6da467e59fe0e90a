"""How large a change's effect is, and how sure: the formulas of a watch (WATCH.md section 2).

The effect is a difference in differences of agent means, in units of the score; v is its variance under no effect.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Final, NamedTuple

LEAST_PRE: Final = 15
"""Slots before the change without which there is no verdict (section 4)."""
DETECTED: Final = 3.0
"""Standard errors of a harm that is found 4 times in 5 (section 2)."""
ANY_TIME: Final = 2 * math.log(10)
"""2 ln(1 / 0.1), of a 90 % interval that holds at every slot at once (section 5)."""


@dataclass(frozen=True)
class Plan:
    """How a watch looks; the defaults are those measured (section 2)."""

    pre: int = 30
    """P: slots before the change."""
    length: int = 60
    """W: slots with a value of a reloaded agent after it."""
    first: int = 5
    """The first slot at which evidence may undo."""
    first_confirm: int = 10
    """The first slot at which the watch may confirm."""
    tau: float = 0.20
    """Scale of the harms and gains that evidence expects."""
    rho: float = 0.001
    """Random walk of an agent's level, as a share of its noise, per slot."""
    rising: float = 3.0
    """rho is multiplied by this while agents still learn."""
    nu0: int = 12
    """Degrees of freedom that the model of the variance is worth."""
    back: float = 40.0
    """Evidence of harm that undoes."""
    end: float = 0.025
    """Level of the one t-test at the end."""
    confirm: float = 10.0
    """Evidence against a harm beyond the margin that confirms."""
    margin: float = 0.10
    """The harm that a confirmation excludes."""
    normalised: bool = True
    """Scores are on the scale 0 (best constant action) to 1 (best response), so texts speak of percentage points."""

    def __post_init__(self) -> None:
        """Raise ValueError for a plan that cannot end."""
        if self.length < self.first or self.pre < LEAST_PRE:
            raise ValueError(
                f"a watch needs at least {LEAST_PRE} slots before the change and {self.first} after it, "
                f"not {self.pre} and {self.length}"
            )

    @classmethod
    def unnormalised(cls, noise: float) -> "Plan":
        """The plan for returns without a scale: margin and tau in standard deviations of one slot (section 5)."""
        deviation = math.sqrt(noise)
        return cls(margin=0.4 * deviation, tau=0.8 * deviation, normalised=False)

    def amount(self, value: float) -> str:
        """A difference of scores in words: percentage points, or the return's own unit."""
        return f"{100 * value:+.1f} pp" if self.normalised else f"{value:+.3g}"

    def size(self, value: float) -> str:
        """The same without its sign."""
        return f"{100 * value:.0f} pp" if self.normalised else f"{value:.3g}"


class Change(NamedTuple):
    """How one agent changed."""

    x: float
    """Mean after - mean before (or - its twin's)."""
    weight: float
    """Sum of 1 / slots of the two means."""


class Effect(NamedTuple):
    """The difference in differences, its variance under no effect, and what that variance is worth."""

    d: float
    v: float
    df: int


def log_evidence(d: float, v: float, tau: float) -> float:
    """Log of E, the evidence that an effect is negative: a half-normal mixture of scale tau (section 2)."""
    total = v + tau**2
    z = -d * tau / math.sqrt(v * total)
    return math.log(2) + 0.5 * math.log(v / total) + (d * tau) ** 2 / (2 * v * total) + _log_phi(z)


def _log_phi(z: float) -> float:
    """Log of the standard normal distribution function; its asymptote where the function itself is 0 in floats."""
    return math.log(0.5 * math.erfc(-z / math.sqrt(2))) if z > -30 else -z * z / 2 - math.log(-z) - 0.919  # noqa: PLR2004


def t_quantile(share: float, df: int) -> float:
    """Student's t below which `share` lies, by Cornish and Fisher's expansion: to 0.001 from 12 df on."""
    z = NormalDist().inv_cdf(share)
    return z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)


def effect(canaries: Sequence[Change], controls: Sequence[Change], noise: float, wander: float, nu0: int) -> Effect:
    """The difference in differences (section 2).

    noise: S2. wander: rho (k + P) / 3, what an agent's level moves by itself. The variance of the agents reloaded is
    left out on purpose: harm inflates it. Without controls it is the mean change, and its variance the model's alone.
    """
    model = noise * (fmean(change.weight for change in (*canaries, *controls)) + wander)
    d = fmean(change.x for change in canaries)
    if not controls:
        return Effect(d, model / len(canaries), nu0)
    level = fmean(change.x for change in controls)
    df = nu0 + len(controls) - 1
    pooled = (nu0 * model + sum((change.x - level) ** 2 for change in controls)) / df
    return Effect(d - level, pooled * (1 / len(canaries) + 1 / len(controls)), df)


def smallest_harm(noise: float, canaries: int, controls: int, plan: Plan, *, twin: bool = False) -> float:
    """The smallest harm that a watch finds 4 times in 5 (section 2): say it before the change."""
    if twin:
        return DETECTED * math.sqrt(2 * noise * (1 / plan.length + plan.rho * plan.length / 3) / canaries)
    model = noise * (1 / plan.length + 1 / plan.pre + plan.rho * (plan.length + plan.pre) / 3)
    return DETECTED * math.sqrt(model * (1 / canaries + (1 / controls if controls else 0)))


def record(found: Effect, tau: float, *, early: bool) -> tuple[float, float, float]:
    """What is recorded of the agents reloaded: effect, and the ends of its 90 % interval (section 5).

    early: the watch stopped before its planned end, where the raw estimate exaggerates: it is shrunk by the prior, and
    the interval is one that holds whenever the watch stops.
    """
    d, v, df = found
    if not early:
        reach = t_quantile(0.95, df) * math.sqrt(v)
        return d, d - reach, d + reach
    total = v + tau**2
    reach = math.sqrt(v * total / tau**2 * (ANY_TIME + math.log(total / v)))
    return d * tau**2 / total, d - reach, d + reach
