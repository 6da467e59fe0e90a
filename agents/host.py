"""The messaging of live agents: hear a configuration, accept it, see it applied, say what was read back.

The learner runs in a thread of its own; this side runs in the event loop and never waits for a gradient step.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from tars.runtime.bus import Bus, fresh_id
from tars.runtime.delivery import Unreadable, put_aside
from tars.runtime.journal import History, Journal
from tars.schemas.agent import (
    AgentAccepted,
    AgentEvent,
    AgentRefused,
    AgentReloaded,
    AgentStarted,
    AgentStopped,
    ConfigureAgent,
)
from tars.schemas.bounds import objections
from tars.schemas.errors import Conflict, Poison, Transient
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Moment, Value
from tars.schemas.running import RunningAgent, replay
from tars.schemas.streams import configure_subject, decode, live_subject

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 30.0
"""Live messages come at most once: the newest configuration is also read this often, and after each reconnect."""
RETRY_SECONDS: Final = 0.5
UNREADABLE: Final = "unreadable"
"""Stands for the update of a configuration that cannot be read."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reload:
    """A configuration on its way into a learner."""

    version: int
    update_id: str
    values: dict[str, Value]
    """The whole set."""


@dataclass(frozen=True)
class Applied:
    """What the learner found when a reload was in use."""

    reload: Reload
    effective: dict[str, Value]
    """Read from where the gradient step and the next action use each value."""
    step: int
    weights_before: str
    weights_after: str
    buffer_before: int
    buffer_after: int
    milliseconds: float
    """From the learner's hearing of it to this reading."""


class Learner(Protocol):
    """What a live agent learns with; its methods are called from the event loop and return at once."""

    @property
    def agent_id(self) -> str:
        """Its name on the bus."""

    @property
    def role(self) -> str:
        """What it does in its world."""

    @property
    def world(self) -> str | None:
        """The hosted world it plays in."""

    @property
    def algorithm(self) -> AlgorithmName | None:
        """What it learns by; None: it follows a reference policy."""

    def values(self) -> dict[str, Value]:
        """Return the whole set in use."""

    def takes_effect(self, names: Sequence[str]) -> Moment:
        """Say when a change of these keys is in use: the latest of them."""

    def reload(self, reload: Reload, applied: Callable[[Applied], None]) -> None:
        """Apply at the next boundary; `applied` is called from the learner's thread, once for each reload, in order."""


class LiveAgent:
    """One agent on the bus. Configurations are applied in the order of their versions, each at most once."""

    def __init__(self, bus: Bus, learner: Learner) -> None:
        self._bus, self._journal, self.learner = bus, Journal(bus), learner
        self.agent_id, self.run_id = learner.agent_id, fresh_id("run")
        self.heard = 0
        self._history: History[AgentEvent] = History("agent", self.agent_id)
        self._outbox: deque[tuple[str, AgentEvent]] = deque()
        self._waiting = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def start(self, before: RunningAgent) -> None:
        """Say that it runs, then listen; a configuration that came meanwhile is applied like a new one."""
        self._history = await _until_possible(lambda: self._journal.newest("agent", self.agent_id))
        self.heard = before.applied
        self._say(
            f"{self.run_id}.started",
            AgentStarted(
                agent_id=self.agent_id,
                run_id=self.run_id,
                role=self.learner.role,
                algorithm=self.learner.algorithm,
                world=self.learner.world,
                values=self.learner.values(),
                heard_version=before.heard,
                applied_version=before.applied,
            ),
        )
        self.heard = max(before.applied, before.refusal.version if before.refusal else 0)
        await self._bus.client.subscribe(live_subject(self.agent_id), cb=self._on_live)  # before reading: no gap
        await self.catch_up()

    async def run(self) -> None:
        """Write what is to be said, and look for what was missed, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write())
            group.create_task(self._poll())

    async def stop(self, cause: Literal["finished", "signal", "error"], detail: str = "") -> None:
        """Say that it ends, after everything else it had to say."""
        stopped = AgentStopped(agent_id=self.agent_id, run_id=self.run_id, cause=cause, detail=detail)
        self._say(f"{self.run_id}.stopped", stopped)
        while self._outbox:
            await self._write_first()

    @property
    def has_more_to_say(self) -> bool:
        """Events wait to be written."""
        return bool(self._outbox)

    async def catch_up(self) -> None:
        """Read the newest configuration: at the start, after a reconnect, and now and then."""
        newest = await _until_possible(lambda: self._bus.last("AGENTS", configure_subject(self.agent_id)))
        if newest is not None:
            sequence, message_id, body = newest
            await self._offer(sequence, message_id, f"tars.command.agent.configure.v1.{self.agent_id}", body)

    async def _on_live(self, message: Msg) -> None:
        headers = message.headers or {}
        if headers.get("Nats-Stream") == "AGENTS" and headers.get("Nats-Sequence", "").isdigit():
            subject = headers.get("Nats-Subject", "")
            await self._offer(int(headers["Nats-Sequence"]), headers.get("Nats-Msg-Id", ""), subject, message.data)

    async def _offer(self, version: int, message_id: str, subject: str, body: bytes) -> None:
        async with self._one_at_a_time:  # live and read messages may interleave
            if version <= self.heard:
                return
            self.heard = version
            try:
                command = decode(subject, body)
            except Poison as error:
                await self._put_aside(version, subject, body, error)
                self._refuse(f"AGENTS-{version}", version, UNREADABLE, [f"{error.reason}: {error}"])
                return
            if isinstance(command, ConfigureAgent):
                self._configure(version, message_id or f"AGENTS-{version}", command)

    def _configure(self, version: int, cause: str, command: ConfigureAgent) -> None:
        running = self.learner.values()
        if reasons := self._objections(command, running):
            self._refuse(cause, version, command.update_id, reasons)
            return
        changed = [name for name, value in command.values.items() if running.get(name) != value]
        accepted = AgentAccepted(
            agent_id=self.agent_id,
            version=version,
            update_id=command.update_id,
            applies=self.learner.takes_effect(changed),
        )
        self._say(f"{cause}.{version}.accepted", accepted)
        reload = Reload(version, command.update_id, command.values)

        def applied(found: Applied) -> None:  # called from the learner's thread
            self._loop.call_soon_threadsafe(self._applied, f"{cause}.{version}.reloaded", found)

        self.learner.reload(reload, applied)

    def _refuse(self, cause: str, version: int, update_id: str, reasons: Sequence[str]) -> None:
        """Say why not; it is heard all the same, and what comes next builds on it."""
        refused = AgentRefused(
            agent_id=self.agent_id, version=version, update_id=update_id, reasons=tuple(text[:1000] for text in reasons)
        )
        self._say(f"{cause}.{version}.refused", refused)

    def _objections(self, command: ConfigureAgent, running: dict[str, Value]) -> list[str]:
        """The agent's own last check: what it cannot run it refuses, whoever approved it."""
        if self.learner.algorithm is None:
            return [f"{self.agent_id} follows a reference policy: it has no hyperparameters"]
        if missing := sorted(set(running) - set(command.values)):
            return [f"a configuration carries the whole set; {', '.join(missing)} missing"]
        return objections(ALGORITHMS[self.learner.algorithm], command.values, running, "low")

    def _applied(self, cause: str, applied: Applied) -> None:
        self._say(
            cause,
            AgentReloaded(
                agent_id=self.agent_id,
                version=applied.reload.version,
                update_id=applied.reload.update_id,
                requested=applied.reload.values,
                effective=applied.effective,
                step=applied.step,
                weights_before=applied.weights_before,
                weights_after=applied.weights_after,
                buffer_before=applied.buffer_before,
                buffer_after=applied.buffer_after,
                milliseconds=applied.milliseconds,
            ),
        )

    def _say(self, cause: str, event: AgentEvent) -> None:
        self._outbox.append((cause, event))
        self._waiting.set()

    async def _write(self) -> None:
        while True:
            self._waiting.clear()
            while self._outbox:
                await self._write_first()
            await self._waiting.wait()

    async def _write_first(self) -> None:
        """Append the oldest event; while NATS is away, wait: what happened is said, in order, when it is back."""
        cause, event = self._outbox[0]
        try:
            await self._journal.append([event], self._history, cause=cause)
            self._outbox.popleft()  # only now: a cancelled append is tried again, and its cause keeps it single
            new: History[AgentEvent] = await self._journal.read("agent", self.agent_id, after=self._history.version)
            self._history = self._history.extended(new)
        except Conflict:
            self._history = await self._journal.newest("agent", self.agent_id)
        except (Transient, NatsError, OSError, TimeoutError) as error:
            log.warning("cannot say yet", extra={"agent": self.agent_id, "event": event.kind, "error": str(error)})
            await asyncio.sleep(RETRY_SECONDS)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.catch_up()

    async def _put_aside(self, version: int, subject: str, body: bytes, error: Poison) -> None:
        letter = Unreadable("AGENTS", self.agent_id, version, subject, body)
        await _until_possible(lambda: put_aside(self._bus, letter, error.reason, error))


async def last_run(bus: Bus, agent_id: str) -> RunningAgent:
    """Read what an agent ran when it was last heard of, to go on from there."""
    history: History[AgentEvent] = await _until_possible(lambda: Journal(bus).newest("agent", agent_id))
    return replay(history.events)


async def _until_possible(attempt: Callable[[], Awaitable[T]]) -> T:
    """Try again while NATS is away: an agent goes on learning meanwhile."""
    while True:
        try:
            return await attempt()
        except (Transient, NatsError, OSError, TimeoutError) as error:
            log.warning("NATS does not answer", extra={"error": f"{type(error).__name__}: {error}"})
            await asyncio.sleep(RETRY_SECONDS)
