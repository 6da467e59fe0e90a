"""What the sync worker would say to a proposal: its own rules, asked before anything is sent. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from tars.schemas.bounds import Strictness
from tars.schemas.hyperparameters import Value
from tars.schemas.running import RunningAgent
from tars.schemas.validation import Proposal, objections
from tars.schemas.views import AgentRow

WAITS: timedelta = timedelta(days=7)
"""How long a proposal waits for its approval."""


def rehearse(
    values: Mapping[str, Value],
    agents: Sequence[str],
    running: Mapping[str, RunningAgent],
    strictness: Strictness,
    now: datetime,
) -> list[str]:
    """Every reason why it would be refused; empty: it would not. `running`: those of `agents` that are known."""
    base = {name: agent.heard for name, agent in running.items()}
    return objections(Proposal(tuple(agents), values, base, None, now + WAITS, now, running, strictness))


def running_agents(rows: Iterable[AgentRow]) -> dict[str, RunningAgent]:
    """Read rows of the query `agents` as what the rules judge."""
    return {
        row.agent_id: RunningAgent(
            agent_id=row.agent_id, run_id=row.run_id, role=row.role, algorithm=row.algorithm, world=row.world,
            values=row.values, heard=row.heard, applied=row.applied, alive=row.state == "running",
        )
        for row in rows
    }  # fmt: skip
