"""What live agents run, read from their events."""

import asyncio
from collections.abc import Iterable

from tars.runtime.journal import History, Journal
from tars.schemas.agent import AgentEvent
from tars.schemas.running import RunningAgent, replay


async def running_agents(journal: Journal, agent_ids: Iterable[str]) -> dict[str, RunningAgent]:
    """Read what these agents run; one that never started is left out."""

    async def read(agent_id: str) -> RunningAgent:
        history: History[AgentEvent] = await journal.newest("agent", agent_id)
        return replay(history.events)

    found = await asyncio.gather(*(read(agent_id) for agent_id in dict.fromkeys(agent_ids)))
    return {agent.agent_id: agent for agent in found if agent.run_id}
