"""tars.dead.> -> what was put aside, and why. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from tars.schemas.views import DeadRow

LONGEST_BODY: Final = 4000
"""Characters of a body that are shown."""


def row(sequence: int, at: datetime, subject: str, body: bytes, headers: Mapping[str, str]) -> DeadRow:
    """A dead letter for people. `sequence` is its place in the stream DEAD; what its headers lack stays empty."""
    attempts = headers.get("Tars-Dead-Attempts", "")
    return DeadRow(
        at=at,
        sequence=sequence,
        subject=headers.get("Tars-Dead-Subject") or subject,
        reason=headers.get("Tars-Dead-Reason") or "unknown",
        error=headers.get("Tars-Dead-Error", ""),
        attempts=int(attempts) if attempts.isdecimal() and attempts.isascii() else 0,
        body=body.decode(errors="replace")[:LONGEST_BODY],
    )
