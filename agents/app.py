"""The wiring of a process that hosts live agents."""

import asyncio
import logging
from typing import Final, Literal

from tars.agents.game import JointPlay
from tars.agents.guard import Guard
from tars.agents.host import LiveAgent, last_run
from tars.agents.keeper import Keeper, Taken
from tars.agents.world import EPISODES_PER_SECOND, Episode, Player, Spell, Start, World, starts
from tars.producers.agent_reports import Reporter
from tars.runtime.app import Worker
from tars.runtime.bus import Bus
from tars.runtime.cancellation import last_words
from tars.runtime.outages import until_possible
from tars.runtime.settings import Settings
from tars.runtime.snapshots import NoSnapshot, Snapshots
from tars.schemas.agent import AgentBeat, AgentReported
from tars.schemas.game import GameReported
from tars.schemas.snapshot import SnapshotRef, twin_of

log = logging.getLogger(__name__)

WORLDS: Final = 2
BEAT_SECONDS: Final = 5.0


class Host:
    """The worlds of this process, and their agents on the bus."""

    def __init__(self, worlds: int = WORLDS, pace: float | None = EPISODES_PER_SECOND) -> None:
        self._count, self._pace = worlds, pace
        self.worlds: list[World] = []
        self.agents: dict[str, LiveAgent] = {}
        self._episodes: dict[str, int] = {}
        self._runs: dict[str, str] = {}
        self._reporter: Reporter | None = None
        self._keeper: Keeper | None = None

    async def run(self, worker: Worker) -> None:
        """Host until cancelled; then every agent says that it stopped."""
        self._reporter, self._keeper = Reporter(worker.bus), Keeper(worker.bus)
        cause: Literal["signal", "error"] = "error"
        detail = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._reporter.run())
                group.create_task(self._keeper.run())
                for number in range(self._count):
                    await self._open(worker, str(number))
                for agent in self.agents.values():
                    group.create_task(agent.run())
                group.create_task(self._beat())
        except asyncio.CancelledError:
            cause = "signal"
            raise
        except BaseException as error:
            detail = f"{type(error).__name__}: {error}"[:1000]
            raise
        finally:
            await last_words(self._close(cause, detail))

    async def _open(self, worker: Worker, world_id: str) -> None:
        """Start a world where its agents stopped: each with the values it ran last, else those in the code."""
        begin = starts()
        before = {}
        for role in begin:
            agent_id = f"{role}-{world_id}"
            before[agent_id] = await last_run(worker.bus, agent_id)
            if before[agent_id].applied:
                begin[role] = Start(before[agent_id].values, before[agent_id].applied)
        world = World(world_id, begin, seed=int(world_id), tell=self._tell, keep=self._keep, pace=self._pace)
        guard = Guard(worker.settings)
        agents = [LiveAgent(worker.bus, player, self._keeper, guard) for player in world.players]
        self._runs |= {agent.agent_id: agent.run_id for agent in agents}
        restored = {player.agent_id: await _restored(worker.bus, player) for player in world.players}
        world.warm_up(worker.settings.warm_up_episodes)
        world.go_on_at(max((ref.episode for ref, _ in filter(None, restored.values())), default=0))
        world.start()
        self.worlds.append(world)
        for agent in agents:
            await agent.start(before[agent.agent_id])
            if (found := restored[agent.agent_id]) is not None:
                agent.say_restored(*found)
            self.agents[agent.agent_id] = agent

    def _tell(self, world_id: str, episode: Episode) -> None:
        """Report an episode; called from the world's thread."""
        if self._reporter is None:
            return
        for spell in episode.agents:
            if (agent := self.agents.get(spell.agent_id)) is not None:
                self._reporter.report(_reported(agent.run_id, episode.number, spell))
                if not spell.twin:
                    self._episodes[spell.agent_id] = episode.number
        if episode.joint is not None:
            self._reporter.report(_game(world_id, episode, episode.joint))

    def _keep(self, taken: Taken) -> None:
        """Store a snapshot; called from the world's thread."""
        if self._keeper is not None:
            self._keeper.keep(self._runs[taken.agent_id], taken)

    async def _beat(self) -> None:
        """Say every BEAT_SECONDS that each agent lives; a world whose thread broke ends this process with its error."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            for world in self.worlds:
                if world.error is not None:
                    raise world.error
            if self._reporter is not None:
                for agent_id, agent in self.agents.items():
                    episode = self._episodes.get(agent_id, 0)
                    self._reporter.report(AgentBeat(agent_id=agent_id, run_id=agent.run_id, episode=episode))

    async def _close(self, cause: Literal["signal", "error"], detail: str) -> None:
        for world in self.worlds:
            await asyncio.to_thread(world.stop)
        try:
            async with asyncio.timeout(3):
                for agent in self.agents.values():
                    await agent.stop(cause, detail)
        except TimeoutError:
            log.warning("NATS is away: not all agents could say that they stopped")

    def is_ready(self) -> bool:
        """Say whether every agent plays, and has said so."""
        return len(self.worlds) == self._count and not any(agent.has_more_to_say for agent in self.agents.values())

    async def catch_up(self) -> None:
        """Read what was missed while NATS was away."""
        for agent in self.agents.values():
            await agent.catch_up()


async def _restored(bus: Bus, player: Player) -> tuple[SnapshotRef, str] | None:
    """Let an agent that starts again go on from its newest snapshot; None: it has none that fits."""
    try:
        ref = await until_possible(lambda: Snapshots(bus).newest(player.agent_id))
        data = None if ref is None else await until_possible(lambda: Snapshots(bus).get(ref))
    except NoSnapshot as error:
        log.warning("it starts from fresh weights", extra={"agent": player.agent_id, "error": str(error)})
        return None
    weights = None if data is None else player.restore(data)
    return None if ref is None or weights is None else (ref, weights)


def _reported(run_id: str, episode: int, spell: Spell) -> AgentReported:
    return AgentReported(
        agent_id=twin_of(spell.agent_id) if spell.twin else spell.agent_id,
        twin=spell.twin,
        run_id=run_id,
        episode=episode,
        step=spell.step,
        score=spell.score,
        version=spell.version,
        finite=spell.finite,
    )


def _game(world_id: str, episode: Episode, joint: JointPlay) -> GameReported:
    return GameReported(
        game_id=world_id,
        episode=episode.number,
        conflicts=episode.conflicts,
        latency=episode.latency,
        nash_conv=joint.nash_conv,
        gains={str(role): gain for role, gain in joint.gains.items()},
    )


def worker(settings: Settings, host: Host | None = None) -> Worker:
    """Hosts two worlds: eight live agents, which all learn."""
    hosting = host or Host()
    return Worker(
        "agents",
        settings,
        buckets=("SNAPSHOTS",),
        tasks=(hosting.run,),
        is_ready=hosting.is_ready,
        on_reconnect=hosting.catch_up,
    )
