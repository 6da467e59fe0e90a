"""What may be read: one frozen model per kind of row, the same from Redis, from memory and over queries."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from tars.schemas.evidence import Evidence, Objective, Start, Weights
from tars.schemas.hyperparameters import AlgorithmName, Value
from tars.schemas.message import Frozen
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import FrontPoint
from tars.schemas.trial import Phase
from tars.schemas.update import ApprovalMode, ReadBack, RolloutStage, What

UpdateStage = Literal[
    "pending", "refused", "rejected", "superseded", "approved", "released", "reloading", "reloaded", "confirmed",
    "rolling back", "rolled back", "failed",
]  # fmt: skip
StudyStage = Literal["running", "finished", "stopped", "failed"]
TrialStage = Literal["waiting", "completed", "pruned", "failed"]


class AgentRow(Frozen):
    """A live agent: what it runs, from its events, and how it does, from its reports."""

    agent_id: str
    role: str = ""
    algorithm: AlgorithmName | None = None
    world: str | None = None
    run_id: str = ""
    state: Literal["running", "stopped", "lost"] = "running"
    values: dict[str, Value] = Field(default_factory=dict)
    heard: int = 0
    applied: int = 0
    reloaded_at: datetime | None = None
    reload_milliseconds: float | None = None
    restored_at: datetime | None = None
    """When it last went back to a snapshot."""
    episode: int = 0
    step: int = 0
    score: float | None = None
    """Newest behaviour score, normalised."""
    finite: bool = True
    """Its newest report found no parameter that is NaN or infinite; otherwise it has diverged, whatever its score."""
    seen_at: datetime | None = None
    """Its newest report or beat, by the server's clock."""


class AgentPoint(Frozen):
    """One episode of an agent's history."""

    at: datetime
    episode: int
    score: float
    version: int
    """The configuration it ran: a change marks a reload on the curve."""


class AuditEntry(Frozen):
    """One event of an update's life, for people."""

    at: datetime
    kind: str
    by: str | None
    """Who, marked when unsigned; None: TARS itself."""
    text: str
    """What happened, in a sentence."""
    trace_id: str | None = None


class Judged(Frozen):
    """What the watch of a stage found: a causal estimate on the agents reloaded, no picture of before and after."""

    stage: RolloutStage
    attempt: int
    verdict: str
    then: str
    reason: str
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    slot: int
    reloaded: tuple[str, ...]
    compared: tuple[str, ...]
    smallest_harm: float | None
    stopped_early: bool


class UpdateRow(Frozen):
    """An update, as far as it has come."""

    update_id: str
    stage: UpdateStage
    proposed_at: datetime
    proposed_by: str
    changed_at: datetime
    agents: tuple[str, ...]
    base: dict[str, int] = Field(default_factory=dict)
    values: dict[str, Value]
    before: dict[str, dict[str, Value]] = Field(default_factory=dict)
    evidence: Evidence | None = None
    study_id: str | None = None
    reason: str = ""
    expires_at: datetime | None = None
    approved_by: str | None = None
    mode: ApprovalMode | None = None
    reasons: tuple[str, ...] = ()
    """Why it was refused, rejected, superseded, rolled back or failed."""
    read_backs: tuple[ReadBack, ...] = ()
    smallest_harm: float | None = None
    """The smallest loss that its rollout finds 4 times in 5."""
    normalised: bool = True
    """Effects and harms are of scores, so percentage points; else of returns."""
    takes_back: What | None = None
    """What a roll back of it takes back, as soon as one was asked for."""
    canary: tuple[str, ...] = ()
    """Agents that switch first."""
    watch_seconds: float | None = None
    """How long a stage is watched at most; None: its rollout has not begun, or nothing of it can be watched."""
    watching: RolloutStage | None = None
    """The stage whose agents were reloaded last, and are not judged yet."""
    judgements: tuple[Judged, ...] = ()
    history: tuple[AuditEntry, ...] = ()


FRONT_SHOWN = 50
"""Points of a Pareto front that a row holds: a picture needs no more, and a row is read at every refresh."""


class TrialRow(Frozen):
    """A trial of a study."""

    study_id: str
    number: int
    phase: Phase
    stage: TrialStage = "waiting"
    hyperparameters: dict[str, Value]
    seed: int
    train_episodes: int
    asked_at: datetime | None = None
    ended_at: datetime | None = None
    snapshot: str | None = None
    """The name of the one it went on from; None: it started from fresh weights."""
    episode: int = 0
    """Episodes trained so far, from its newest report."""
    score: float | None = None
    exact_score: float | None = None
    conflict: float | None = None
    latency: float | None = None
    """Conflicts and latency a step, while it was scored; None: the environment has none."""
    error: str | None = None


class StudyRow(Frozen):
    """A study, as far as it has come."""

    study_id: str
    stage: StudyStage
    started_at: datetime
    ended_at: datetime | None = None
    by: str
    algorithm: AlgorithmName
    environment: str
    agents: tuple[str, ...] = ()
    trials: int
    quick: bool
    incumbent: dict[str, Value]
    searched: tuple[str, ...]
    start: Start = "scratch"
    snapshots: tuple[SnapshotRef, ...] = ()
    """What its trials go on from."""
    objective: Objective = "reward"
    weights: Weights = Weights()
    threshold: float | None = None
    """The held-out gain that makes a candidate BETTER; None: the row is older than this field."""
    candidates: tuple[dict[str, Value], ...] = ()
    """Changes that it was given to weigh; then nothing is searched."""
    wall_seconds: float | None = None
    propose: bool = True
    asked: int = 0
    completed: int = 0
    pruned: int = 0
    failed: int = 0
    """Search trials only, all three."""
    confirmations: int = 0
    """Trials on held-out seeds done, ablations too."""
    best_score: float | None = None
    """Of the search: the luckiest; evidence is what counts."""
    champion: dict[str, Value] | None = None
    evidence: Evidence | None = None
    weighed: tuple[Evidence, ...] = ()
    """Of every candidate, the champion's too: MOST_CANDIDATES at most."""
    front: tuple[FrontPoint, ...] = ()
    """Of the Pareto front the FRONT_SHOWN with the highest scores, with their searched keys alone."""
    importances: dict[str, float] = Field(default_factory=dict)
    error: str | None = None


class ConflictRow(Frozen):
    """How often the roles of a world got in each other's way."""

    at: datetime
    game_id: str
    episode: int
    conflicts: dict[str, float]
    latency: float


class EquilibriumRow(Frozen):
    """How far a world's joint play is from an equilibrium."""

    at: datetime
    game_id: str
    episode: int
    nash_conv: float
    gains: dict[str, float]


class DeadRow(Frozen):
    """A message that was put aside."""

    at: datetime
    sequence: int
    subject: str
    reason: str
    error: str
    attempts: int
    id: str = ""
    """Of the message that was put aside."""
    body: str
    """As text; a list cuts it at 4,000 characters."""
    not_again: str | None = None
    """Why it cannot be sent again; None: it can."""


class PipelineRow(Frozen):
    """A durable consumer: what waits before it."""

    durable: str
    stream: str
    waiting: int
    unacknowledged: int
    redelivered: int
    listening: int = 0
    """Fetches that wait for a message: workers that have nothing to do."""


class StatsRow(Frozen):
    """Counts since the ledger began, and what the views hold."""

    events: int = 0
    reports: int = 0
    trials: int = 0
    dead: int = 0
    agents: int = 0
    studies: int = 0
    updates: int = 0
    pending: int = 0
    conflicts: int = 0
    equilibria: int = 0
    sessions: int = 0
    history: int = 0
    """Episodes kept over all agents."""
    history_cap: int = 0
    """Episodes that are kept of one agent at most."""
    utilisation: float = 0.0
    """How full the longest history of an agent is: from 1 on its oldest episodes go."""
    redis_bytes: int = 0
    """Memory in use there; 0: not measured, or no Redis."""
    redis_keys: int = 0
