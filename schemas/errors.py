"""Errors by what the bus does next.

TarsError
  Transient   deliver again, after a delay
    Conflict    somebody else appended first: read again, decide again
  Poison      never again: dead letter, with the reason
    UnknownKind, NewerVersion, Malformed
  Refused     no error of the system: answered with its reasons and acknowledged
"""

from typing import Final

from pydantic import ValidationError

PREFIX: Final = "Value error, "
"""Pydantic writes it before what a validator says."""


class TarsError(Exception):
    """Anything TARS raises on purpose."""


class Transient(TarsError):
    """The world was not ready; the same message may succeed later."""


class Conflict(Transient):
    """The version moved between reading and appending."""


class Poison(TarsError):
    """It can never succeed; `reason` is its short name in the dead letter."""

    reason = "rejected"


class UnknownKind(Poison):
    """Nobody here knows this kind of message; `subject` is that of the unknown one."""

    reason = "unknown-kind"

    def __init__(self, told: str, subject: str) -> None:
        super().__init__(told)
        self.subject = subject


class NewerVersion(Poison):
    """The kind is known, but this process is too old for its version; `subject` is that of the newer message."""

    reason = "newer-version"

    def __init__(self, told: str, subject: str) -> None:
        super().__init__(told)
        self.subject = subject


class Malformed(Poison):
    """The body does not have the form its kind demands."""

    reason = "malformed"


class Refused(TarsError):
    """A command that may not be carried out; `reasons` go back to its sender.

    retry_after: the seconds after which the same command may be carried out; None: asking again does not help.
    """

    def __init__(self, *reasons: str, retry_after: float | None = None) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.retry_after = retry_after


def complaints(error: ValidationError) -> list[str]:
    """What is wrong with each field, as `field: what`; with a message as a whole, `what`."""
    return [
        f"{'.'.join(map(str, one['loc']))}: {one['msg'].removeprefix(PREFIX)}".removeprefix(": ")
        for one in error.errors()
    ]
