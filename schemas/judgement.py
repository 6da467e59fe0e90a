"""What a watch says: its verdict, the effect on record, and what is to be done (WATCH.md sections 2, 5 and 6)."""

from enum import StrEnum
from math import inf, sqrt
from typing import Final, Literal

from tars.schemas.message import Frozen

LONE_T: Final = 0.5
"""Without comparison an undecided change needs this t to be kept, to pay for learning's own trend (section 5)."""
WIDEN_AGENTS: Final = 4
"""Smallest fleet of which half can be reloaded and half compared (section 5)."""


class Verdict(StrEnum):
    """What a watch found."""

    WATCH = "WATCH"
    """Nothing yet."""
    CONFIRM = "CONFIRM"
    """A harm beyond the margin is excluded."""
    ROLL_BACK = "ROLL_BACK"
    ENVIRONMENT = "ENVIRONMENT"
    """Those that did not switch fell as well: start anew, once, with a window taken after the shift."""
    INCONCLUSIVE = "INCONCLUSIVE"
    """The time is over: `keep_or_undo`."""


Comparison = Literal["controls", "twin", "own past"]
"""controls: agents that do not switch now, whichever values they run; twin: a shadow of each reloaded agent with its
old values, in a copy of the environment; own past: nothing but the slots before."""


class Judgement(Frozen):
    """What a watch says at a slot, for people and for the record."""

    verdict: Verdict
    slot: int
    """At which slot after the change the verdict fell, from 1; the newest while there is none."""
    reason: str
    """For people, one line."""
    effect: float | None
    """The recorded effect on the agents reloaded, in units of the score; None: unknown."""
    low: float | None
    """Lower end of its 90 % interval."""
    high: float | None
    d: float | None
    """The raw difference in differences; `effect` is shrunk where the watch stopped early."""
    v: float | None
    """The variance of d under no effect."""
    df: int
    slots: int
    """Slots with a value of a reloaded agent up to now."""
    stopped_early: bool
    """The record is from before the planned end."""
    rising: bool
    """The agents were still learning when it began."""
    smallest: float | None
    """The smallest harm that this watch finds 4 times in 5."""
    reloaded: int
    """Agents that switched."""
    compared: int
    """Agents, or twins, that they are compared with."""
    comparison: Comparison


class Conclusion(Frozen):
    """What is to be done after a verdict, and what people are told."""

    then: Literal["keep", "undo", "widen"]
    text: str


def keep_or_undo(found: Judgement, *, widened: bool = False) -> Conclusion:
    """What follows from a verdict; from INCONCLUSIVE by the rule that earns most (section 5).

    widened: half of the fleet has been reloaded already, or may not be. Raises ValueError while there is no verdict,
    and for ENVIRONMENT, after which the watch starts anew.
    """
    if found.verdict in {Verdict.WATCH, Verdict.ENVIRONMENT}:
        raise ValueError(f"nothing follows from {found.verdict}: {found.reason}")
    if found.verdict is not Verdict.INCONCLUSIVE:
        kept = found.verdict is Verdict.CONFIRM
        return Conclusion(then="keep" if kept else "undo", text=f"{'kept' if kept else 'undone'}: {found.reason}")
    alone = found.comparison == "own past"
    t = -inf if found.d is None or found.v is None else found.d / sqrt(found.v)
    fleet = found.reloaded + found.compared
    if (
        found.comparison == "controls"
        and not widened
        and fleet >= WIDEN_AGENTS
        and 2 * found.reloaded < fleet
        and t >= 0
    ):
        return Conclusion(then="widen", text=f"goes on with half of the agents: {found.reason}")
    if t >= (LONE_T if alone else 0):
        return Conclusion(then="keep", text=f"kept, not proven: {found.reason}")
    return Conclusion(then="undo", text=f"undone: not shown safe: {found.reason}")
