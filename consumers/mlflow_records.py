"""What MLflow is to hold of a study, a trial or an update: a fold of all that the ledger says of that one id. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, Protocol

from tars.consumers import update_queue
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import Value
from tars.schemas.message import Message
from tars.schemas.study import StudyFailed, StudyFinished, StudyStarted, StudyStopped
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned
from tars.schemas.update import UpdateConfirmed
from tars.schemas.views import UpdateRow

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""MLflow's words for how a run stands; KILLED: pruned or stopped."""
WATCHED: Final = frozenset({
    "study.started", "study.finished", "study.stopped", "study.failed",
    "trial.run", "trial.completed", "trial.pruned", "trial.failed",
    "update.proposed", "update.approved", "update.rejected", "update.superseded",
    "update.confirmed", "update.rolled-back", "update.failed",
})  # fmt: skip
"""Noun and verb of each message after which MLflow must hold something else."""
LONGEST_TEXT: Final = 5000
"""Characters of a parameter or tag; MLflow takes 6000 and 8000."""
LONGEST_NAME: Final = 200


class Entry(Protocol):
    """A stored message, as `runtime.journal.Entry` has it."""

    @property
    def event(self) -> Message:
        """What it says."""

    @property
    def time(self) -> datetime:
        """When the server stored it."""


@dataclass(frozen=True)
class Run:
    """A study, or one of its trials as a run nested in it."""

    experiment: str
    key: str
    """`<study>` or `<study>.<number>`; a ledger has one run of each."""
    study_id: str
    """Its own, or that of the run it is nested in."""
    started: datetime
    status: Status = "RUNNING"
    ended: datetime | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Champion:
    """What a study ended with, as a version of a registered model."""

    model: str
    study_id: str
    files: Mapping[str, str]
    """Name -> JSON: what the version's artefacts hold."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Standing:
    """What became of an update that proposes the champion of a study."""

    study_id: str
    update_id: str
    stage: str
    confirmed: datetime | None
    """When it was confirmed, while that stands."""


Record = Run | Champion | Standing


def watched(subject: str) -> tuple[str, str] | None:
    """(noun, key) of the id that a message on `subject` has changed for MLflow; None: it says nothing new."""
    tokens = subject.split(".")
    return (tokens[2], ".".join(tokens[5:])) if ".".join(tokens[2:4]) in WATCHED else None


def records(noun: str, history: Sequence[Entry]) -> tuple[Record, ...]:
    """Everything to hold of one id; nothing where its history has no beginning."""
    match noun:
        case "study":
            return _study(history)
        case "trial":
            return _trial(history)
        case _:
            return _update(history)


def model_name(algorithm: str, environment: str) -> str:
    """Name the registered model, and the experiment, of what learns `environment` by `algorithm`.

    MLflow's names have no slash and no colon: `ALE/Pong-v5` becomes `ALE-Pong-v5`.
    """
    return f"tars-{algorithm}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', environment)}"[:LONGEST_NAME]


def _study(history: Sequence[Entry]) -> tuple[Record, ...]:
    started = next((entry for entry in history if isinstance(entry.event, StudyStarted)), None)
    if started is None or not isinstance(started.event, StudyStarted):
        return ()
    run, champion = _of_study(started.event, started.time), None
    for entry in history:
        match entry.event:
            case StudyFinished() as event:
                run = replace(run, status="FINISHED", ended=entry.time, metrics=_outcome(event))
                champion = _champion(started.event, event)
            case StudyStopped(reason=reason):
                run = replace(run, status="KILLED", ended=entry.time, tags={**run.tags, "tars.reason": reason})
            case StudyFailed(error=error):
                run = replace(run, status="FAILED", ended=entry.time, tags={**run.tags, "tars.error": error})
    return (run, champion) if champion else (run,)


def _of_study(event: StudyStarted, at: datetime) -> Run:
    fixed = (
        "algorithm", "environment", "trials", "quick", "sampler", "seed", "structural", "threshold", "trainer",
        "training", "start", "objective",
    )  # fmt: skip
    tags = {"tars.by": str(event.by), "mlflow.user": event.by.principal, "tars.agents": " ".join(event.base)}
    return Run(
        experiment=model_name(event.algorithm, event.environment),
        key=event.study_id,
        study_id=event.study_id,
        started=at,
        params=_texts({name: getattr(event, name) for name in fixed} | _prefixed("incumbent", event.incumbent)),
        tags=_texts({"tars.noun": "study", "tars.study": event.study_id, **tags}),
    )


def _outcome(event: StudyFinished) -> dict[str, float]:
    """The numbers a study ends with; all but the search's are of held-out seeds."""
    found: dict[str, float | None] = {"completed": event.completed, "pruned": event.pruned, "failed": event.failed}
    if event.evidence is not None:
        names = ("gain", "gain_low", "gain_high", "p_value", "search_gain", "conflict_gain", "latency_gain")
        found |= {name: getattr(event.evidence, name) for name in names}
        found["seeds"] = len(event.evidence.scores)
    found |= _prefixed("importance", event.importances)
    return {name: float(number) for name, number in found.items() if number is not None}


def _champion(started: StudyStarted, finished: StudyFinished) -> Champion | None:
    if finished.champion is None:
        return None
    files = {
        "hyperparameters.json": json.dumps(finished.champion, indent=2),
        "study.json": finished.model_dump_json(indent=2),
    }
    tags: dict[str, object] = {}
    if finished.evidence is not None:
        files["evidence.json"] = finished.evidence.canonical().decode()
        tags = _worth(finished.evidence)
    return Champion(
        model=model_name(started.algorithm, started.environment),
        study_id=started.study_id,
        files=files,
        tags=_texts({
            "tars.study": started.study_id, "tars.algorithm": started.algorithm,
            "tars.environment": started.environment, **tags, **_prefixed("value", finished.champion),
        }),
    )  # fmt: skip


def _worth(evidence: Evidence) -> dict[str, object]:
    return {
        "tars.verdict": evidence.verdict.value,
        "tars.gain": evidence.gain,
        "tars.gain_low": evidence.gain_low,
        "tars.gain_high": evidence.gain_high,
        "tars.evidence": evidence.digest(),
        "tars.training": evidence.training,
        "tars.start": evidence.start,
    }


def _trial(history: Sequence[Entry]) -> tuple[Record, ...]:
    asked = next((entry for entry in history if isinstance(entry.event, RunTrial)), None)
    if asked is None or not isinstance(asked.event, RunTrial):
        return ()
    run = _of_trial(asked.event, asked.time)
    for entry in history:
        match entry.event:
            case TrialCompleted() as event:
                run = replace(run, status="FINISHED", ended=entry.time, metrics=_measured(event))
            case TrialPruned() as event:
                run = replace(run, status="KILLED", ended=entry.time, metrics=_measured(event))
            case TrialFailed(error=error):  # its score is a mark, not a measurement
                run = replace(run, status="FAILED", ended=entry.time, tags={**run.tags, "tars.error": error})
    return (run,)


def _of_trial(event: RunTrial, at: datetime) -> Run:
    fixed = ("seed", "train_episodes", "eval_episodes")
    own = {name: getattr(event, name) for name in fixed}
    tags = {"tars.phase": event.phase, "tars.trainer": event.trainer, "tars.training": event.training}
    if event.snapshot is not None:
        tags["tars.snapshot"] = f"{event.snapshot.name} {event.snapshot.sha256}"
    return Run(
        experiment=model_name(event.algorithm, event.environment),
        key=event.key,
        study_id=event.study_id,
        started=at,
        params=_texts({**event.hyperparameters, **own}),
        tags=_texts({"tars.noun": "trial", "tars.study": event.study_id, "tars.trial": event.number, **tags}),
    )


def _measured(event: TrialCompleted | TrialPruned) -> dict[str, float]:
    names = ("score", "exact_score", "conflict", "latency", "cpu_seconds", "episode")
    found = {name: getattr(event, name, None) for name in names}
    return {name: float(number) for name, number in found.items() if number is not None}


def _update(history: Sequence[Entry]) -> tuple[Record, ...]:
    row: UpdateRow | None = None
    confirmed: datetime | None = None
    for entry in history:
        event: Any = entry.event
        row = update_queue.row(event, row, entry.time)
        confirmed = entry.time if isinstance(event, UpdateConfirmed) else confirmed
    if row is None or row.study_id is None:
        return ()
    return (Standing(row.study_id, row.update_id, row.stage, confirmed if row.stage == "confirmed" else None),)


def _prefixed(prefix: str, values: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{prefix}.{name}": value for name, value in values.items()}


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value)[:LONGEST_TEXT] for name, value in values.items()}
