"""An attached learner's line to NATS, in a thread that nothing in the user's loop waits for."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from typing import Final, Literal

from pydantic import ValidationError

from tars.agents.attached_learner import AttachedLearner
from tars.agents.background import BACKGROUND
from tars.agents.guard import Guard
from tars.agents.host import LiveAgent, last_run
from tars.agents.keeper import DiskKeeper, Keeper, Keeps
from tars.producers.agent_reports import FLUSH_SECONDS, KEPT, Reporter
from tars.runtime.access import access_of
from tars.runtime.bus import Bus, Unreachable, connect_bus
from tars.runtime.cancellation import end_if_cancelled, last_words
from tars.runtime.settings import load_settings
from tars.schemas.agent import AgentBeat, AgentReported
from tars.schemas.errors import TarsError

log = logging.getLogger(__name__)

PATIENCE: Final = 3.0
"""Seconds of one attempt to connect."""
RETRY_SECONDS: Final = 1.0
BEAT_SECONDS: Final = 5.0
FAREWELL_SECONDS: Final = 3.0
"""How long the end of a run waits for its last words."""

Cause = Literal["finished", "signal", "error"]


class Moved(TarsError):
    """The server is away, and TARS is to be found at another address."""


class Connection:
    """Starts at once, in the background, and goes on trying for ever.

    address: where NATS is to be found now; asked again when it is away.
    """

    def __init__(self, learner: AttachedLearner, address: Callable[[], str], *, adopt: bool, on_bus: bool) -> None:
        self._learner, self._address, self._adopt, self._on_bus = learner, address, adopt, on_bus
        self._disk: DiskKeeper | None = None
        self._settings = load_settings()
        self._guard = Guard(self._settings)
        self._told: deque[tuple[int, int, float, int, bool]] = deque(maxlen=KEPT)
        self._ending: tuple[Cause, str] = ("error", "")
        self._end = asyncio.Event()
        self.agent: LiveAgent | None = None
        """Once it is on the bus."""
        learner.on_episode.append(self._tell)
        self._line = BACKGROUND.run(self._run())

    def close(self, cause: Cause, detail: str = "") -> None:
        """Say that the agent stopped, and end; after FAREWELL_SECONDS without saying it."""
        self._ending = (cause, detail[:1000])
        self._line.end(self._end, FAREWELL_SECONDS + RETRY_SECONDS)

    def _tell(self, returned: float) -> None:
        """Note an episode, in the thread that trains; it becomes a message in the other."""
        learner = self._learner
        self._told.append((learner.episodes, learner.adapter.steps, returned, learner.version, learner.finite))

    async def _run(self) -> None:
        try:
            await self._serve()
        except Exception as error:  # noqa: BLE001 - the line ends; the user's loop goes on
            self._learner.problems.add("the line to TARS broke", error)
        finally:
            if self._disk is not None:
                self._disk.close()

    async def _serve(self) -> None:
        """Be on the bus until told to end; whatever goes wrong on the way is said once, and tried again."""
        ending = asyncio.ensure_future(self._end.wait())
        while not ending.done():
            serving = asyncio.ensure_future(self._connected())
            await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
            (error,) = await asyncio.gather(serving, return_exceptions=True)
            if isinstance(error, Unreachable):
                self._learner.problems.add(f"{error} (the loop goes on; TARS is looked for again and again)")
            elif isinstance(error, Exception):
                self._learner.problems.add("the line to TARS broke, and is made anew", error)
            if not ending.done():
                await asyncio.wait({ending}, timeout=RETRY_SECONDS)

    async def _connected(self) -> None:
        url = self._address()
        # The seed of a host where its snapshots go onto the bus, else the narrower one.
        access = access_of(self._settings, "agents" if self._on_bus else "attached")
        bus = await connect_bus(url, "agent", access=access, patience=PATIENCE, on_reconnect=self._catch_up)
        try:
            await self._live(bus, url)
        except* Moved:
            log.info("TARS has moved", extra={"agent": self._learner.agent_id})
        finally:
            await bus.close()

    async def _live(self, bus: Bus, url: str) -> None:
        agent, reporter = LiveAgent(bus, self._learner, self._keeper(bus), self._guard), Reporter(bus)
        before = await last_run(bus, self._learner.agent_id)
        # An attached learner begins with the values of its code, whatever it ran last time.
        again = self.agent is not None  # on the bus already, so nothing that came meanwhile is to be left out
        try:
            await agent.start(replace(before, applied=self._learner.version), adopt=self._adopt or again)
            end_if_cancelled()
            self.agent = agent
            async with asyncio.TaskGroup() as group:
                tasks = agent.run(), reporter.run(), self._report(agent, reporter), self._beat(agent, reporter)
                for task in (*tasks, self._follow(bus, url)):
                    group.create_task(task)
        finally:
            if self._end.is_set():
                await last_words(self._farewell(agent))

    def _keeper(self, bus: Bus) -> Keeps:
        """Where snapshots go: the store on the bus, or a folder of this run's own."""
        if self._on_bus:
            return Keeper(bus)
        self._disk = self._disk or DiskKeeper()
        return self._disk

    async def _farewell(self, agent: LiveAgent) -> None:
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await agent.stop(*self._ending)
        except TimeoutError:
            self._learner.problems.add("NATS is away: it could not be said that the agent stopped")

    async def _report(self, agent: LiveAgent, reporter: Reporter) -> None:
        while True:
            while self._told:
                episode, step, returned, version, finite = self._told.popleft()
                try:
                    report = AgentReported(
                        agent_id=agent.agent_id,
                        run_id=agent.run_id,
                        episode=episode,
                        step=step,
                        score=returned if isfinite(returned) else 0.0,
                        failed=not isfinite(returned),
                        version=version,
                        finite=finite,
                    )
                except ValidationError as error:  # of a measurement; without the line the agent would start anew
                    self._learner.problems.add("an episode could not be reported", error)
                    continue
                reporter.report(report)
            await asyncio.sleep(FLUSH_SECONDS)

    async def _beat(self, agent: LiveAgent, reporter: Reporter) -> None:
        while True:
            episode = self._learner.episodes
            reporter.report(AgentBeat(agent_id=agent.agent_id, run_id=agent.run_id, episode=episode))
            await asyncio.sleep(BEAT_SECONDS)

    async def _follow(self, bus: Bus, url: str) -> None:
        """Leave a server that is away once another address is told: `tars up` takes a free port at each start."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if not bus.client.is_connected and self._address() != url:
                raise Moved

    async def _catch_up(self) -> None:
        if self.agent is not None:
            await self.agent.catch_up()
