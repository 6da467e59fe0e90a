"""Live agents on a real server that apply at once and report episodes, with scores that a test makes up."""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from story import ADA, CHANGE, NOW, VALUES, agent
from tars.agents.host import Applied, LiveAgent, Reload, last_run
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.schemas.agent import AgentReported, ConfigureAgent
from tars.schemas.hyperparameters import AlgorithmName, Moment, Value
from tars.schemas.running import RunningAgent
from tars.schemas.streams import configure_subject
from tars.schemas.update import ProposeUpdate, UpdateApproved, UpdateEvent, UpdateReleased
from tars.sync_worker.lifecycle import Facts, Stage, Update, decide, replay

EPISODE_SECONDS = 0.05
SPREAD = 0.05
"""Standard deviation of an episode's score."""

Score = Callable[[str, bool, float], float]
"""(agent, whether it runs the new values, seconds since the fleet began) -> mean score."""


class Learner:
    """A learner that applies at once."""

    algorithm: AlgorithmName | None = "dqn"
    role = "policy"

    def __init__(self, agent_id: str, world: str | None = "w") -> None:
        self.agent_id, self.world = agent_id, world
        self.running, self.version, self.finite = dict(VALUES), 0, True

    def values(self) -> dict[str, Value]:
        """Return the whole set in use."""
        return dict(self.running)

    def objections(self, values: Mapping[str, Value]) -> list[str]:
        return []

    def takes_effect(self, names: Sequence[str]) -> Moment:
        """Say when these keys come into use."""
        del names
        return "live"

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        """Apply at once."""
        self.running, self.version = dict(reload.values), reload.version
        applied(Applied(reload, dict(reload.values), 1, "w", "w", 5, 5, 0.1))


class ReportingFleet:
    """Agents that report an episode every EPISODE_SECONDS."""

    def __init__(self, bus: Bus, score: Score, dice: random.Random) -> None:
        self._bus, self._score, self._dice = bus, score, dice
        self.agents: dict[str, LiveAgent] = {}
        self.learners: dict[str, Learner] = {}
        self.silent: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self, *learners: Learner) -> None:
        """Let these agents start."""
        for learner in learners:
            live = LiveAgent(self._bus, learner)
            await live.start(await last_run(self._bus, learner.agent_id))
            self.agents[learner.agent_id], self.learners[learner.agent_id] = live, learner
            self._tasks.append(asyncio.create_task(live.run()))
        if len(self._tasks) == len(learners):
            self._tasks.append(asyncio.create_task(self._report()))

    async def begin_anew(self, name: str) -> None:
        """Let an agent stop, and start again as an attached one does: with the values of its code."""
        await self.agents[name].stop("signal")
        learner = self.learners[name]
        learner.running, learner.version = dict(VALUES), 0
        live = LiveAgent(self._bus, learner)
        await live.start(replace(await last_run(self._bus, name), applied=0), adopt=False)
        self.agents[name] = live
        self._tasks.append(asyncio.create_task(live.run()))

    async def _report(self) -> None:
        loop = asyncio.get_running_loop()
        began, episode = loop.time(), 0
        while True:
            for name in [name for name in self.learners if name not in self.silent]:
                await self._bus.report(self._episode(name, episode, loop.time() - began))
            episode += 1
            await asyncio.sleep(max(0.0, began + episode * EPISODE_SECONDS - loop.time()))

    def _episode(self, name: str, episode: int, seconds: float) -> AgentReported:
        learner = self.learners[name]
        new = learner.running["learning_rate"] == CHANGE["learning_rate"]
        score = self._score(name, new, seconds) + self._dice.gauss(0, SPREAD)
        failed = not math.isfinite(score)
        return AgentReported(
            agent_id=name, run_id=self.agents[name].run_id, episode=episode, step=episode, score=0 if failed else score,
            failed=failed, version=learner.version, finite=learner.finite,
        )  # fmt: skip

    async def leave(self) -> None:
        """End without a word."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def reporting(bus: Bus, score: Score, *names: str, world: str | None = "w") -> AsyncIterator[ReportingFleet]:
    """Agents of these names for the length of the block, with a second of episodes behind them."""
    fleet = ReportingFleet(bus, score, random.Random(7))
    try:
        await fleet.join(*(Learner(name, world) for name in names))
        await asyncio.sleep(20 * EPISODE_SECONDS)
        yield fleet
    finally:
        await fleet.leave()


async def release(
    bus: Bus,
    *names: str,
    update_id: str = "u",
    values: Mapping[str, Value] = CHANGE,
    agents: Mapping[str, RunningAgent] | None = None,
) -> None:
    """Put a released update of these agents into the ledger; agents: what they run, where that is not VALUES."""
    facts = Facts(id="c", time=NOW, by=ADA, agents=agents or {name: agent(name) for name in names})
    proposed = decide(Update(), ProposeUpdate(update_id=update_id, agents=names, values=dict(values)), facts)
    approved = UpdateApproved(update_id=update_id, by=ADA, mode="manual", reason="", hold=False)
    history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
    released = UpdateReleased(update_id=update_id, by=ADA)
    await Journal(bus).append([*proposed, approved, released], history, cause=f"c-{update_id}")


async def ended(bus: Bus, *stages: Stage, update_id: str = "u", seconds: float = 40) -> tuple[UpdateEvent, ...]:
    """Wait until an update has come to one of these stages."""
    async with asyncio.timeout(seconds):
        while True:
            history: History[UpdateEvent] = await Journal(bus).read("update", update_id)
            if replay(history.events).stage in stages:
                return history.events
            await asyncio.sleep(0.05)


async def configurations(bus: Bus, agent_id: str) -> list[ConfigureAgent]:
    """What an agent was told, the oldest first."""
    return [entry.event for entry in await Journal(bus).messages("AGENTS", configure_subject(agent_id))]
