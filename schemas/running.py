"""What a live agent runs, folded from its events; a fact that several decisions need."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import assert_never

from tars.schemas.agent import (
    AgentAccepted,
    AgentEvent,
    AgentLost,
    AgentRefused,
    AgentReloaded,
    AgentRestored,
    AgentStarted,
    AgentStopped,
)
from tars.schemas.hyperparameters import AlgorithmName, Value, same


@dataclass(frozen=True)
class RunningAgent:
    """A live agent as its own events tell it."""

    agent_id: str = ""
    run_id: str = ""
    role: str = ""
    algorithm: AlgorithmName | None = None
    world: str | None = None
    values: dict[str, Value] = field(default_factory=dict)
    """The whole set in use, as read back (written as it was asked for, where a 32-bit learner cannot tell)."""
    heard: int = 0
    """Newest ConfigureAgent it has heard: the base of the next one."""
    applied: int = 0
    """The ConfigureAgent whose values it runs; 0: those in its code."""
    alive: bool = False
    """It has started, not said that it stopped, and is not lost."""
    lost: bool = False
    """It fell silent, and has said nothing since."""
    finished: bool = False
    """It stopped because it had nothing more to do."""
    reload: AgentReloaded | None = None
    """Its newest read-back."""
    refusal: AgentRefused | None = None
    """Its newest refusal of a configuration."""
    restored: AgentRestored | None = None
    """The newest snapshot that it went back to."""


def evolve(state: RunningAgent, event: AgentEvent) -> RunningAgent:  # noqa: PLR0911 - one answer for each event
    """The agent after `event`."""
    match event:
        case AgentStarted():
            return replace(
                state,
                agent_id=event.agent_id,
                run_id=event.run_id,
                role=event.role,
                algorithm=event.algorithm,
                world=event.world,
                values=event.values,
                heard=event.heard_version,
                applied=event.applied_version,
                alive=True,
                lost=False,
                finished=False,
            )
        case AgentAccepted():
            return replace(_found(state), heard=max(state.heard, event.version))
        case AgentReloaded():
            heard = max(state.heard, event.version)
            return replace(_found(state), values=in_use(event), applied=event.version, heard=heard, reload=event)
        case AgentRefused():
            return replace(_found(state), heard=max(state.heard, event.version), refusal=event)
        case AgentRestored():
            return replace(_found(state), restored=event)
        case AgentLost():
            return replace(state, alive=False, lost=state.alive or state.lost)
        case AgentStopped():
            return replace(state, alive=False, lost=False, finished=event.cause == "finished")
        case _:
            assert_never(event)


def _found(state: RunningAgent) -> RunningAgent:
    """The agent when it says something: one that was lost only was silent for a while."""
    return replace(state, alive=state.alive or state.lost, lost=False)


def in_use(event: AgentReloaded) -> dict[str, Value]:
    """The whole set that was read back, written as it was asked for where a 32-bit learner cannot tell."""
    asked = event.requested
    return {
        key: asked[key] if key in asked and same(asked[key], value) else value for key, value in event.effective.items()
    }


def replay(events: Iterable[AgentEvent]) -> RunningAgent:
    """Fold an agent's history."""
    return reduce(evolve, events, RunningAgent())
