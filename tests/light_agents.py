"""A process of live agents that apply at once and learn nothing: all of agents/host.py, at the price of a message."""

import asyncio

from reporting_fleet import Learner
from tars.agents.guard import Guard
from tars.agents.host import LiveAgent, last_run
from tars.runtime.app import Worker, run_worker
from tars.runtime.settings import load_settings
from tars.runtime.telemetry import start_telemetry
from tars.schemas.agent import AgentBeat

BEAT_SECONDS = 1.0


class LightHost:
    """Agents of these names; after a restart they go on with what they ran last, as those of agents/app.py."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self.agents: list[LiveAgent] = []

    async def run(self, worker: Worker) -> None:
        """Host until cancelled."""
        guard = Guard(worker.settings)
        async with asyncio.TaskGroup() as group:
            for name in self._names:
                before, learner = await last_run(worker.bus, name), Learner(name)
                if before.applied:
                    learner.running, learner.version = dict(before.values), before.applied
                agent = LiveAgent(worker.bus, learner, guard=guard)
                await agent.start(before)
                self.agents.append(agent)
                group.create_task(agent.run())
                group.create_task(self._beat(worker, agent))

    async def _beat(self, worker: Worker, agent: LiveAgent) -> None:
        number = 0
        while True:
            if worker.bus.client.is_connected:
                await worker.bus.report(AgentBeat(agent_id=agent.agent_id, run_id=agent.run_id, episode=number))
            number += 1
            await asyncio.sleep(BEAT_SECONDS)

    async def catch_up(self) -> None:
        """Read what was missed while NATS was away."""
        for agent in self.agents:
            await agent.catch_up()


def serve(*names: str) -> None:
    """Host these agents, as `tars run agents` would its own."""
    settings, host = load_settings(), LightHost(names)
    start_telemetry("agents", settings.log_level)
    run_worker(Worker("agents", settings, tasks=(host.run,), on_reconnect=host.catch_up), 0)
