"""Who stands before the page, and what they may: asked afresh at every refresh and at every command."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, Self, TypeVar

from tars.runtime.id_tokens import Rules, barred, claims_of, login_of
from tars.schemas.message import Command, Login, Role
from tars.schemas.trust import lacks_right

OPERATOR_ROLES: Final[frozenset[Role]] = frozenset({"viewer", "proposer", "approver"})


class Speaks(Protocol):
    """A door for commands that can speak for who logged in."""

    def speaking_for(self, login: Login, token: str) -> Self:
        """The same door, for this person."""


S = TypeVar("S", bound=Speaks)


@dataclass(frozen=True)
class Visitor:
    """Whoever has this page open."""

    name: str
    roles: frozenset[Role] = frozenset()
    """Without one they see nothing."""
    why_not: str = ""
    """Why they have no role."""
    login: Login | None = None
    """None: nobody logs in here, so this is the local operator; or nobody has."""
    token: str = ""

    def lacks(self, kind: type[Command]) -> str | None:
        """Why they may not send commands of this kind; None: they may, as far as the page knows."""
        if not self.roles:
            return self.why_not
        needed = lacks_right(kind, self.roles)
        return None if needed is None else f"{self.name} may not: that needs the role {needed}"

    def voice(self, door: S) -> S:
        """The door that commands of this person go through."""
        return door if self.login is None else door.speaking_for(self.login, self.token)


def operator(name: str) -> Visitor:
    """Whoever opens a page at which nobody logs in: they act by its key, and that key's roles count at intake."""
    return Visitor(name, OPERATOR_ROLES)


def visitor(user: Mapping[str, Any], rules: Rules, now: datetime) -> Visitor:
    """Say who logged in, from what Streamlit keeps of them; that it is true is proven at intake, of every command."""
    if not user.get("is_logged_in"):
        return Visitor("", why_not="log in first")
    token = str(user["tokens"]["id"]) if "id" in (user.get("tokens") or ()) else ""
    try:
        login = login_of(token, claims_of(token), rules)
    except ValueError as error:
        return Visitor("", why_not=f"its id token cannot be read: {error}")
    if isinstance(login, str):
        return Visitor("", why_not=login)
    name = login.name or login.subject
    why = barred(login, now, rules)
    return Visitor(name, why_not=why) if why else Visitor(name, frozenset(login.roles), "", login, token)
