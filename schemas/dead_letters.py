"""tars.dead.> -> what was put aside, why, and whether a person may send it again. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from tars.schemas.streams import STREAMS, covers
from tars.schemas.views import DeadRow

LONGEST_BODY: Final = 4000
"""Characters of a body that a list shows."""

WORKERS: Final = "tars.dead.COMMANDS."
"""Where only the workers that decide about commands may write."""

CUT: Final = "it was too large to be put aside whole, and its body is cut"


def row(sequence: int, at: datetime, subject: str, body: bytes, headers: Mapping[str, str]) -> DeadRow:
    """A dead letter for people. `sequence` is its place in the stream DEAD; what its headers lack stays empty."""
    attempts = headers.get("Tars-Dead-Attempts", "")
    original = headers.get("Tars-Dead-Subject") or subject
    return DeadRow(
        at=at,
        sequence=sequence,
        subject=original,
        reason=headers.get("Tars-Dead-Reason") or "unknown",
        error=headers.get("Tars-Dead-Error", ""),
        attempts=int(attempts) if attempts.isdecimal() and attempts.isascii() else 0,
        id=headers.get("Tars-Dead-Id", ""),
        body=body.decode(errors="replace"),
        not_again=CUT if "Tars-Dead-Cut" in headers else _never(subject) or cannot_be_sent_again(original),
    )


def _never(subject: str) -> str | None:
    """Why nothing on this subject of DEAD is sent again, whatever its headers say.

    Whoever hosts an agent puts letters aside too: one that says it was an approval would be signed by who sends it.
    """
    if subject.startswith(WORKERS):
        return None
    return f"it lies on {subject}: only what a worker put aside, on {WORKERS}*, was a command that people send"


def listed(letter: DeadRow) -> DeadRow:
    """The same with no more of its body than a list shows."""
    return letter.model_copy(update={"body": letter.body[:LONGEST_BODY]})


def cannot_be_sent_again(subject: str) -> str | None:
    """Why a person cannot send again what came on `subject`; None: it is a person's command.

    An event happened or not; trials and configurations are sent once, by the process that counts on them.
    """
    if any(covers(pattern, subject) for pattern in STREAMS["COMMANDS"].subjects):
        return None
    return f"{subject} is no command that people send; {' and '.join(STREAMS['COMMANDS'].subjects)} are"
