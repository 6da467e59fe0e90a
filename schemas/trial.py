"""A trial: one set of hyperparameters trained once, from one seed."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from tars.schemas.hyperparameters import AlgorithmName, Value
from tars.schemas.message import Command, Event, Frozen, Holder, Id, Report
from tars.schemas.snapshot import SnapshotRef

TrialNumber = Annotated[StrictInt, Field(ge=0, lt=1_000_000)]
Phase = Literal["search", "confirmation", "ablation"]
"""search: on seeds of the search; confirmation: on held-out seeds; ablation: there too, one key put back."""
Normalize = Literal["observations", "rewards"]
"""What of an environment can be brought to a running mean of 0 and deviation of 1."""
FAILED_SCORE = -1000.0
TRAINER = r"^(population|sb3|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"


class TrialMessage(Frozen):
    """Anything about a trial; its key is `<study>.<number>`."""

    study_id: Id
    number: TrialNumber

    @property
    def key(self) -> str:
        """Two tokens: whose trial, and which."""
        return f"{self.study_id}.{self.number}"


class RunTrial(TrialMessage, Command):
    """Train these values once and score what was learnt. Written once for ever, so it has no deadline."""

    kind: Literal["trial.run.v1"] = "trial.run.v1"
    phase: Phase
    algorithm: AlgorithmName
    environment: str
    """A role of the coordination game, or the id of a Gymnasium environment."""
    score_range: tuple[float, float] | None = None
    """Returns of an episode that count as 0 and 1; None: the game's own scale, elsewhere the return itself."""
    normalize: tuple[Normalize, ...] = ()
    """What is brought to a running mean of 0 and deviation of 1; not for the game."""
    trainer: Annotated[str, Field(pattern=TRAINER)] = "population"
    """population: our engine; sb3: Stable-Baselines3; module:function: anything that trainers are allowed to call."""
    rungs: tuple[Annotated[StrictInt, Field(ge=1)], ...] = ()
    """Training episodes after which a trial that is behind the others of its population is pruned."""
    hyperparameters: dict[str, Value]
    """The whole set."""
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)]
    train_episodes: Annotated[StrictInt, Field(ge=1)]
    """Each 32 steps in 16 environments."""
    eval_episodes: Annotated[StrictInt, Field(ge=1)]
    training: Literal["real", "surrogate"] = "real"
    snapshot: SnapshotRef | None = None
    """Where it starts: it goes on from there, with these values and chance of its own. None: from fresh weights."""


class TrialCompleted(TrialMessage, Event):
    """It was trained to its end and scored."""

    kind: Literal["trial.completed.v1"] = "trial.completed.v1"
    score: float
    """Mean of the greedy evaluation episodes, normalised: 0 the best constant action, 1 the best response.

    From a snapshot: of all episodes of the training itself, exploration included, as a watch would count them.
    """
    exact_score: float | None = None
    """Of the greedy policy by dynamic programming, where the environment is finite; never used to choose."""
    conflict: float | None = None
    """Conflicts a step in the evaluation episodes; None: the environment has none."""
    latency: float | None = None
    """Latency a step in the evaluation episodes, 1 for a full backlog; None: the environment has none."""
    cpu_seconds: float
    """Its share of the population's processor time."""
    holder: Holder


class TrialFailed(TrialMessage, Event):
    """It could not be trained or diverged; the study goes on."""

    kind: Literal["trial.failed.v1"] = "trial.failed.v1"
    score: float = FAILED_SCORE
    error: Annotated[str, Field(max_length=1000)]
    """The last line of what went wrong."""
    holder: Holder


class TrialPruned(TrialMessage, Event):
    """It was behind the others at a rung, and was ended there; the study goes on."""

    kind: Literal["trial.pruned.v1"] = "trial.pruned.v1"
    score: float
    """Behaviour score at the rung, normalised."""
    episode: int
    """The rung: how many episodes it trained."""
    cpu_seconds: float
    holder: Holder


class TrialReported(TrialMessage, Report):
    """How far a running trial has come."""

    kind: Literal["trial.reported.v1"] = "trial.reported.v1"
    episode: int
    score: float
    """Behaviour return of that episode, normalised."""


TrialCommand = RunTrial
TrialEvent = Annotated[TrialCompleted | TrialPruned | TrialFailed, Field(discriminator="kind")]
