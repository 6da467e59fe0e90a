"""A session's commands: each sent once, off the page's thread, and what became of it in words."""

import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Literal, Protocol, Self

from tars.dashboard.identity import Visitor, operator
from tars.producers.commands import CommandRefused, NotSent, Outcome, OutcomeUnknown, well_formed
from tars.schemas.message import Command, Login
from tars.schemas.study import StartStudy, StopStudy
from tars.schemas.update import ApplyUpdate, ApproveUpdate, ProposeUpdate, RejectUpdate, RollBackUpdate

log = logging.getLogger(__name__)

WAIT_SECONDS: Final = 1.5
"""A click waits this long for its answer; a later one is shown when it comes."""
SHOWN_SECONDS: Final = 120.0

Verb = Literal["approve", "reject", "roll back", "apply", "propose", "start", "stop", "replay"]
Level = Literal["waiting", "done", "refused", "not sent", "unknown", "broken"]
DONE: Final[Mapping[Verb, str]] = {
    "approve": "approved", "reject": "rejected", "roll back": "to be rolled back", "propose": "proposed",
    "apply": "released", "start": "started", "stop": "stopped", "replay": "carried out",
}  # fmt: skip
SENDS: Final[Mapping[Verb, type[Command]]] = {
    "approve": ApproveUpdate, "reject": RejectUpdate, "roll back": RollBackUpdate, "apply": ApplyUpdate,
    "propose": ProposeUpdate, "start": StartStudy, "stop": StopStudy,
}  # fmt: skip
"""What each verb sends, which says who may; a replay sends whatever died."""
LEAST: Final[type[Command]] = RejectUpdate
"""Who may not even send this need not try a replay; intake judges the command that died."""


class Commands(Protocol):
    """What a page may send; `command_id` is what makes a repetition one command."""

    def speaking_for(self, login: Login, token: str) -> Self:
        """The same, for who logged in."""

    def send(self, command: Command, *, command_id: str | None = None) -> Outcome:
        """Send a command and wait until it is decided."""

    def replay(self, sequence: int, *, command_id: str | None = None) -> Outcome:
        """Send a dead letter again."""


@dataclass
class Errand:
    """One command on its way, and back."""

    verb: Verb
    about: str
    """What it is about, as people name it: an id, or `dead letter 12`."""
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
            case _:
                return "broken"

    @property
    def text(self) -> str:
        """The same in a sentence."""
        error = self.future.exception() if self.future.done() else None
        match self.level:
            case "waiting":
                return f"{self.about}: {self.verb} was sent, nobody has answered yet."
            case "done":
                return f"{self.about} is {DONE[self.verb]}."
            case "refused":
                return f"{self.about}: {self.verb} was refused: {error}."
            case "not sent":
                return f"{self.about}: {self.verb} was NOT sent: {error}. Nothing will happen; try again later."
            case "unknown":
                return (
                    f"{self.about}: {self.verb}: the outcome is unknown ({error}). "
                    "Sending it again is safe: it counts once."
                )
            case "broken":
                return (
                    f"{self.about}: {self.verb}: the page failed ({type(error).__name__}), and its log says how. "
                    "Whether it was sent is unknown; sending it again is safe: it counts once."
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
    """The newest about each thing."""

    def approve(self, update_id: str, reason: str, *, hold: bool = False) -> None:
        """Let a pending update through; with `hold`, `apply` releases it."""
        self._send("approve", update_id, update_id=update_id, reason=reason, hold=hold)

    def reject(self, update_id: str, reason: str) -> None:
        """Turn a pending update down."""
        self._send("reject", update_id, update_id=update_id, reason=reason)

    def roll_back(self, update_id: str, reason: str, *, what: str | None = None, over_later: bool = False) -> None:
        """Take a released update back; `what` and `over_later` as RollBackUpdate has them."""
        self._send("roll back", update_id, update_id=update_id, reason=reason, what=what, over_later=over_later)

    def apply(self, update_id: str) -> None:
        """Release an update that was approved on hold."""
        self._send("apply", update_id, update_id=update_id)

    def propose(self, update_id: str, **fields: Any) -> None:  # noqa: ANN401 - ProposeUpdate says what each is
        """Propose new values."""
        self._send("propose", update_id, update_id=update_id, **fields)

    def start_study(self, study_id: str, **fields: Any) -> None:  # noqa: ANN401 - StartStudy says what each is
        """Search better values."""
        self._send("start", study_id, study_id=study_id, **fields)

    def stop_study(self, study_id: str, reason: str) -> None:
        """End a study at its next step."""
        self._send("stop", study_id, study_id=study_id, reason=reason)

    def replay(self, sequence: int) -> None:
        """Send a dead letter again."""
        self._do("replay", f"dead letter {sequence}", lambda to, name: to.replay(sequence, command_id=name))

    def _send(self, verb: Verb, about: str, **fields: Any) -> None:  # noqa: ANN401 - the command says what each is
        def send(to: Commands, name: str) -> Outcome:
            with well_formed():
                command = SENDS[verb](**fields)
            return to.send(command, command_id=name)

        self._do(verb, about, send)

    def _do(self, verb: Verb, about: str, send: Callable[[Commands, str], Outcome]) -> None:
        """Send, unless the same was sent and is waiting or done; where its outcome is unknown, under the same id."""
        before = self.errands.get(about)
        repeated = before is not None and before.verb == verb
        if before is not None and (before.level == "waiting" or (repeated and before.level == "done")):
            return
        known = before is not None and repeated and before.level in {"unknown", "broken"}
        name = before.command_id if before and known else f"c-{secrets.token_hex(8)}"
        person = self.visitor()
        why = person.lacks(SENDS.get(verb, LEAST))
        future = self._refused(why) if why else self.executor.submit(self._run, person, send, name)
        self.errands[about] = Errand(verb, about, name, future, monotonic())
        try:
            future.exception(WAIT_SECONDS)
        except TimeoutError:
            return  # the page says that it waits

    @staticmethod
    def _refused(why: str) -> "Future[Outcome]":
        future: Future[Outcome] = Future()
        future.set_exception(CommandRefused(why))
        return future

    def _run(self, person: Visitor, send: Callable[[Commands, str], Outcome], name: str) -> Outcome:
        try:
            return send(person.voice(self.open()), name)
        except (CommandRefused, NotSent, OutcomeUnknown):
            raise
        except Exception:
            log.exception("a command failed in the page", extra={"command_id": name})
            raise

    def may(self, verb: Verb) -> bool:
        """Whether a button for it is to be offered; asked again when it is clicked."""
        return self.visitor().lacks(SENDS.get(verb, LEAST)) is None

    def settled(self, about: str, *verbs: Verb) -> bool:
        """Whether one of these commands about this waits for its answer, or was carried out."""
        errand = self.errands.get(about)
        return errand is not None and errand.verb in verbs and errand.level in {"waiting", "done"}

    def refused(self, about: str) -> bool:
        """Whether the newest command about this was refused."""
        errand = self.errands.get(about)
        return errand is not None and errand.level == "refused"

    def news(self) -> list[Errand]:
        """Return what is to be said, the newest first."""
        now = monotonic()
        fresh = [errand for errand in self.errands.values() if now - errand.at < SHOWN_SECONDS]
        return sorted(fresh, key=lambda errand: -errand.at)
