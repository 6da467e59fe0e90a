"""What the watch of a rollout will be able to see, said before it starts: its slot, and the smallest harm. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tars.schemas.effect import LEAST_PRE, Plan, smallest_harm
from tars.schemas.noise import noise
from tars.schemas.slots import Episode, median_interval, slots

SHORTEST_SLOT: Final = 0.05
"""Seconds."""
TWINS_BELOW: Final = 4
"""Agents, below which hosted ones are compared with copies of themselves (WATCH.md section 3)."""
CANARY_SHARE: Final = 0.1
"""Of the agents, at least one: they switch first."""


@dataclass(frozen=True)
class Outlook:
    """What the watch of a rollout will be able to see."""

    slot_seconds: float | None
    """None: nothing can be watched."""
    unwatched: str = ""
    """Why not."""
    twins: bool = False
    smallest_harm: float | None = None
    normalised: bool = True
    complete: bool = True
    """Enough is known of every agent before the change; False: look again in a while."""


def canary_count(agents: int) -> int:
    """How many of so many agents switch first."""
    return max(1, round(CANARY_SHARE * agents))


def look_ahead(settled: Mapping[str, Sequence[Episode]], now: float, plan: Plan, *, hosted: bool) -> Outlook:
    """Find the slot of these agents, and the smallest harm that a watch of the canaries can find.

    settled: of each agent the newest episodes of one run with one configuration, before `now` (Unix seconds). hosted:
    all of them live in worlds of ours, so that their scores have a scale and they can be copied.
    """
    width = median_interval(*settled.values())
    if width is None:
        return Outlook(None, "its agents report no episodes")
    width = max(width, SHORTEST_SLOT)
    windows = [slots(episodes, now - plan.pre * width, width, plan.pre) for episodes in settled.values()]
    known = [row for row in windows if sum(value is not None for value in row) >= LEAST_PRE]
    twins = len(settled) < TWINS_BELOW and hosted
    if not known:
        return Outlook(width, twins=twins, complete=False)
    spread, canaries = noise(known), canary_count(len(settled))
    controls = canaries if twins else len(settled) - canaries
    suited = plan_for(spread, plan, hosted=hosted)
    harm = smallest_harm(spread, canaries, controls, suited)
    complete = len(known) == len(settled)
    return Outlook(width, twins=twins, smallest_harm=harm, normalised=suited.normalised, complete=complete)


def plan_for(spread: float, plan: Plan, *, hosted: bool) -> Plan:
    """The plan as it is for hosted agents, whose scores have a scale; for foreign returns by their own noise."""
    return plan if hosted else replace(Plan.unnormalised(spread), pre=plan.pre, length=plan.length)
