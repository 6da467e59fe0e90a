"""Questions that the consumers answer by request and reply: `tars.query.<name>.v1`."""

from typing import Annotated, Any, Final

from pydantic import Field, StrictInt

from tars.schemas.message import Frozen
from tars.schemas.views import (
    AgentPoint,
    AgentRow,
    ConflictRow,
    DeadRow,
    EquilibriumRow,
    PipelineRow,
    StatsRow,
    StudyRow,
    TrialRow,
    UpdateRow,
)

QUERIES: Final[dict[str, Any]] = {
    "agents": AgentRow,
    "history": AgentPoint,
    "pending": UpdateRow,
    "update": UpdateRow,
    "updates": UpdateRow,
    "study": StudyRow,
    "studies": StudyRow,
    "trials": TrialRow,
    "conflicts": ConflictRow,
    "equilibria": EquilibriumRow,
    "pipeline": PipelineRow,
    "dead": DeadRow,
    "stats": StatsRow,
}
"""Every query, and the model of its rows."""
WITH_ID: Final = frozenset({"history", "update", "study", "trials"})
"""Queries about one id; the others list."""


class Ask(Frozen):
    """What a query is asked with."""

    id: Annotated[str, Field(max_length=64)] | None = None
    """The agent of `history`, the update of `update`, the study of `study` and `trials`."""
    offset: Annotated[StrictInt, Field(ge=0)] = 0
    """Rows to leave out, newest first: for paging."""
    limit: Annotated[StrictInt, Field(ge=1, le=1000)] = 100


class Reply(Frozen):
    """Rows, newest first, or why there are none."""

    rows: tuple[dict[str, Any], ...] = ()
    error: str | None = None


def query_subject(name: str) -> str:
    """Where a query is asked, e.g. `tars.query.agents.v1`."""
    return f"tars.query.{name}.v1"


def rows_of(name: str, reply: Reply) -> list[Any]:
    """Read a reply's rows as the models of the query."""
    model = QUERIES[name]
    return [model.model_validate(row) for row in reply.rows]
