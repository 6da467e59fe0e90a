"""The fold of each stream: messages in, rows out. No I/O, no clock: times are those of the stored messages."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, cast

from pydantic_core import to_json

from tars.consumers import agent_health, game_board, trial_board, update_queue
from tars.consumers.rows import Rows
from tars.runtime import view_changes as keys
from tars.runtime.view_changes import Changes, Sessions
from tars.schemas import dead_letters
from tars.schemas.agent import AgentBeat, AgentEvent, AgentReport, AgentReported
from tars.schemas.errors import NewerVersion, UnknownKind
from tars.schemas.game import GameReported
from tars.schemas.message import Frozen, Message
from tars.schemas.session import SessionReported
from tars.schemas.streams import decode
from tars.schemas.study import StudyEvent
from tars.schemas.trial import TrialReported
from tars.schemas.update import UpdateEvent
from tars.schemas.views import AgentRow, StudyRow, TrialRow, UpdateRow

LOOK_BACK: Final = 200_000
"""Reports that a rebuild starts from: enough for every agent's newest ones, and read in seconds."""
OPEN_SECONDS: Final = 60.0
"""A page that was silent for longer than this, while others reported, counts as closed."""
UPDATE_ENDS: Final = frozenset({"refused", "rejected", "superseded", "confirmed", "rolled back", "failed"})
"""Stages after which hardly anything becomes of an update."""
_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-")


@dataclass(frozen=True)
class Stored:
    """A message as a stream holds it."""

    sequence: int
    time: datetime
    subject: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def message(self) -> Message:
        """What it says; raises Poison."""
        return decode(self.subject, self.body)

    @property
    def trace_id(self) -> str | None:
        """The trace it belongs to, where its sender said so."""
        found = _TRACEPARENT.match(self.headers.get("traceparent", ""))
        return found.group(1) if found else None


class Board(Protocol):
    """The fold of one stream."""

    def fold(self, stored: Stored) -> None:
        """Take the next message in; raises Poison when it cannot be read: rows are as before, or say so."""

    def changes(self) -> Changes:
        """Return what the rows have become since this was last asked."""

    def first(self, written: int, last: int) -> int:
        """Return the sequence to read from when rows are written up to `written`, and the stream ends at `last`."""


def encoded(
    row: Frozen, *, only: frozenset[str] | None = None, without: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Each field as JSON, the form in which a hash holds it."""
    have: dict[str, Any] = row.model_dump(
        mode="json", include=None if only is None else set(only), exclude=set(without)
    )
    return {name: to_json(value).decode() for name, value in have.items()}


class EventsBoard:
    """EVENTS: agents as the ledger tells them, updates, studies. It needs the whole ledger."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._agents: dict[str, AgentRow] = {}
        self._updates = Rows(UpdateRow, lambda row: row.stage in UPDATE_ENDS)
        self._studies = Rows(StudyRow, lambda row: row.stage != "running")
        self._place: dict[str, int] = {}
        """Sequence of the first message about an update or a study: the order in which they are listed."""
        self._expires: dict[str, int] = {}
        self._changed: dict[str, None] = {}
        """Keys of the rows that are new since the last `changes`, oldest first."""
        self._newest: Stored | None = None

    def first(self, written: int, last: int) -> int:  # noqa: ARG002 - the protocol's
        """Return where the ledger begins."""
        return 1

    def fold(self, stored: Stored) -> None:
        """Take in an event of a study, an update or an agent."""
        self._newest = stored
        try:
            message = stored.message()
        except (NewerVersion, UnknownKind):
            self._note_unread(stored)
            raise
        match message.noun:
            case "agent":
                self._agent(cast("AgentEvent", message), stored)
            case "update":
                self._update(cast("UpdateEvent", message), stored)
            case "study":
                self._study(cast("StudyEvent", message), stored)

    def _note_unread(self, stored: Stored) -> None:
        """An update of which more is known than can be read here says so, instead of a stage that has passed."""
        noun, _, _, key = [*stored.subject.split(".")[2:6], "", "", "", ""][:4]
        if noun == "update" and (before := self._updates.get(key)):
            kind = ".".join(stored.subject.split(".")[2:5])
            self._updates.put(key, update_queue.unread(kind, before, stored.time, stored.trace_id))
            self._changed[keys.update(key)] = None

    def _agent(self, event: AgentEvent, stored: Stored) -> None:
        self._agents[event.agent_id] = agent_health.row(event, self._agents.get(event.agent_id), stored.time)
        key = keys.agent_state(event.agent_id)
        self._expires[key] = _end(stored, self._ttl)
        self._changed[key] = None

    def _update(self, event: UpdateEvent, stored: Stored) -> None:
        before = self._updates.get(event.update_id)
        if row := update_queue.row(event, before, stored.time, stored.trace_id):
            key = keys.update(event.update_id)
            self._updates.put(event.update_id, row)
            self._place.setdefault(key, stored.sequence)
            self._changed[key] = None

    def _study(self, event: StudyEvent, stored: Stored) -> None:
        if row := trial_board.study_row(event, self._studies.get(event.study_id), stored.time):
            key = keys.study(event.study_id)
            self._studies.put(event.study_id, row)
            self._place.setdefault(key, stored.sequence)
            self._changed[key] = None

    def changes(self) -> Changes:
        """Return the rows that changed, in whole."""
        changes = Changes()
        for key in self._changed:
            noun, _, name = key.partition(":")
            if noun == "agent_state":
                self._put_agent(changes, key, name)
            elif noun == "update":
                self._put_update(changes, key, self._updates.told(name))
            else:
                changes.put(key, encoded(self._studies.told(name), without=trial_board.TALLIED))
                changes.index(keys.STUDIES, name, self._place[key])
        self._changed.clear()
        _count(changes, "events", self._newest, self._ttl)
        return changes

    def _put_agent(self, changes: Changes, key: str, agent_id: str) -> None:
        fields = encoded(self._agents[agent_id], without=agent_health.MEASURED)
        changes.put(keys.agent_ledger(agent_id), fields)
        changes.put(key, fields, expires=self._expires[key])
        changes.index(keys.AGENTS, agent_id, 0)

    def _put_update(self, changes: Changes, key: str, row: UpdateRow) -> None:
        place = self._place[key]
        changes.put(key, encoded(row))
        changes.index(keys.UPDATES, row.update_id, place)
        changes.index(keys.PENDING, row.update_id, place if row.stage == "pending" else None)


class TrialsBoard:
    """TRIALS: trials and what they add up to. It needs the whole stream."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._trials: dict[tuple[str, int], TrialRow] = {}
        self._tallies: dict[str, trial_board.Tally] = {}
        self._changed: dict[tuple[str, int], None] = {}
        self._newest: Stored | None = None

    def first(self, written: int, last: int) -> int:  # noqa: ARG002 - the protocol's
        """Return where the stream begins."""
        return 1

    def fold(self, stored: Stored) -> None:
        """Take in a trial that was asked for, or what became of it."""
        self._newest = stored
        message = cast("trial_board.TrialMessage", stored.message())
        place = (message.study_id, message.number)
        before = self._trials.get(place)
        after = trial_board.trial_row(message, before, stored.time)
        if after is not None and after != before:
            have = self._tallies.get(message.study_id, trial_board.Tally())
            self._tallies[message.study_id] = trial_board.tally(have, before, after)
            self._trials[place] = after
            self._changed[place] = None

    def changes(self) -> Changes:
        """Return the trials that changed, and their studies' counts."""
        changes = Changes()
        for study_id, number in self._changed:
            changes.put(keys.trials(study_id), {str(number): self._trials[study_id, number].model_dump_json()})
            changes.put(keys.study(study_id), encoded(self._tallies[study_id]))
        self._changed.clear()
        _count(changes, "trials", self._newest, self._ttl)
        return changes


class ReportsBoard:
    """REPORTS: how agents do, worlds, open pages, progress of trials. It keeps nothing between batches."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._changes = Changes()
        self._newest: Stored | None = None

    def first(self, written: int, last: int) -> int:
        """Return the next report, or where the last LOOK_BACK of them begin."""
        return max(written, last - LOOK_BACK) + 1

    def fold(self, stored: Stored) -> None:
        """Take in a report."""
        self._newest = stored
        report = stored.message()
        expires = _end(stored, self._ttl)
        match report:
            case AgentReported(twin=True):
                pass  # no agent: a copy that a rollout compares one with
            case AgentReported() | AgentBeat():
                self._agent(report, stored, expires)
            case GameReported():
                conflict, equilibrium = (
                    row(report, stored.time) for row in (game_board.conflict_row, game_board.equilibrium_row)
                )
                self._changes.push(keys.CONFLICTS, stored.sequence, conflict.model_dump_json(), expires=expires)
                self._changes.push(keys.EQUILIBRIA, stored.sequence, equilibrium.model_dump_json(), expires=expires)
            case SessionReported():
                sessions = self._changes.sessions = self._changes.sessions or Sessions()
                sessions.seen[report.session_id] = stored.time.timestamp()
                sessions.expires = expires
            case TrialReported():
                progress = {f"{report.number}.episode": str(report.episode)}
                self._changes.put(keys.trials(report.study_id), progress)

    def _agent(self, report: AgentReport, stored: Stored, expires: int) -> None:
        name = report.agent_id
        row = agent_health.measured(report, stored.time)
        fields = encoded(row, only=agent_health.MEASURED & row.model_fields_set)
        self._changes.put(keys.agent_state(name), fields, expires=expires, seed=keys.agent_ledger(name))
        self._changes.index(keys.AGENTS, name, 0)
        if point := agent_health.point(report, stored.time):
            self._changes.push(keys.agent_history(name), stored.sequence, point.model_dump_json(), expires=expires)

    def changes(self) -> Changes:
        """Return what the reports since the last call say."""
        changes, self._changes = self._changes, Changes()
        if self._newest is not None:
            changes.sessions = changes.sessions or Sessions()
            changes.sessions.closed_before = self._newest.time.timestamp() - OPEN_SECONDS
        _count(changes, "reports", self._newest, self._ttl)
        return changes


class DeadBoard:
    """DEAD: what was put aside. It keeps nothing between batches."""

    def __init__(self, ttl: int) -> None:
        self._ttl = ttl
        self._changes = Changes()
        self._newest: Stored | None = None

    def first(self, written: int, last: int) -> int:  # noqa: ARG002 - the protocol's
        """Return the next dead letter."""
        return written + 1

    def fold(self, stored: Stored) -> None:
        """Take in a dead letter; nothing in it is too broken to be shown."""
        self._newest = stored
        row = dead_letters.row(stored.sequence, stored.time, stored.subject, stored.body, stored.headers)
        self._changes.push(keys.DEAD, stored.sequence, dead_letters.listed(row).model_dump_json())

    def changes(self) -> Changes:
        """Return the dead letters since the last call."""
        changes, self._changes = self._changes, Changes()
        _count(changes, "dead", self._newest, self._ttl)
        return changes


BOARDS: Final[Mapping[str, type[EventsBoard | TrialsBoard | ReportsBoard | DeadBoard]]] = {
    "EVENTS": EventsBoard,
    "TRIALS": TrialsBoard,
    "REPORTS": ReportsBoard,
    "DEAD": DeadBoard,
}
"""By stream, its fold."""


def _end(stored: Stored, ttl: int) -> int:
    return int(stored.time.timestamp()) + ttl


def _count(changes: Changes, name: str, newest: Stored | None, ttl: int) -> None:
    """Count a stream's messages since it began: the sequence of its newest one."""
    if newest is not None:
        changes.put(keys.METRICS, {name: str(newest.sequence)}, expires=_end(newest, ttl))
