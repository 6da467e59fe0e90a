"""The smallest harm that the watch of an update would find, were it released now."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Final, Protocol

from tars.dashboard.wording import amount, span
from tars.schemas.effect import LEAST_PRE, Plan
from tars.schemas.outlook import Outlook, canary_count, look_ahead
from tars.schemas.slots import Episode
from tars.schemas.views import AgentPoint, AgentRow

EPISODES: Final = 60
"""Of each agent's history: more than a window before a change holds."""
FLEET: Final = 12
"""Agents of an update whose histories are read, at each refresh of a page, to say what a watch could find."""
LATER: Final = "The smallest harm that its watch can find is said when its rollout starts."


class Histories(Protocol):
    """Where episodes are read: the page's rows, or a client."""

    def history(self, agent_id: str, *, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        """Episodes of an agent, newest first."""


def foreseen(agents: Sequence[AgentRow], views: Histories, now: datetime, episodes: int) -> str:
    """What the watch of an update of these agents, so many episodes long, would be able to see, in a sentence."""
    if not agents or len(agents) > FLEET:
        return LATER
    histories = {agent.agent_id: views.history(agent.agent_id, limit=EPISODES) for agent in agents}
    plan = Plan(length=episodes)
    found = estimate(agents, histories, now, plan)
    if found.slot_seconds and not found.known and any(len(rows) == EPISODES for rows in histories.values()):
        return LATER  # they report so fast that what is read here is too little
    return told(found, len(agents), plan)


def estimate(
    agents: Sequence[AgentRow], histories: Mapping[str, Sequence[AgentPoint]], now: datetime, plan: Plan
) -> Outlook:
    """Look ahead by what these agents have reported; histories: newest first."""
    settled = {row.agent_id: _settled(histories.get(row.agent_id, ())) for row in agents}
    return look_ahead(settled, now.timestamp(), plan, hosted=all(row.world is not None for row in agents))


def _settled(history: Sequence[AgentPoint]) -> list[Episode]:
    """The newest episodes with one configuration."""
    newest = takewhile(lambda point: point.version == history[0].version, history)
    return [Episode(point.at.timestamp(), point.score) for point in newest]


def told(found: Outlook, agents: int, plan: Plan) -> str:
    """The outlook in a sentence."""
    if found.slot_seconds is None:
        return f"Nothing of it can be watched: {found.unwatched}."
    if found.smallest_harm is None:
        return f"The smallest harm that its watch can find is known once its agents have reported {LEAST_PRE} episodes."
    harm = amount(found.smallest_harm, normalised=found.normalised).lstrip("+")
    first = canary_count(agents)
    if found.twins:
        against = "copies of themselves that go on as they are"
    elif agents > first:
        against = f"the other {agents - first}"
    else:
        against = "their own past"
    lasts = span(found.slot_seconds * plan.length)
    return (
        f"Released now, {first} of {agents} would switch first, compared with {against}: a loss of {harm} would be "
        f"found 4 times in 5, by {plan.length} episodes (about {lasts}). An estimate: the rollout says it at its start."
    )
