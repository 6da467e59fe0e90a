"""What live agents run, read from their events."""

import asyncio
from collections.abc import Iterable

from pydantic import ValidationError

from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.schemas.agent import AgentEvent, AgentReported
from tars.schemas.running import RunningAgent, replay


async def running_agents(journal: Journal, agent_ids: Iterable[str]) -> dict[str, RunningAgent]:
    """Read what these agents run; one that never started is left out."""

    async def read(agent_id: str) -> RunningAgent:
        history: History[AgentEvent] = await journal.newest("agent", agent_id)
        return replay(history.events)

    found = await asyncio.gather(*(read(agent_id) for agent_id in dict.fromkeys(agent_ids)))
    return {agent.agent_id: agent for agent in found if agent.run_id}


async def episodes_run(bus: Bus, agents: Iterable[RunningAgent]) -> dict[str, int]:
    """How many episodes each of these agents has run since it started; one that has not reported is left out."""

    async def read(agent: RunningAgent) -> int | None:
        kind = AgentReported.model_fields["kind"].default
        newest = await bus.last("REPORTS", f"tars.report.{kind}.{agent.agent_id}")
        try:
            report = None if newest is None else AgentReported.model_validate_json(newest[2])
        except ValidationError:
            return None
        return report.episode + 1 if report is not None and report.run_id == agent.run_id else None

    known = tuple(agents)
    found = await asyncio.gather(*(read(agent) for agent in known))
    return {agent.agent_id: count for agent, count in zip(known, found, strict=True) if count is not None}
