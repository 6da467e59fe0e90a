"""The messaging of live agents: hear a configuration, accept it, see it applied, say what was read back.

The learner runs in a thread of its own; this side runs in the event loop and never waits for a gradient step.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, Protocol

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from tars.agents.guard import Guard, Standing
from tars.agents.keeper import Keeps, Taken
from tars.runtime import metrics
from tars.runtime.bus import Bus, Stored, fresh_id
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.delivery import Unreadable, put_aside
from tars.runtime.journal import History, Journal, stored_time
from tars.runtime.outages import RETRY_SECONDS, until_possible
from tars.runtime.snapshots import NoSnapshot, Snapshots
from tars.runtime.telemetry import elapsed_span, span, trace_headers
from tars.schemas.agent import (
    AgentAccepted,
    AgentEvent,
    AgentRefused,
    AgentReloaded,
    AgentRestored,
    AgentStarted,
    AgentStopped,
    ConfigureAgent,
)
from tars.schemas.bounds import PARALLEL, objections
from tars.schemas.errors import Conflict, Poison, Transient
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Moment, Value, Values
from tars.schemas.running import RunningAgent, replay
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.streams import configure_subject, decode, history_subject, live_subject

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 30.0
"""Live messages come at most once: the newest configuration is also read this often, and after each reconnect; and
whether it was taken for lost."""
REMEMBERED: Final = 16
"""Events of its own history that an agent keeps in memory: enough to know what it has just said."""
UNREADABLE: Final = "unreadable"
"""Stands for the update of a configuration that cannot be read."""


@dataclass(frozen=True)
class Reload:
    """A configuration on its way into a learner."""

    version: int
    update_id: str
    values: dict[str, Value]
    """The whole set."""
    snapshot_first: bool = False
    """Take a snapshot just before."""
    restore: bytes | None = None
    """A snapshot to load before the values come into use."""
    twin: int = 0
    """Episodes for which a copy with the old values is to go on beside."""


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
    taken: Taken | None = None
    """What it was just before."""
    restored: str | None = None
    """The hash of its parameters after the snapshot was loaded; None: none was."""
    twin: bool = False


@dataclass(frozen=True)
class Declined:
    """The learner accepted a reload, and found when it came to it that it cannot run it; its values are as before."""

    reload: Reload
    reasons: tuple[str, ...]


Outcome = Applied | Declined


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

    def objections(self, values: Values) -> list[str]:
        """Why this learner cannot run these values, beyond what its algorithm forbids; empty: it can."""

    def reload(self, reload: Reload, done: Callable[[Outcome], None]) -> None:
        """Apply at the next boundary; `done` is called from the learner's thread, once for each reload, in order."""


class LiveAgent:
    """One agent on the bus. Configurations are applied in the order of their versions, each at most once."""

    def __init__(self, bus: Bus, learner: Learner, keeper: Keeps | None = None, guard: Guard | None = None) -> None:
        self._bus, self._journal, self.learner, self._keeper = bus, Journal(bus), learner, keeper
        self._guard = guard
        self._telling: asyncio.Task[None] | None = None
        self.agent_id, self.run_id = learner.agent_id, fresh_id("run")
        self.heard = self._runs = 0
        """The newest configuration that it has heard, and the one that it has said it runs."""
        self._history: History[AgentEvent] = History("agent", self.agent_id)
        self._is_away = False
        self._outbox: deque[tuple[str, AgentEvent, dict[str, str]]] = deque()
        """What is to be said, by which cause and in which trace."""
        self._waiting = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._loop = asyncio.get_running_loop()

    async def start(self, before: RunningAgent, *, adopt: bool = True) -> None:
        """Say that it runs, then listen; a configuration that came meanwhile is applied like a new one.

        before: what the learner runs now, as of its last run: `applied` is the version of its values. adopt: apply the
        newest configuration where that is another one; otherwise it counts as heard, and only a later one is applied.
        """
        self._history = await until_possible(lambda: self._journal.newest("agent", self.agent_id, whatever=True))
        if not adopt:
            newest = await until_possible(lambda: self._bus.last("AGENTS", configure_subject(self.agent_id)))
            before = replace(before, heard=newest.sequence if newest else 0, refusal=None)
        self._runs = before.applied
        self._say(f"{self.run_id}.started", self._started(before.heard))
        refused = before.refusal.version if before.refusal else 0
        self.heard = max(before.applied, refused) if adopt else before.heard
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
        if self._telling is not None:
            await self._telling
        self._say(f"{self.run_id}.stopped", stopped)
        while self._outbox:
            await self._write_first()

    @property
    def has_more_to_say(self) -> bool:
        """Events wait to be written."""
        return bool(self._outbox) or (self._telling is not None and not self._telling.done())

    async def catch_up(self) -> None:
        """Read what was missed: at the start, after a reconnect, and now and then."""
        newest = await until_possible(lambda: self._bus.last("AGENTS", configure_subject(self.agent_id)))
        if newest is not None:
            await self._offer(newest, f"tars.command.agent.configure.v1.{self.agent_id}")
        if not self.has_more_to_say:
            await self._deny_loss()

    async def _deny_loss(self) -> None:
        """Start again in the ledger, as the same run, where a rollout took it for lost while it was silent."""
        subject, own = history_subject("agent", self.agent_id), self._history.version
        if not await until_possible(lambda: self._journal.page("EVENTS", own + 1, 1, subject)):
            return  # nobody else has written
        newest = partial(self._journal.newest, "agent", self.agent_id, whatever=True)
        history: History[AgentEvent] = await until_possible(newest)
        known = replay(history.events)
        if known.lost and known.run_id == self.run_id and not self.has_more_to_say:  # what it says next tells as well
            self._say(f"{self.run_id}.lives.{history.version}", self._started(self.heard))

    def _started(self, heard: int) -> AgentStarted:
        """What it runs now."""
        return AgentStarted(
            agent_id=self.agent_id,
            run_id=self.run_id,
            role=self.learner.role,
            algorithm=self.learner.algorithm,
            world=self.learner.world,
            values=self.learner.values(),
            heard_version=heard,
            applied_version=self._runs,
        )

    async def _on_live(self, message: Msg) -> None:
        headers = message.headers or {}
        if headers.get("Nats-Stream") == "AGENTS" and headers.get("Nats-Sequence", "").isdigit():
            time = stored_time(headers["Nats-Time-Stamp"])
            stored = Stored(int(headers["Nats-Sequence"]), headers.get("Nats-Msg-Id", ""), message.data, time)
            with span("hear a configuration", headers):
                await self._offer(stored, headers.get("Nats-Subject", ""))

    async def _offer(self, stored: Stored, subject: str) -> None:
        version, message_id, body, time = stored
        async with self._one_at_a_time:  # live and read messages may interleave
            if version <= self.heard:
                return
            before, self.heard = self.heard, version
            try:
                command = decode(subject, body)
            except Poison as error:
                await self._put_aside(version, subject, body, error)
                self._refuse(f"AGENTS-{version}.{version}", version, UNREADABLE, [f"{error.reason}: {error}"])
                return
            if isinstance(command, ConfigureAgent):
                barred = await self._barred(command, Standing(before, self.learner.values(), time))
                await self._configure(version, message_id or f"AGENTS-{version}", command, barred)

    async def _barred(self, command: ConfigureAgent, now: Standing) -> list[str]:
        """Why this agent does not take its word that the values were approved."""
        if self._guard is None:
            return []
        past: tuple[AgentEvent, ...] = ()
        if self._guard.asks_for_past(command, now):
            if self._telling is not None:
                await self._telling
            history: History[AgentEvent] = await until_possible(
                lambda: self._journal.read("agent", self.agent_id, reach=self._history.version)
            )
            past = (*history.events, *(waiting[1] for waiting in self._outbox))
        return self._guard.objections(command, now, past)

    async def _configure(self, version: int, cause: str, command: ConfigureAgent, barred: Sequence[str]) -> None:
        running = self.learner.values()
        if reasons := [*barred, *self._objections(command, running)]:
            self._refuse(f"{cause}.{version}", version, command.update_id, reasons)
            return
        changed = [name for name, value in command.values.items() if running.get(name) != value]
        accepted = AgentAccepted(
            agent_id=self.agent_id,
            version=version,
            update_id=command.update_id,
            applies=self._applies(command, changed),
        )
        self._say(f"{cause}.{version}.accepted", accepted)
        reload = Reload(
            version,
            command.update_id,
            command.values,
            snapshot_first=command.snapshot_first,
            restore=await self._snapshot(command),
            twin=command.twin,
        )

        trace = contextvars.copy_context()

        def done(found: Outcome) -> None:  # called from the learner's thread, which knows no trace
            self._loop.call_soon_threadsafe(self._ended, f"{cause}.{version}", command, found, context=trace)

        self.learner.reload(reload, done)

    def _applies(self, command: ConfigureAgent, changed: Sequence[str]) -> Moment:
        """When all of it is in use: a learner goes back to a snapshot, and is copied, between two episodes."""
        moment = self.learner.takes_effect(changed)
        return "boundary" if moment == "live" and (command.restore or command.twin) else moment

    def _refuse(self, cause: str, version: int, update_id: str, reasons: Sequence[str]) -> None:
        """Say why not; it is heard all the same, and what comes next builds on it."""
        refused = AgentRefused(
            agent_id=self.agent_id, version=version, update_id=update_id, reasons=tuple(text[:1000] for text in reasons)
        )
        self._say(f"{cause}.refused", refused)

    def _objections(self, command: ConfigureAgent, running: dict[str, Value]) -> list[str]:
        """The agent's own last check: what it cannot run it refuses, whoever approved it."""
        if self.learner.algorithm is None:
            return [f"{self.agent_id} follows a reference policy: it has no hyperparameters"]
        if missing := sorted(set(running) - set(command.values)):
            return [f"a configuration carries the whole set; {', '.join(missing)} missing"]
        environments = PARALLEL if self.learner.world else None
        broken = objections(ALGORITHMS[self.learner.algorithm], command.values, running, "low", environments)
        return broken + self.learner.objections(command.values)

    async def _snapshot(self, command: ConfigureAgent) -> bytes | None:
        """What it is to go back to; None: nothing, or it is gone: then the values alone go back."""
        ref = command.restore
        if ref is None or ref.agent_id != self.agent_id:
            return None
        try:
            return await until_possible(lambda: (self._keeper or Snapshots(self._bus)).get(ref))
        except NoSnapshot as error:
            log.warning("nothing to go back to", extra={"agent": self.agent_id, "error": str(error)})
            return None

    def _ended(self, cause: str, command: ConfigureAgent, found: Outcome) -> None:
        if isinstance(found, Declined):
            self._tell(cause, command, found)
            return
        took = found.milliseconds / 1e3
        metrics.RELOADING.labels(str(self.learner.algorithm)).observe(took)
        with elapsed_span("reload", took):
            self._tell(cause, command, found)

    def _tell(self, cause: str, command: ConfigureAgent, found: Outcome) -> None:
        """Say what became of it, in order; what the learner was is stored first, so that its name can be told."""
        before, taken = self._telling, found.taken if isinstance(found, Applied) else None
        if taken is None and (before is None or before.done()):
            self._settle(cause, command, found, None)
            return

        async def tell() -> None:
            if before is not None:
                await before
            stored = None
            if taken is not None and self._keeper is not None:
                stored = await self._keeper.store(self.run_id, taken)
            self._settle(cause, command, found, stored)

        self._telling = asyncio.create_task(tell())

    def _settle(self, cause: str, command: ConfigureAgent, found: Outcome, stored: SnapshotRef | None) -> None:
        if isinstance(found, Declined):
            self._refuse(cause, found.reload.version, found.reload.update_id, found.reasons)
        else:
            self._applied(cause, command, found, stored)

    def say_restored(self, ref: SnapshotRef, weights: str) -> None:
        """Say that it goes on from a snapshot after a restart."""
        restored = AgentRestored(agent_id=self.agent_id, version=0, update_id=None, snapshot=ref, weights=weights)
        self._say(f"{self.run_id}.restored", restored)

    def _applied(self, cause: str, command: ConfigureAgent, applied: Applied, stored: SnapshotRef | None) -> None:
        if applied.restored is not None and command.restore is not None:
            restored = AgentRestored(
                agent_id=self.agent_id,
                version=applied.reload.version,
                update_id=applied.reload.update_id,
                snapshot=command.restore,
                weights=applied.restored,
            )
            self._say(f"{cause}.restored", restored)
        self._runs = applied.reload.version
        self._say(
            f"{cause}.reloaded",
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
                snapshot=stored,
                twin=applied.twin,
            ),
        )

    def _say(self, cause: str, event: AgentEvent) -> None:
        self._outbox.append((cause, event, trace_headers()))
        self._waiting.set()

    async def _write(self) -> None:
        while True:
            self._waiting.clear()
            while self._outbox:
                await self._write_first()
                end_if_cancelled()
            await self._waiting.wait()

    async def _write_first(self) -> None:
        """Append the oldest event; while NATS is away, wait: what happened is said, in order, when it is back."""
        cause, event, trace = self._outbox[0]
        try:
            with span(f"say {event.kind}", trace):
                await self._journal.append([event], self._history, cause=cause)
            self._is_away = False
            self._outbox.popleft()  # only now: a cancelled append is tried again, and its cause keeps it single
            new: History[AgentEvent] = await self._journal.read("agent", self.agent_id, after=self._history.version)
            history = self._history.extended(new)
            self._history = replace(history, entries=history.entries[-REMEMBERED:])
        except (Conflict, Poison):  # somebody else wrote, perhaps what nobody can read: it goes on all the same
            newest = partial(self._journal.newest, "agent", self.agent_id, whatever=True)
            self._history = await until_possible(newest)
        except (Transient, NatsError, OSError, TimeoutError) as error:
            level, self._is_away = logging.DEBUG if self._is_away else logging.WARNING, True  # once in an outage
            log.log(level, "cannot say yet", extra={"agent": self.agent_id, "event": event.kind, "error": str(error)})
            await asyncio.sleep(RETRY_SECONDS)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.catch_up()
            end_if_cancelled()

    async def _put_aside(self, version: int, subject: str, body: bytes, error: Poison) -> None:
        letter = Unreadable("AGENTS", self.agent_id, version, subject, body)
        await until_possible(lambda: put_aside(self._bus, letter, error.reason, error))


async def last_run(bus: Bus, agent_id: str) -> RunningAgent:
    """Read what an agent ran when it was last heard of, to go on from there."""
    history: History[AgentEvent] = await until_possible(lambda: Journal(bus).newest("agent", agent_id, whatever=True))
    return replay(history.events)
