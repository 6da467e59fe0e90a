"""A study: a search for better hyperparameters, and the evidence for its champion."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt, model_validator

from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import AlgorithmName, Value
from tars.schemas.message import By, Command, Event, Holder, Id, Reason
from tars.schemas.trial import TRAINER, Normalize

Sampler = Literal["tpe", "random"]


class StartStudy(Command):
    """Search for values that serve these agents better."""

    kind: Literal["study.start.v1"] = "study.start.v1"
    study_id: Id
    role: str | None = None
    """All live agents of this role of the game; they must run the same values."""
    agents: tuple[Id, ...] = ()
    """Or these; they must share role and values. With neither, `algorithm` is searched from its defaults."""
    algorithm: AlgorithmName | None = None
    """Only without a target."""
    environment: str | None = None
    """Only without a target: a role of the game, or a Gymnasium id; None: the role it learns in the game."""
    score_range: tuple[float, float] | None = None
    """Returns of an episode that count as 0 and 1; needed for a Gymnasium environment, and only there."""
    normalize: tuple[Normalize, ...] = ()
    """What of a Gymnasium environment is brought to a running mean of 0 and deviation of 1."""
    trainer: Annotated[str, Field(pattern=TRAINER)] = "population"
    """population: our engine; sb3: Stable-Baselines3; module:function: what the trainers' setting TRAINERS allows."""
    trials: Annotated[StrictInt, Field(ge=1, le=1000)] = 20
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


class StudyResumed(Event):
    """A coordinator took the study's lease."""

    kind: Literal["study.resumed.v1"] = "study.resumed.v1"
    study_id: Id
    holder: Holder
    delivery: int


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
