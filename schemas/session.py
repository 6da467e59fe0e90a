"""An open page of the dashboard."""

from typing import Literal

from tars.schemas.message import Id, Report


class SessionReported(Report):
    """A page is open."""

    kind: Literal["session.reported.v1"] = "session.reported.v1"
    session_id: Id
    page: str
