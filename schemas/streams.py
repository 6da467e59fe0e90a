"""Every stream, every durable consumer, every kind of message and who may do what, as data.

Provisioning, permissions and tests derive from here; nobody writes a subject by hand elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from pydantic import ValidationError

from tars.schemas.agent import AgentCommand, AgentEvent, AgentReport
from tars.schemas.errors import Malformed, NewerVersion, UnknownKind, complaints
from tars.schemas.game import GameReported
from tars.schemas.message import Message
from tars.schemas.session import SessionReported
from tars.schemas.study import StudyCommand, StudyEvent
from tars.schemas.trial import TrialCommand, TrialEvent, TrialReported
from tars.schemas.update import UpdateCommand, UpdateEvent

DAY = 86_400.0
GIB = 1 << 30
MIB = 1 << 20
KIB = 1 << 10


@dataclass(frozen=True)
class Stream:
    """A JetStream stream. The fields that cannot be changed later are frozen by a test (BUS facts in docs)."""

    name: str
    subjects: tuple[str, ...]
    why: str
    retention: Literal["limits", "workqueue"] = "limits"
    max_age: float = 0.0
    """Seconds; 0: for ever."""
    max_bytes: int = -1
    max_msgs_per_subject: int = -1
    max_msg_size: int = -1
    """Bytes of headers and body; -1: what the server takes. May be changed at any time."""
    allow_atomic: bool = False
    """Several events in one commit."""
    append_only: bool = False
    """Delete and purge are denied, for ever."""
    asynchronous: bool = False
    """Acknowledged before it is on disk, where one server has it: for measurements only."""
    republish: tuple[str, str] | None = None
    """(source, destination): sent on as a core message after the store, with its sequence."""


@dataclass(frozen=True)
class Bucket:
    """A JetStream object store: a stream whose objects are chunks and a description of each."""

    name: str
    why: str

    @property
    def stream(self) -> str:
        """The stream behind it."""
        return f"OBJ_{self.name}"

    @property
    def subjects(self) -> tuple[str, ...]:
        """Of chunks, and of descriptions, as every NATS client expects them (ADR-20)."""
        return f"$O.{self.name}.C.>", f"$O.{self.name}.M.>"


@dataclass(frozen=True)
class Durable:
    """A durable pull consumer, made by `tars provision`, never by a worker."""

    name: str
    stream: str
    subjects: tuple[str, ...]
    max_ack_pending: int = 1000


STREAMS: Mapping[str, Stream] = {
    stream.name: stream
    for stream in (
        Stream(
            "EVENTS",
            ("tars.event.study.>", "tars.event.update.>", "tars.event.agent.>"),
            "the ledger: the only truth",
            allow_atomic=True,
            append_only=True,
        ),
        Stream(
            "COMMANDS",
            ("tars.command.study.>", "tars.command.update.>"),
            "requests that wait for a worker",
            retention="workqueue",
            max_msg_size=MIB,  # evidence of up to 64 KiB, and a fleet by its names
        ),
        Stream(
            "TRIALS",
            ("tars.command.trial.>", "tars.event.trial.>"),
            "asked and counted once",
            append_only=True,
        ),
        Stream(
            "AGENTS",
            ("tars.command.agent.>",),
            "the values an agent is to run; its version is this stream's sequence",
            max_msgs_per_subject=64,
            max_msg_size=MIB,  # the approved content, which names every agent, and the signed approval
            republish=("tars.command.agent.>", "tars.live.agent.>"),
        ),
        Stream(
            "REPORTS",
            ("tars.report.>",),
            "episodes, heartbeats, conflicts, equilibria, trial progress, page sessions",
            max_age=7 * DAY,
            max_bytes=8 * GIB,
            max_msg_size=64 * KIB,
            asynchronous=True,
        ),
        Stream("DEAD", ("tars.dead.>",), "what could not be decoded or handled", max_age=30 * DAY, max_bytes=GIB),
    )
}

BUCKETS: Mapping[str, Bucket] = {
    bucket.name: bucket
    for bucket in (
        Bucket("SNAPSHOTS", "what learners had learnt: the last of each agent, and those of running studies"),
    )
}

DURABLES: Mapping[str, Durable] = {
    durable.name: durable
    for durable in (
        Durable("study-command", "COMMANDS", ("tars.command.study.>",)),
        Durable("update-command", "COMMANDS", ("tars.command.update.>",)),
        Durable("run-study", "EVENTS", ("tars.event.study.started.>",)),
        Durable("run-trial", "TRIALS", ("tars.command.trial.>",)),
        Durable("propose-champion", "EVENTS", ("tars.event.study.finished.>",)),
        Durable("run-rollout", "EVENTS", ("tars.event.update.released.>", "tars.event.update.roll-back-requested.>")),
    )
}


@dataclass(frozen=True)
class Rights:
    """What a role sends, what it reads, and which durables it works on; `schemas/permissions.py` makes NATS's of it."""

    why: str
    publishes: tuple[str, ...] = ()
    durables: tuple[str, ...] = ()
    """Whose messages it handles; what it cannot use it puts aside, in DEAD."""
    reads: tuple[str, ...] = ()
    """Streams it may read by subject, and hear live; and buckets."""
    keeps: tuple[str, ...] = ()
    """Buckets whose objects it writes and deletes."""
    hears: tuple[str, ...] = ()
    """Other subjects it listens to."""
    measures: bool = False
    """How much lies in every stream and waits before every durable: numbers, no messages."""
    is_answered: bool = False
    """Workers answer it."""


ASKING: Final = ("tars.command.study.>", "tars.command.update.>", "tars.query.>")
LIVING: Final = ("tars.event.agent.>", "tars.report.agent.>", "tars.dead.AGENTS.>")

ROLES: Mapping[str, Rights] = {
    "person": Rights(
        "a person's command line, or a script",
        ASKING,
        reads=("EVENTS", "TRIALS", "AGENTS", "DEAD"),
        measures=True,
        is_answered=True,
    ),
    "dashboard": Rights("the page", (*ASKING, "tars.report.session.>"), reads=("EVENTS", "DEAD"), is_answered=True),
    "coordinator": Rights(
        "decides about studies and runs them",
        ("tars.event.study.>", "tars.command.trial.>", "tars.reply.>"),
        ("study-command", "run-study"),
        ("EVENTS", "TRIALS", "SNAPSHOTS"),
        ("SNAPSHOTS",),
    ),
    "trainer": Rights(
        "trains trials", ("tars.event.trial.>", "tars.report.trial.>"), ("run-trial",), ("TRIALS", "SNAPSHOTS")
    ),
    "sync": Rights(
        "decides about updates and rolls them out",
        ("tars.event.update.>", "tars.event.agent.lost.>", "tars.command.agent.>", "tars.reply.>"),
        ("update-command", "propose-champion", "run-rollout"),
        ("EVENTS", "AGENTS", "REPORTS"),
    ),
    "agents": Rights(
        "hosts live agents; an attached one with snapshots on the bus",
        (*LIVING, "tars.report.game.>"),
        reads=("EVENTS", "AGENTS", "SNAPSHOTS"),
        keeps=("SNAPSHOTS",),
    ),
    "attached": Rights("somebody else's learner, attached", LIVING, reads=("EVENTS", "AGENTS")),
    "consumers": Rights(
        "folds streams into views and answers queries",
        ("tars.reply.>",),
        reads=("EVENTS", "TRIALS", "REPORTS", "DEAD"),
        hears=("tars.query.>",),
        measures=True,
    ),
    "mlflow": Rights("tells MLflow of studies and champions", reads=("EVENTS", "TRIALS")),
    "admin": Rights("makes streams and durables, exports, backs up and restores them", ("$JS.>",)),
}
"""Who publishes what and works on which durable; the permissions of a secured server derive from it."""


EARLIER: tuple[type[Message], ...] = ()
"""Versions that were succeeded: read for ever, and upcast, so that nobody else knows of them; never written again."""


def _kinds() -> dict[str, type[Message]]:
    found: dict[str, type[Message]] = {member.model_fields["kind"].default: member for member in EARLIER}
    for union in (
        StudyCommand, StudyEvent, TrialCommand, TrialEvent, TrialReported, UpdateCommand, UpdateEvent,
        AgentCommand, AgentEvent, AgentReport, GameReported, SessionReported,
    ):  # fmt: skip
        annotated = get_args(union)
        members = get_args(annotated[0]) if annotated else (union,)
        for member in members:
            found[member.model_fields["kind"].default] = member
    return found


KINDS: Mapping[str, type[Message]] = _kinds()
"""Every kind that may travel, and its class."""


def history_subject(noun: str, key: str) -> str:
    """All events of one id, whatever verb and version: the filter of every read and every expected sequence."""
    return f"tars.event.{noun}.*.*.{key}"


def live_subject(agent_id: str) -> str:
    """Where an agent hears its configurations, sent on after they are stored."""
    return f"tars.live.agent.*.*.{agent_id}"


def configure_subject(agent_id: str) -> str:
    """All configurations of one agent in the stream AGENTS."""
    return f"tars.command.agent.*.*.{agent_id}"


def covers(pattern: str, subject: str) -> bool:
    """Whether a pattern of this module, which ends in `>`, takes in the subject."""
    return subject.startswith(pattern.removesuffix(">"))


def stream_of(subject: str) -> str:
    """The stream that stores `subject`; KeyError where none does."""
    for stream in STREAMS.values():
        if any(covers(pattern, subject) for pattern in stream.subjects):
            return stream.name
    raise KeyError(subject)


def decode(subject: str, body: bytes) -> Message:
    """Read a message as its subject says what it is, in the newest version of its kind; all errors are Poison.

    Raises UnknownKind, NewerVersion, or Malformed when the body is no valid message of that kind, or is of another
    kind or another id than its subject says.
    """
    tokens = subject.split(".")
    kind, key = ".".join(tokens[2:5]), ".".join(tokens[5:])
    channel = tokens[1] if len(tokens) > 1 else ""
    model = KINDS.get(kind)
    if model is None or channel != model.CHANNEL:
        raise _unknown(kind, subject)
    try:
        message = model.model_validate_json(body)
    except ValidationError as error:
        raise Malformed(f"{kind}: {'; '.join(complaints(error)[:5])}") from error
    if message.key != key:
        raise Malformed(f"{kind}: the body is about {message.key}, its subject about {key}")
    return _newest(message)


def _newest(message: Message) -> Message:
    while (later := message.upcast()) is not message:
        message = later
    return message


def _unknown(kind: str, subject: str) -> UnknownKind | NewerVersion:
    name, _, version = kind.rpartition(".v")
    known = [int(have.rpartition(".v")[2]) for have in KINDS if have.rpartition(".v")[0] == name]
    if known and version.isdigit() and int(version) > max(known):
        return NewerVersion(f"{kind} on {subject}: this process knows {name} up to v{max(known)}", subject)
    return UnknownKind(f"{kind} on {subject}: nobody here knows it", subject)
