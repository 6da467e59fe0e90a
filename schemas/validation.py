"""May this update go live? Each rule answers with why not, in words a person can act on; all are asked at once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from tars.schemas import bounds
from tars.schemas.bounds import Strictness
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import ALGORITHMS, Value, Values, all_same, same
from tars.schemas.running import RunningAgent

Agents = Mapping[str, RunningAgent]


@dataclass(frozen=True)
class Proposal:
    """What is to be judged."""

    agents: tuple[str, ...]
    values: Mapping[str, Value]
    base: Mapping[str, int]
    evidence: Evidence | None
    expires_at: datetime
    time: datetime
    """When it was sent, by the server's clock."""
    running: Agents
    """Its agents, as their own events tell; one that never started is not in it."""
    strictness: Strictness


Rule = Callable[[Proposal], list[str]]


def names_agents_that_run(proposal: Proposal) -> list[str]:
    """Only an agent that lives can be reloaded, and only one that learns has hyperparameters."""
    return [text for name in proposal.agents if (text := _cannot_reload(name, proposal.running.get(name)))]


def keeps_to_one_algorithm(proposal: Proposal) -> list[str]:
    """The same key means different things to different algorithms."""
    found = {a.algorithm for name in proposal.agents if (a := proposal.running.get(name)) and a.algorithm}
    return [f"its agents learn by {' and '.join(sorted(found))}: propose one update for each"] if len(found) > 1 else []


def was_made_for_what_runs(proposal: Proposal) -> list[str]:
    """Evidence against old values says nothing about the new ones."""
    if set(proposal.base) != set(proposal.agents):
        return ["its base must give a version for each of its agents, and for no other"] * (
            set(proposal.agents) <= set(proposal.running)
        )
    return moved(proposal.base, proposal.running)


def changes_something(proposal: Proposal) -> list[str]:
    """A reload to what already runs would be history without a change."""
    known = [proposal.running[name] for name in proposal.agents if name in proposal.running]
    unchanged = known and all(
        key in agent.values and same(agent.values[key], value)
        for agent in known
        for key, value in proposal.values.items()
    )
    return ["its agents already run these values"] if unchanged else []


def stays_in_bounds(proposal: Proposal) -> list[str]:
    """Types, bounds of what changes, and the invariants of the whole set, for each agent; equal reasons once."""
    found: dict[str, list[str]] = {}
    learners = [name for name in proposal.agents if name in proposal.running and proposal.running[name].algorithm]
    for name in learners:
        agent = proposal.running[name]
        algorithm = ALGORITHMS[agent.algorithm or ""]
        environments = bounds.PARALLEL if agent.world else None  # how many a foreign one has, it alone knows
        for text in bounds.objections(algorithm, proposal.values, agent.values, proposal.strictness, environments):
            found.setdefault(text, []).append(name)
    return [text if names == learners else f"{', '.join(names)}: {text}" for text, names in found.items()]


def keeps_learning(proposal: Proposal) -> list[str]:
    """A learner whose learning_starts is raised past its steps returns to random actions and stops training."""
    new = proposal.values.get("learning_starts")
    raised = [
        name
        for name in proposal.agents
        if name in proposal.running
        and new is not None
        and new > (proposal.running[name].values.get("learning_starts") or 0)
    ]
    return [f"learning_starts = {new} is raised on a running agent: {', '.join(raised)}"] if raised else []


def leaves_time_to_approve(proposal: Proposal) -> list[str]:
    """An update that is born expired can never be approved."""
    if proposal.expires_at > proposal.time:
        return []
    return [f"it expires at {proposal.expires_at:%Y-%m-%d %H:%M} UTC, before it was proposed"]


def is_what_was_weighed(proposal: Proposal) -> list[str]:
    """Evidence counts only for the values, and the algorithm, it was found with."""
    evidence = proposal.evidence
    if evidence is None:
        return []
    other = [key for key, value in proposal.values.items() if not same(evidence.candidate.get(key), value)]
    found = {a.algorithm for name in proposal.agents if (a := proposal.running.get(name))}
    strange = [f"its evidence is about {evidence.algorithm}"] if found - {evidence.algorithm, None} else []
    return strange + ([f"its evidence is about other values of {', '.join(other)}"] if other else [])


RULES: tuple[Rule, ...] = (
    names_agents_that_run,
    keeps_to_one_algorithm,
    was_made_for_what_runs,
    changes_something,
    stays_in_bounds,
    keeps_learning,
    leaves_time_to_approve,
    is_what_was_weighed,
)


def objections(proposal: Proposal) -> list[str]:
    """Every reason why `proposal` must not go live; empty means it may."""
    return [text for rule in RULES for text in rule(proposal)]


def moved(base: Mapping[str, int], agents: Agents) -> list[str]:
    """Which agents have heard of another configuration since."""
    reasons = []
    for name, version in base.items():
        agent = agents.get(name)
        if agent is not None and agent.heard != version:
            reasons.append(f"{name} has moved on: it is at version {agent.heard}, this was made for {version}")
    return reasons


def changed(before: Mapping[str, Values], agents: Agents) -> list[str]:
    """Which agents run other values than those that `before` gives, at whatever version: their code was changed."""
    return [
        f"{name} runs other values than when this was proposed"
        for name, values in before.items()
        if name in agents and not all_same(values, agents[name].values)
    ]


def _cannot_reload(name: str, agent: RunningAgent | None) -> str | None:
    if agent is None:
        return f"there is no agent {name}"
    if not agent.alive:
        return f"{name} does not run"
    return None if agent.algorithm else f"{name} follows a reference policy: it has no hyperparameters"
