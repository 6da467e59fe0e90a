"""Every metric of every worker, declared once, with unit and bounded labels; tests hold dashboards and alerts to it.

One process is one worker, so there is one registry. A label takes only values that are declared somewhere (kinds,
streams, durables, algorithms, the words beside it here): never an id, which would be a new series for each update.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from tars.schemas.errors import Poison
from tars.schemas.streams import KINDS, ROLES, covers

REGISTRY: Final = CollectorRegistry()
"""What /metrics shows."""
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

FAST: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds: round trips, decisions, reloads."""
LONG: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Seconds of a processor: trials."""

EXHAUSTED: Final = "attempts-exhausted"
"""Reason of a dead letter that was tried too often; the others are those of Poison."""
LEASING: Final = frozenset({"run-study", "run-rollout"})
LEASE_OUTCOMES: Final = ("done", "lost", "returned", "broken", "outdated", "dead")

Type = Literal["counter", "gauge", "histogram"]
SUFFIXES: Final[Mapping[Type, tuple[str, ...]]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}


@dataclass(frozen=True)
class Declared:
    """What is known about a metric before anything was measured."""

    name: str
    """With its unit, without `_total`."""
    type: Type
    help: str
    labels: tuple[str, ...]

    @property
    def series(self) -> dict[str, frozenset[str]]:
        """Names as a query writes them, each with its labels."""
        labels = frozenset(self.labels)
        return {
            self.name + suffix: labels | {"le"} if suffix == "_bucket" else labels for suffix in SUFFIXES[self.type]
        }


DECLARED: Final[dict[str, Declared]] = {}


def _declare(name: str, kind: Type, text: str, labels: tuple[str, ...]) -> tuple[str, str, tuple[str, ...]]:
    DECLARED[name] = Declared(name, kind, text, labels)
    return name, text, labels


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(*_declare(name, "counter", text, labels), registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(*_declare(name, "gauge", text, labels), registry=REGISTRY)


def _seconds(name: str, text: str, *labels: str, buckets: tuple[float, ...] = FAST) -> Histogram:
    return Histogram(*_declare(name, "histogram", text, labels), registry=REGISTRY, buckets=buckets)


WORKER = _gauge("tars_worker_info", "1; its role, and the version it runs.", "role", "version")

HANDLING = _seconds(
    "tars_message_handling_seconds",
    "A delivery, from its arrival to its settlement: done, refused, retried, returned (the worker stopped), dead.",
    "kind",
    "outcome",
)
LEASES_HELD = _gauge("tars_leases_held", "Studies and rollouts that run here now.", "durable")
LEASES_ENDED = _counter(
    "tars_leases_ended",
    "Studies and rollouts that this worker let go of: done, lost, returned, broken, outdated, dead.",
    "durable",
    "outcome",
)
DEAD_LETTERS = _counter("tars_dead_letters", "Messages put aside, by reason.", "reason")

STORED = _counter("tars_messages_stored", "Commands and events of this worker that the server has stored.", "kind")
STORING = _seconds("tars_storing_seconds", "From sending a message to the server's word that it is on disk.", "stream")
REPORTS_SENT = _counter("tars_reports_sent", "Measurements sent, not waited for.", "kind")
REPORTS_LOST = _counter("tars_reports_lost", "Measurements that were dropped or could not be sent.")
RECONNECTIONS = _counter("tars_nats_reconnections", "Connections to NATS that were lost and are back.")

WAITING = _gauge("tars_consumer_waiting_messages", "Messages before a durable that nobody has fetched.", "durable")
UNACKNOWLEDGED = _gauge(
    "tars_consumer_unacknowledged_messages", "Messages of a durable in some worker's hands.", "durable"
)
REDELIVERED = _gauge(
    "tars_consumer_redelivered_messages", "Messages of a durable that came back at least once.", "durable"
)
STREAM_MESSAGES = _gauge("tars_stream_messages", "Messages that a stream, or a bucket's stream, holds.", "stream")
STREAM_BYTES = _gauge("tars_stream_bytes", "Bytes that a stream holds on each of its servers.", "stream")
STREAM_AWAY = _gauge(
    "tars_stream_copies_away", "Copies of a stream on servers that are gone, or do not keep up.", "stream"
)

VIEW_CURRENT = _gauge(
    "tars_view_current_timestamp_seconds", "When the views last held everything of a stream; Unix time.", "stream"
)
VIEW_IN_REDIS = _gauge("tars_view_in_redis", "1: a stream's rows reach Redis; 0: it is away or refuses them.", "stream")
VIEW_SKIPPED = _counter("tars_view_skipped_messages", "Messages that no view could read.", "stream")
VIEW_ROWS = _gauge("tars_view_rows", "Rows of a view: agents, studies, updates, pending, dead, sessions.", "view")
ANSWERING = _seconds("tars_query_answering_seconds", "A query, from its arrival to its answer.", "query")

MLFLOW_WAITING = _gauge("tars_mlflow_waiting_messages", "Messages that MLflow has not heard of.", "stream")

RELOADING = _seconds(
    "tars_reload_seconds", "From a learner's hearing of new values to their use and reading back.", "algorithm"
)
TRIAL_CPU = _seconds(
    "tars_trial_cpu_seconds",
    "Processor time of a trial's share of its population: completed, pruned, failed.",
    "algorithm",
    "outcome",
    buckets=LONG,
)
TRIALS_HELD = _gauge("tars_trials_held", "Trials in this trainer's hands, at most 32.")


def describe(role: str, version: str) -> None:
    """Say who this process is, and show a zero for what may come: a first event is an increase only from there."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    WORKER.labels(role, version).set(1)
    for kind in kinds_of(role):
        STORED.labels(kind)
    poisons: list[type[Poison]] = [Poison, *Poison.__subclasses__()]
    for reason in (*(poison.reason for poison in poisons), EXHAUSTED):
        DEAD_LETTERS.labels(reason)
    for durable in sorted(LEASING & set(ROLES[role].durables) if role in ROLES else ()):
        LEASES_HELD.labels(durable)
        for outcome in LEASE_OUTCOMES:
            LEASES_ENDED.labels(durable, outcome)


def kinds_of(role: str) -> Iterable[str]:
    """Name the kinds that a role stores, in the streams that acknowledge."""
    publishes = ROLES[role].publishes if role in ROLES else ()
    subjects = {kind: f"tars.{model.CHANNEL}.{kind}." for kind, model in KINDS.items() if model.CHANNEL != "report"}
    return sorted(kind for kind, subject in subjects.items() if any(covers(own, subject) for own in publishes))


def kind_of(subject: str) -> str:
    """Return the kind that a subject carries, or `unknown`: a label that strangers cannot multiply."""
    kind = ".".join(subject.split(".")[2:5])
    return kind if kind in KINDS else "unknown"
