"""What the watch of a rollout will be able to see, said before it starts: its slot, and the smallest harm. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tars.schemas.effect import LEAST_PRE, Plan, smallest_harm
from tars.schemas.noise import is_filled, noise
from tars.schemas.slots import Episode, Slot, slots, usual_interval

SHORTEST_SLOT: Final = 0.05
"""Seconds, of hosted agents."""
SHORTEST_FOREIGN_SLOT: Final = 1.0
"""Seconds, of foreign learners: well above what a report may wait until it leaves with others (0.2 s); and they may
pause for five slots, to learn or to save, before they count as silent."""
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
    known: frozenset[str] = frozenset()
    """Agents that can be judged, and compared with: of the others too little was known before the change."""
    lacking: frozenset[str] = frozenset()
    """Agents whose episodes do not reach back over the whole window."""
    complete: bool = True
    """They reach back far enough for every agent; False: look again in a while."""


def canary_count(agents: int) -> int:
    """How many of so many agents switch first."""
    return max(1, round(CANARY_SHARE * agents))


def look_ahead(settled: Mapping[str, Sequence[Episode]], now: float, plan: Plan, *, hosted: bool) -> Outlook:
    """Find the slot of these agents, and the smallest harm that a watch of the canaries can find.

    settled: of each agent the newest episodes of one run with one configuration, before `now` (Unix seconds). hosted:
    all of them live in worlds of ours, so that their scores have a scale and they can be copied.
    """
    width = usual_interval(*settled.values())
    if width is None:
        return Outlook(None, "its agents report no episodes", lacking=frozenset(settled))
    width = max(width, SHORTEST_SLOT if hosted else SHORTEST_FOREIGN_SLOT)
    reach = {name: (now - min((e.time for e in episodes), default=now)) / width for name, episodes in settled.items()}
    windows = {name: slots(found, now - plan.pre * width, width, plan.pre) for name, found in settled.items()}
    known = {name: row for name, row in windows.items() if reach[name] >= LEAST_PRE and is_filled(row)}
    found = Outlook(
        width,
        twins=len(settled) < TWINS_BELOW and hosted,
        known=frozenset(known),
        lacking=frozenset(name for name, slots_back in reach.items() if slots_back < plan.pre),
        complete=min(reach.values()) >= LEAST_PRE,
    )
    return _with_harm(found, list(known.values()), len(settled), plan, hosted=hosted) if known else found


def _with_harm(found: Outlook, known: Sequence[Sequence[Slot]], agents: int, plan: Plan, *, hosted: bool) -> Outlook:
    """The outlook with the smallest harm that can be found, by these windows of so many agents."""
    spread, canaries = noise(known), canary_count(agents)
    controls = canaries if found.twins else max(0, len(known) - canaries)
    suited = plan_for(spread, plan, hosted=hosted)
    harm = smallest_harm(spread, canaries, controls, suited, twin=found.twins)
    return replace(found, smallest_harm=harm, normalised=suited.normalised)


def seen_from(found: Outlook, canaries: Collection[str]) -> Outlook:
    """The outlook where these switch first: nothing can be watched, unless one of them can be judged."""
    if found.slot_seconds is None or not found.known.isdisjoint(canaries):
        return found
    return replace(
        found, slot_seconds=None, twins=False, smallest_harm=None, unwatched="its canaries report too few episodes"
    )


def plan_for(spread: float, plan: Plan, *, hosted: bool) -> Plan:
    """The plan as it is for hosted agents, whose scores have a scale; for foreign returns by their own noise."""
    return plan if hosted else replace(Plan.unnormalised(spread), pre=plan.pre, length=plan.length)
