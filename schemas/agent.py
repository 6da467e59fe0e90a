"""A live agent: what it is told to run, and what it says it runs."""

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from tars.schemas.hyperparameters import AlgorithmName, Moment, Value
from tars.schemas.message import By, Command, Event, Id, Reason, Report, Signed
from tars.schemas.slots import FAILED
from tars.schemas.snapshot import SnapshotRef


class ConfigureAgent(Command):
    """Run these values. Its version is its sequence in the stream AGENTS; an older one than heard is ignored."""

    kind: Literal["agent.configure.v1"] = "agent.configure.v1"
    agent_id: Id
    update_id: Id
    purpose: Literal["update", "rollback"]
    base: StrictInt
    """The version it follows; it was published with this as the expected sequence."""
    values: Annotated[dict[str, Value], Field(min_length=1)]
    """The whole set, never a difference."""
    by: By
    snapshot_first: bool = False
    """Take a snapshot at the boundary where these values come into use, before they do."""
    restore: SnapshotRef | None = None
    """On the way back: load this at the boundary, before the values come into use."""
    twin: StrictInt = 0
    """For so many episodes a copy of the agent and its world, `<agent>-twin`, goes on beside it with the old values."""
    content: Annotated[str, Field(max_length=200_000)] | None = None
    """What was approved, as the canonical JSON of a Content; the agent checks the values against it."""
    approval: Signed | None = None
    """The signed approval of that content; None: nobody signed one, or this is the way back."""


class AgentStarted(Event):
    """An agent runs (again), with these values."""

    kind: Literal["agent.started.v1"] = "agent.started.v1"
    agent_id: Id
    run_id: Id
    """New at every start; that of before when it was lost, lives on and says so."""
    role: str
    algorithm: AlgorithmName | None
    """None: it follows a reference policy, and has nothing to reload."""
    world: Id | None
    """The hosted world it plays in; None: somebody else's."""
    values: dict[str, Value]
    heard_version: int
    """Newest ConfigureAgent it knows of; 0: none yet."""
    applied_version: int
    """The one whose values it runs; 0: the values in its code."""


class AgentAccepted(Event):
    """It heard a newer configuration and will apply it."""

    kind: Literal["agent.accepted.v1"] = "agent.accepted.v1"
    agent_id: Id
    version: int
    update_id: Id
    applies: Moment
    """When: the latest of its changed keys."""


class AgentReloaded(Event):
    """The new values are in use, read back from where the learner uses them."""

    kind: Literal["agent.reloaded.v1"] = "agent.reloaded.v1"
    agent_id: Id
    version: int
    update_id: Id
    requested: dict[str, Value]
    effective: dict[str, Value]
    step: int
    """Gradient steps done when it took effect."""
    weights_before: str
    """sha256 of the parameters, in hex."""
    weights_after: str
    buffer_before: int
    """Transitions in the replay buffer."""
    buffer_after: int
    milliseconds: float
    """From hearing the configuration to reading it back."""
    snapshot: SnapshotRef | None = None
    """Of what it was before these values, where it was asked for one; its parameters are `weights_before`."""
    twin: bool = False
    """A twin goes on with the old values."""


class AgentRefused(Event):
    """It heard a configuration that it will not run."""

    kind: Literal["agent.refused.v1"] = "agent.refused.v1"
    agent_id: Id
    version: int
    update_id: Id
    reasons: tuple[str, ...]


class AgentRestored(Event):
    """It is again what it was at a snapshot: parameters, optimisers and counters."""

    kind: Literal["agent.restored.v1"] = "agent.restored.v1"
    agent_id: Id
    version: int
    """The configuration that asked for it; 0: nobody did, it goes on from there after a restart."""
    update_id: Id | None
    snapshot: SnapshotRef
    weights: str
    """sha256 of the parameters, in hex, after loading."""


class AgentLost(Event):
    """It has been silent for three beats; written by the rollout that waits for it. Until it says something again."""

    kind: Literal["agent.lost.v1"] = "agent.lost.v1"
    agent_id: Id
    run_id: Id
    update_id: Id
    seconds: float
    """Since it was last heard."""


class AgentStopped(Event):
    """It ended, and says so."""

    kind: Literal["agent.stopped.v1"] = "agent.stopped.v1"
    agent_id: Id
    run_id: Id
    cause: Literal["finished", "signal", "error"]
    detail: Reason = ""


class AgentReported(Report):
    """An episode: 32 steps in 16 environments for a hosted agent."""

    kind: Literal["agent.reported.v1"] = "agent.reported.v1"
    agent_id: Id
    run_id: Id
    episode: int
    step: int
    """Gradient steps done."""
    score: float
    """Behaviour return, normalised; for a foreign agent its episode return."""
    version: int
    """The configuration it ran."""
    finite: bool = True
    """No parameter of the learner is NaN or infinite. A diverged one may still report ordinary scores."""
    twin: bool = False
    """`agent_id` is `<agent>-twin`: a copy that goes on beside the agent, to be compared with."""
    failed: bool = False
    """Its return was NaN or infinite: `score` is 0 then, and says nothing."""

    @property
    def value(self) -> float:
        """What a watch counts."""
        return FAILED if self.failed else self.score


class AgentBeat(Report):
    """It lives. Sent every 5 seconds, also while an episode lasts longer."""

    kind: Literal["agent.beat.v1"] = "agent.beat.v1"
    agent_id: Id
    run_id: Id
    episode: int


AgentEvent = Annotated[
    AgentStarted | AgentAccepted | AgentReloaded | AgentRefused | AgentRestored | AgentLost | AgentStopped,
    Field(discriminator="kind"),
]
AgentCommand = ConfigureAgent
AgentReport = Annotated[AgentReported | AgentBeat, Field(discriminator="kind")]
