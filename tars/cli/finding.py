"""What `tars doctor` found out about one thing."""

from typing import Literal

from tars.schemas.message import Frozen

State = Literal["ok", "look", "wrong"]
"""look: it works, and somebody should know; wrong: something will not work until it is mended."""


class Finding(Frozen):
    """One thing that was looked at."""

    about: str
    state: State
    found: str
    todo: str = ""
    """What to do about it; empty: nothing."""


def ok(about: str, found: str) -> Finding:
    """As it should be."""
    return Finding(about=about, state="ok", found=found)


def look(about: str, found: str, todo: str) -> Finding:
    """It works, and somebody should know."""
    return Finding(about=about, state="look", found=found, todo=todo)


def wrong(about: str, found: str, todo: str) -> Finding:
    """It will not work until it is mended."""
    return Finding(about=about, state="wrong", found=found, todo=todo)
