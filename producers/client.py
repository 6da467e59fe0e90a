"""The door for scripts: `with tars.connect() as bus`. One background thread talks to NATS; every call waits for it."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Final, Unpack

from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import TypeAdapter

from tars.producers.async_client import AsyncClient, Role
from tars.producers.commands import CommandRefused, Outcome, StudyOptions, well_formed
from tars.runtime.bus import fresh_id
from tars.runtime.journal import History
from tars.schemas.errors import TarsError
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import AlgorithmName, Value
from tars.schemas.message import Command, Event, Id, Login, Report
from tars.schemas.queries import Ask
from tars.schemas.study import StartStudy, StopStudy, StudyFailed, StudyFinished, StudyStopped
from tars.schemas.update import (
    ApplyUpdate,
    ApproveUpdate,
    ProposeUpdate,
    RejectUpdate,
    RollBackUpdate,
    UpdateConfirmed,
    UpdateFailed,
    UpdateRefused,
    UpdateRejected,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateSuperseded,
    What,
)
from tars.schemas.views import (
    AgentPoint,
    AgentRow,
    ConflictRow,
    DeadRow,
    EquilibriumRow,
    PipelineRow,
    StatsRow,
    StudyRow,
    TrialRow,
    UpdateRow,
)

UPDATE_ENDS: Final = (
    UpdateConfirmed, UpdateRolledBack, UpdateRefused, UpdateRejected, UpdateSuperseded, UpdateFailed,
)  # fmt: skip
STUDY_ENDS: Final = (StudyFinished, StudyStopped, StudyFailed)

Heard = Callable[[Event], None]
_ID: Final[TypeAdapter[str]] = TypeAdapter(Id)


class StudyEnded(TarsError):
    """A study was stopped, or failed, so it has no result."""


@contextmanager
def connect(
    nats_url: str | None = None, *, user: str | None = None, key: Path | None = None, role: Role = "person"
) -> Iterator["Client"]:
    """Connect a script to TARS.

    nats_url: the server; unset: NATS_URL, else the `tars up` that runs in the data folder. user: who sends commands;
    unset: the operator of the data folder, else TARS_USER, else the login name. key: the file that signs them; unset:
    TARS_KEY, else the data folder's key of the user. role: what it is to a secured server, which knows it by
    NATS_NKEY_FILE or the seed of that role in the data folder. Raises Unreachable when no server answers, or none lets
    it in, BadKey, BadSeed.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(AsyncClient.connect(nats_url, user=user, key=key, role=role)) as client,
    ):
        yield Client(portal, client)


class Client:
    """What a script can do. Methods that send raise CommandRefused, NotSent or OutcomeUnknown."""

    def __init__(self, portal: BlockingPortal, client: AsyncClient) -> None:
        self._portal, self._client = portal, client

    def speaking_for(self, login: Login, token: str) -> "Client":
        """Return the same for a page that speaks for who logged in there, as this id token proves."""
        return Client(self._portal, self._client.speaking_for(login, token))

    def send(self, command: Command, *, command_id: str | None = None) -> Outcome:
        """Send any command and wait until it is decided."""
        return self._portal.call(lambda: self._client.send(command, command_id=command_id))

    @well_formed()
    def start_study(
        self,
        *,
        role: str | None = None,
        agents: Sequence[str] = (),
        algorithm: AlgorithmName | None = None,
        study_id: str | None = None,
        trials: int = 20,
        **options: Unpack[StudyOptions],
    ) -> "StudyHandle":
        """Search better values for the agents of a role, or for these agents, or for an algorithm as such.

        An algorithm as such is trained in its role of the game, or in `environment`: a Gymnasium id, with the returns
        that count as 0 and 1 as `score_range`. Attached agents need both: what they act in, only their own code knows.
        With `start="snapshot"` every trial goes on from a running agent.
        """
        command = StartStudy.model_validate(
            {
                "study_id": study_id or fresh_id("s"),
                "role": role,
                "agents": tuple(agents),
                "algorithm": algorithm,
                "trials": trials,
                **options,
            }
        )
        self.send(command)
        return StudyHandle(self, command.study_id)

    def fork(
        self,
        agent_id: str,
        changes: Sequence[Mapping[str, Value]],
        *,
        study_id: str | None = None,
        **options: Unpack[StudyOptions],
    ) -> "StudyHandle":
        """Ask whether each of up to three changes serves a running agent better than going on as it is.

        A study without a search: agent and candidates go on from the agent's newest snapshot as lanes of one
        population, on held-out seeds. Nothing is proposed unless `propose=True`.
        """
        options["candidates"] = changes
        options.setdefault("start", "snapshot")
        options.setdefault("explain", False)
        options.setdefault("propose", False)
        return self.start_study(agents=(agent_id,), study_id=study_id, trials=0, **options)

    @well_formed()
    def propose(  # noqa: PLR0913 - what a proposal says
        self,
        values: Mapping[str, Value],
        *,
        role: str | None = None,
        agents: Sequence[str] = (),
        reason: str = "",
        evidence: Evidence | None = None,
        study_id: str | None = None,
        update_id: str | None = None,
    ) -> "UpdateHandle":
        """Propose these values for all learning agents of a role, or for these agents.

        evidence: what the study `study_id` found; that of no study in the ledger is shown, and convinces no mode.
        """
        if (role is None) == (not agents):
            raise CommandRefused("name exactly one of role and agents")
        command = ProposeUpdate(
            update_id=update_id or fresh_id("u"),
            agents=self.learners(role) if role is not None else tuple(agents),
            values=dict(values),
            evidence=evidence,
            study_id=study_id,
            reason=reason,
        )
        self.send(command)
        return UpdateHandle(self, command.update_id)

    def learners(self, role: str) -> tuple[str, ...]:
        """Return the live agents of a role that can be tuned; raises CommandRefused when there is none."""
        found = tuple(
            row.agent_id for row in self.agents() if row.role == role and row.algorithm and row.state == "running"
        )
        if not found:
            raise CommandRefused(f"no live agent with the role {role} can be tuned")
        return found

    @well_formed()
    def approve(
        self, update_id: str, reason: str = "", *, hold: bool = False, command_id: str | None = None
    ) -> Outcome:
        """Let a pending update through; with `hold`, `apply` releases it."""
        return self.send(ApproveUpdate(update_id=update_id, reason=reason, hold=hold), command_id=command_id)

    @well_formed()
    def reject(self, update_id: str, reason: str = "", *, command_id: str | None = None) -> Outcome:
        """Turn an update down before it is released."""
        return self.send(RejectUpdate(update_id=update_id, reason=reason), command_id=command_id)

    @well_formed()
    def apply(self, update_id: str, *, command_id: str | None = None) -> Outcome:
        """Release an update that was approved on hold."""
        return self.send(ApplyUpdate(update_id=update_id), command_id=command_id)

    @well_formed()
    def roll_back(
        self,
        update_id: str,
        reason: str = "",
        *,
        what: What | None = None,
        over_later: bool = False,
        command_id: str | None = None,
    ) -> Outcome:
        """Take a released update back: the values, or all that its agents were before it while a snapshot is kept.

        what: None means all while its rollout is not over, afterwards the values. over_later: also where later updates
        lie over it, which are then undone with it.
        """
        command = RollBackUpdate(update_id=update_id, reason=reason, what=what, over_later=over_later)
        return self.send(command, command_id=command_id)

    @well_formed()
    def stop_study(self, study_id: str, reason: str = "") -> Outcome:
        """End a study at its next step."""
        return self.send(StopStudy(study_id=study_id, reason=reason))

    def replay(self, sequence: int, *, command_id: str | None = None) -> Outcome:
        """Send a dead letter again, in one's own name: its bytes, under a new id. `sequence`: its place in DEAD.

        Only a deadline that has passed is renewed, for it says how long its sender waits.
        """
        return self._portal.call(lambda: self._client.replay(sequence, command_id=command_id))

    def wait_for_update(
        self, update_id: str, *, timeout: float | None = None, heard: Heard | None = None, rolled_back: bool = False
    ) -> Event:
        """Wait until an update has ended and return the event that ended it; `heard` gets every event on the way.

        rolled_back: go on past a confirmation, up to the rollback that was asked for last. Raises TimeoutError after
        `timeout` seconds.
        """
        if not rolled_back:
            return self._follow("update", update_id, UPDATE_ENDS, timeout, heard)
        known = self.events("update", update_id)
        asked = [number for number, event in enumerate(known, 1) if isinstance(event, UpdateRollBackRequested)]
        ends = tuple(end for end in UPDATE_ENDS if end is not UpdateConfirmed)
        return self._follow("update", update_id, ends, timeout, heard, past=max(asked, default=0))

    def wait_for_study(
        self, study_id: str, *, timeout: float | None = None, heard: Heard | None = None
    ) -> StudyFinished:
        """Wait until a study has finished; raises StudyEnded when it was stopped or failed, TimeoutError."""
        last = self._follow("study", study_id, STUDY_ENDS, timeout, heard)
        if not isinstance(last, StudyFinished):
            raise StudyEnded(
                f"study {study_id}: {last.kind}: {getattr(last, 'reason', '') or getattr(last, 'error', '')}"
            )
        return last

    def _follow(
        self,
        noun: str,
        key: str,
        ends: tuple[type[Event], ...],
        timeout: float | None,
        heard: Heard | None,
        *,
        past: int = 0,
    ) -> Event:
        """Follow to an end; past: so many events, from the first, are none."""

        async def follow() -> Event:
            events, number = self._client.follow(noun, key, lambda _: False), 0
            async with asyncio.timeout(timeout), aclosing(events):
                async for event in events:
                    number += 1
                    if heard is not None:
                        heard(event)
                    if number > past and isinstance(event, ends):
                        return event
            raise StudyEnded(f"{noun} {key} ended without an end")

        return self._portal.call(follow)

    def report(self, report: Report) -> None:
        """Send a measurement, without waiting for its storage."""
        self._portal.call(self._client.report, report)

    @well_formed()
    def events(self, noun: str, key: str) -> tuple[Event, ...]:
        """Every event of a study, an update or an agent, from the ledger itself; empty: it knows none."""
        _ID.validate_python(key)
        history: History[Event] = self._portal.call(self._client.journal.read, noun, key)
        return history.events

    def _query(self, name: str, ask: Ask | None = None) -> list[Any]:
        return self._portal.call(self._client.query, name, ask)

    def agents(self) -> list[AgentRow]:
        """Every agent, and what it runs."""
        return self._query("agents")

    @well_formed()
    def history(self, agent_id: str, *, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        """Episodes of an agent, newest first."""
        return self._query("history", Ask(id=agent_id, offset=offset, limit=limit))

    def pending(self) -> list[UpdateRow]:
        """Updates that wait for approval."""
        return self._query("pending")

    def updates(self, *, offset: int = 0, limit: int = 100) -> list[UpdateRow]:
        """All updates, newest first."""
        return self._query("updates", Ask(offset=offset, limit=limit))

    @well_formed()
    def update(self, update_id: str) -> UpdateRow | None:
        """One update with its history; None: there is none."""
        return next(iter(self._query("update", Ask(id=update_id))), None)

    def studies(self, *, offset: int = 0, limit: int = 100) -> list[StudyRow]:
        """All studies, newest first."""
        return self._query("studies", Ask(offset=offset, limit=limit))

    @well_formed()
    def study(self, study_id: str) -> StudyRow | None:
        """One study; None: there is none."""
        return next(iter(self._query("study", Ask(id=study_id))), None)

    @well_formed()
    def trials(self, study_id: str, *, offset: int = 0, limit: int = 1000) -> list[TrialRow]:
        """A study's trials by number, without the first `offset`; at most 1000."""
        return self._query("trials", Ask(id=study_id, offset=offset, limit=limit))

    def conflicts(self, *, limit: int = 100) -> list[ConflictRow]:
        """Conflicts between the roles of the worlds, newest first."""
        return self._query("conflicts", Ask(limit=limit))

    def equilibria(self, *, limit: int = 100) -> list[EquilibriumRow]:
        """How far the worlds are from an equilibrium, newest first."""
        return self._query("equilibria", Ask(limit=limit))

    def pipeline(self) -> list[PipelineRow]:
        """What waits before each durable consumer."""
        return self._query("pipeline")

    def dead(self, *, limit: int = 100) -> list[DeadRow]:
        """Messages that were put aside, newest first."""
        return self._query("dead", Ask(limit=limit))

    def dead_letter(self, sequence: int) -> DeadRow:
        """One message that was put aside, whole; raises CommandRefused where there is none."""
        return self._portal.call(self._client.dead_letter, sequence)

    def stats(self) -> StatsRow:
        """Counts."""
        rows: list[StatsRow] = self._query("stats")
        return rows[0]


class StudyHandle:
    """A study that was started."""

    def __init__(self, client: Client, study_id: str) -> None:
        self._client, self.study_id = client, study_id

    def wait(self, timeout: float | None = None) -> StudyFinished:
        """Wait for its result; raises StudyEnded when it was stopped or failed, TimeoutError."""
        return self._client.wait_for_study(self.study_id, timeout=timeout)

    def progress(self) -> StudyRow | None:
        """Return how far it has come."""
        return self._client.study(self.study_id)

    def stop(self, reason: str = "") -> Outcome:
        """End it at its next step."""
        return self._client.stop_study(self.study_id, reason)


class UpdateHandle:
    """An update that was proposed."""

    def __init__(self, client: Client, update_id: str) -> None:
        self._client, self.update_id = client, update_id

    def wait(self, timeout: float | None = None) -> Event:
        """Wait until it has ended; return the event that ended it, e.g. `update.confirmed.v1`."""
        return self._client.wait_for_update(self.update_id, timeout=timeout)

    def approve(self, reason: str = "", *, hold: bool = False) -> Outcome:
        """Let it through."""
        return self._client.approve(self.update_id, reason, hold=hold)

    def reject(self, reason: str = "") -> Outcome:
        """Turn it down."""
        return self._client.reject(self.update_id, reason)

    def apply(self) -> Outcome:
        """Release it from hold."""
        return self._client.apply(self.update_id)

    def roll_back(self, reason: str = "", timeout: float | None = 60.0, *, what: What | None = None) -> Event:
        """Take it back, and wait until its agents run again what they ran before it."""
        self._client.roll_back(self.update_id, reason, what=what)
        return self._client.wait_for_update(self.update_id, timeout=timeout, rolled_back=True)
