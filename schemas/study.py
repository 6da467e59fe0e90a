"""A study: a search for better hyperparameters, and the evidence for its champion."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, model_validator

from tars.schemas.evidence import Evidence, Objective, Start, Weights
from tars.schemas.hyperparameters import AlgorithmName, Value
from tars.schemas.message import By, Command, Event, Frozen, Holder, Id, Reason
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.trial import TRAINER, Normalize

Sampler = Literal["tpe", "random"]
MOST_CANDIDATES = 3
"""Candidates that one study weighs on held-out seeds."""


class StartStudy(Command):
    """Search for values that serve these agents better."""

    kind: Literal["study.start.v1"] = "study.start.v1"
    study_id: Id
    role: str | None = None
    """All live agents of this role; they must run the same values."""
    agents: tuple[Id, ...] = ()
    """Or these; they must share role and values. With neither, `algorithm` is searched from its defaults."""
    algorithm: AlgorithmName | None = None
    """Only without a target."""
    environment: str | None = None
    """What is trained in: a role of the game, or a Gymnasium id. Needed for attached agents, of whom only their code
    knows it; never given for hosted ones, who train in their role. For an algorithm as such None is its role."""
    score_range: tuple[float, float] | None = None
    """Returns of an episode that count as 0 and 1; needed for a Gymnasium environment, and only there."""
    normalize: tuple[Normalize, ...] = ()
    """What of a Gymnasium environment is brought to a running mean of 0 and deviation of 1."""
    trainer: Annotated[str, Field(pattern=TRAINER)] = "population"
    """population: our engine; sb3: Stable-Baselines3; module:function: what the trainers' setting TRAINERS allows."""
    trials: Annotated[StrictInt, Field(ge=0, le=1000)] = 20
    """Of the search; with `candidates` there is none."""
    candidates: Annotated[tuple[dict[str, Value], ...], Field(max_length=MOST_CANDIDATES)] = ()
    """Changes to weigh as they are: nothing is searched, and each gets its own evidence."""
    start: Start = "scratch"
    """snapshot: every trial goes on from the newest snapshot of a running agent of the target."""
    objective: Objective = "reward"
    weights: Weights = Weights()
    """What a conflict and a unit of latency cost, with the objective penalty."""
    wall_seconds: Annotated[float, Field(gt=0)] | None = None
    """After so long no further search trial is asked; what was found by then is weighed."""
    warm_start: bool = True
    """Try champions of earlier studies of the same algorithm in the same environment first."""
    explain: bool = True
    """Measure what each key of a BETTER champion is worth, and look for a smaller change that keeps the gain."""
    propose: bool = True
    """Propose a BETTER champion to the target's agents."""
    quick: bool | None = None
    """Short search trials (evidence is always full length); None: as USE_QUICK_MODE says."""
    sampler: Sampler = "tpe"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**32)] = 0
    structural: bool = False
    """Search also the keys that change the shape of training."""

    @model_validator(mode="after")
    def _has_one_aim(self) -> "StartStudy":
        if (self.role is not None) + bool(self.agents) + (self.algorithm is not None) != 1:
            raise ValueError("name exactly one of role, agents and algorithm")
        if self.start == "snapshot" and self.algorithm is not None:
            raise ValueError("an algorithm as such runs nowhere: only a target has snapshots to start from")
        if self.candidates and any(not change for change in self.candidates):
            raise ValueError("a candidate must change something")
        if self.trials == 0 and not self.candidates:
            raise ValueError("a study without candidates needs at least one trial")
        return self


class StopStudy(Command):
    """End a study at its next step; what it found stays."""

    kind: Literal["study.stop.v1"] = "study.stop.v1"
    study_id: Id
    reason: Reason = ""


class StudyStarted(Event):
    """A study was accepted, with all that fixes its course."""

    kind: Literal["study.started.v1"] = "study.started.v1"
    study_id: Id
    by: By
    algorithm: AlgorithmName
    environment: str
    base: dict[Id, int]
    """The target's agents and the version each had heard; empty: no target, its champion can only be shown."""
    incumbent: dict[str, Value]
    """The whole set that the target runs (without one: the game's defaults)."""
    searched: tuple[str, ...]
    trials: int
    quick: bool
    search_episodes: tuple[int, int]
    """(training, evaluation) of a search trial."""
    full_episodes: tuple[int, int]
    """(training, evaluation) of a trial whose score is evidence."""
    sampler: Sampler
    seed: int
    structural: bool
    threshold: float
    """The held-out gain that makes a champion BETTER."""
    score_range: tuple[float, float] | None = None
    normalize: tuple[Normalize, ...] = ()
    trainer: str = "population"
    training: Literal["real", "surrogate"] = "real"
    start: Start = "scratch"
    snapshots: tuple[SnapshotRef, ...] = ()
    """Of the target's agents, where trials start from them: the trials of one seed from one, in turn."""
    candidates: tuple[dict[str, Value], ...] = ()
    objective: Objective = "reward"
    weights: Weights = Weights()
    wall_seconds: float | None = None
    warm: tuple[dict[str, Value], ...] = ()
    """Searched keys of earlier champions, tried first."""
    explain: bool = False
    propose: bool = True


class StudyResumed(Event):
    """A coordinator took the study's lease."""

    kind: Literal["study.resumed.v1"] = "study.resumed.v1"
    study_id: Id
    holder: Holder
    delivery: int


class FrontPoint(Frozen):
    """A search trial on the Pareto front."""

    number: int
    hyperparameters: dict[str, Value]
    score: float
    conflict: float
    latency: float


class StudyFinished(Event):
    """The search is over and its champion was weighed."""

    kind: Literal["study.finished.v1"] = "study.finished.v1"
    study_id: Id
    completed: int
    pruned: int = 0
    failed: int
    champion: dict[str, Value] | None
    """The whole set; None: every trial failed."""
    evidence: Evidence | None
    """None: there was no champion to weigh, or no held-out pair of scores."""
    weighed: tuple[Evidence, ...] = ()
    """Of every candidate that was weighed, the champion's too, in their order."""
    front: tuple[FrontPoint, ...] = ()
    """With the objective pareto: the trials that no other beats in everything, by falling score."""
    importances: dict[str, float] = Field(default_factory=dict)
    """Share of the score's variance that each searched key explains among the good trials (PED-ANOVA); sums to 1."""


class StudyStopped(Event):
    """Somebody ended it early; its coordinator stops at the next step."""

    kind: Literal["study.stopped.v1"] = "study.stopped.v1"
    study_id: Id
    by: By
    reason: Reason


class StudyFailed(Event):
    """It cannot go on."""

    kind: Literal["study.failed.v1"] = "study.failed.v1"
    study_id: Id
    error: Reason


StudyCommand = Annotated[StartStudy | StopStudy, Field(discriminator="kind")]
StudyEvent = Annotated[
    StudyStarted | StudyResumed | StudyFinished | StudyStopped | StudyFailed,
    Field(discriminator="kind"),
]
