"""agent.* events and reports -> rows about live agents. Pure."""

from datetime import datetime
from typing import Any, Final, assert_never

from tars.schemas.agent import (
    AgentAccepted,
    AgentBeat,
    AgentEvent,
    AgentLost,
    AgentRefused,
    AgentReloaded,
    AgentReport,
    AgentReported,
    AgentRestored,
    AgentStarted,
    AgentStopped,
)
from tars.schemas.running import in_use
from tars.schemas.views import AgentPoint, AgentRow

MEASURED: Final = frozenset({"episode", "step", "score", "finite", "seen_at"})
"""Fields of an agent's row that come from its reports; the others come from its events."""


def row(event: AgentEvent, before: AgentRow | None, at: datetime) -> AgentRow:
    """The agent's row after `event`: what it runs."""
    known = before or AgentRow(agent_id=event.agent_id)
    change: dict[str, Any]
    match event:
        case AgentStarted():
            change = {
                "role": event.role,
                "algorithm": event.algorithm,
                "world": event.world,
                "run_id": event.run_id,
                "state": "running",
                "values": event.values,
                "heard": event.heard_version,
                "applied": event.applied_version,
            }
        case AgentAccepted() | AgentRefused():
            change = {"state": _found(known), "heard": max(known.heard, event.version)}
        case AgentReloaded():
            change = {
                "state": _found(known),
                "values": in_use(event),
                "heard": max(known.heard, event.version),
                "applied": event.version,
                "reloaded_at": at,
                "reload_milliseconds": event.milliseconds,
            }
        case AgentRestored():
            change = {"state": _found(known), "restored_at": at}
        case AgentLost():
            change = {"state": "lost"}
        case AgentStopped():
            change = {"state": "stopped"}
        case _:
            assert_never(event)
    return known.model_copy(update=change)


def _found(known: AgentRow) -> str:
    """Its state when it says something: one that was lost only was silent for a while."""
    return "running" if known.state == "lost" else known.state


def measured(report: AgentReport, at: datetime) -> AgentRow:
    """What a report says of its agent; only the fields it speaks of are set."""
    match report:
        case AgentReported():
            return AgentRow(
                agent_id=report.agent_id,
                episode=report.episode,
                step=report.step,
                score=None if report.failed else report.score,
                finite=report.finite,
                seen_at=at,
            )
        case AgentBeat():
            return AgentRow(agent_id=report.agent_id, seen_at=at)
        case _:
            assert_never(report)


def point(report: AgentReport, at: datetime) -> AgentPoint | None:
    """An episode of the agent's history; a beat is none, and one that failed has no place on a curve."""
    if not isinstance(report, AgentReported) or report.failed:
        return None
    return AgentPoint(at=at, episode=report.episode, score=report.score, version=report.version)
