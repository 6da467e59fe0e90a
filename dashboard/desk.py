"""A session's commands: each sent once, off the page's thread, and what became of it in words."""

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal, Protocol, Self

from tars.dashboard.identity import Visitor, operator
from tars.producers.commands import CommandRefused, NotSent, Outcome, OutcomeUnknown
from tars.schemas.message import Command, Login
from tars.schemas.update import ApproveUpdate, RejectUpdate, RollBackUpdate

WAIT_SECONDS: Final = 1.5
"""A click waits this long for its answer; a later one is shown when it comes."""
SHOWN_SECONDS: Final = 120.0

Verb = Literal["approve", "reject", "roll back"]
Level = Literal["waiting", "done", "refused", "not sent", "unknown"]
DONE: Final[Mapping[Verb, str]] = {"approve": "approved", "reject": "rejected", "roll back": "to be rolled back"}
SENDS: Final[Mapping[Verb, type[Command]]] = {
    "approve": ApproveUpdate, "reject": RejectUpdate, "roll back": RollBackUpdate,
}  # fmt: skip
"""What each verb sends, which says who may."""


class Commands(Protocol):
    """What a page may send; `command_id` is what makes a repetition one command."""

    def speaking_for(self, login: Login, token: str) -> Self:
        """The same, for who logged in."""

    def approve(self, update_id: str, reason: str = "", *, command_id: str | None = None) -> Outcome:
        """Let a pending update through."""

    def reject(self, update_id: str, reason: str = "", *, command_id: str | None = None) -> Outcome:
        """Turn an update down."""

    def roll_back(self, update_id: str, reason: str = "", *, command_id: str | None = None) -> Outcome:
        """Take a released update back."""


@dataclass
class Errand:
    """One command on its way, and back."""

    verb: Verb
    update_id: str
    command_id: str
    future: "Future[Outcome]"
    at: float

    @property
    def level(self) -> Level:
        """How it stands."""
        if not self.future.done():
            return "waiting"
        match self.future.exception():
            case None:
                return "done"
            case CommandRefused():
                return "refused"
            case NotSent():
                return "not sent"
            case OutcomeUnknown():
                return "unknown"
            case error:
                raise error

    @property
    def text(self) -> str:
        """The same in a sentence."""
        error = self.future.exception() if self.future.done() else None
        match self.level:
            case "waiting":
                return f"{self.update_id}: {self.verb} was sent, nobody has answered yet."
            case "done":
                return f"{self.update_id} is {DONE[self.verb]}."
            case "refused":
                return f"{self.update_id}: {self.verb} was refused: {error}."
            case "not sent":
                return f"{self.update_id}: {self.verb} was NOT sent: {error}. Nothing will happen; try again later."
            case "unknown":
                return (
                    f"{self.update_id}: {self.verb}: the outcome is unknown ({error}). "
                    "Sending it again is safe: it counts once."
                )


@dataclass
class Desk:
    """The commands of one session. Kept in the session, so a second click finds the first one's errand."""

    executor: Executor
    open: Callable[[], Commands]
    """Asked at each click, never when a page is drawn: a click runs before the page is drawn again."""
    visitor: Callable[[], Visitor] = lambda: operator("")
    """The same; in the click's own thread, which alone knows whose session it is."""
    errands: dict[str, Errand] = field(default_factory=dict)
    """The newest of each update."""

    def approve(self, update_id: str, reason: str) -> None:
        """Let a pending update through."""
        self._send("approve", update_id, lambda to, name: to.approve(update_id, reason, command_id=name))

    def reject(self, update_id: str, reason: str) -> None:
        """Turn a pending update down."""
        self._send("reject", update_id, lambda to, name: to.reject(update_id, reason, command_id=name))

    def roll_back(self, update_id: str, reason: str) -> None:
        """Take a released update back."""
        self._send("roll back", update_id, lambda to, name: to.roll_back(update_id, reason, command_id=name))

    def _send(self, verb: Verb, update_id: str, send: Callable[[Commands, str], Outcome]) -> None:
        """Send, unless the same was sent and is waiting or done; where its outcome is unknown, under the same id."""
        before = self.errands.get(update_id)
        repeated = before is not None and before.verb == verb
        if before is not None and (before.level == "waiting" or (repeated and before.level == "done")):
            return
        name = before.command_id if before and repeated and before.level == "unknown" else f"c-{secrets.token_hex(8)}"
        person = self.visitor()
        future = (
            self._refused(why)
            if (why := person.lacks(SENDS[verb]))
            else self.executor.submit(lambda: send(person.voice(self.open()), name))
        )
        self.errands[update_id] = Errand(verb, update_id, name, future, monotonic())
        try:
            future.exception(WAIT_SECONDS)
        except TimeoutError:
            return  # the page says that it waits

    @staticmethod
    def _refused(why: str) -> "Future[Outcome]":
        future: Future[Outcome] = Future()
        future.set_exception(CommandRefused(why))
        return future

    def may(self, verb: Verb) -> bool:
        """Whether a button for it is to be offered; asked again when it is clicked."""
        return self.visitor().lacks(SENDS[verb]) is None

    def settled(self, update_id: str, *verbs: Verb) -> bool:
        """Whether one of these commands about this update waits for its answer, or was carried out."""
        errand = self.errands.get(update_id)
        return errand is not None and errand.verb in verbs and errand.level in {"waiting", "done"}

    def news(self) -> list[Errand]:
        """Return what is to be said, the newest first."""
        now = monotonic()
        fresh = [errand for errand in self.errands.values() if now - errand.at < SHOWN_SECONDS]
        return sorted(fresh, key=lambda errand: -errand.at)
