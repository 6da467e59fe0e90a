"""The asynchronous door for scripts: send commands, wait for outcomes, ask queries."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

from nats.aio.msg import Msg
from nats.errors import ConnectionClosedError, NoRespondersError, OutboundBufferLimitError
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError

from tars.producers.commands import (
    CommandRefused,
    NotSent,
    Outcome,
    OutcomeUnknown,
    endorsing,
    nats_address,
    seconds_left,
    sender,
    with_deadline,
)
from tars.producers.replay import Replay, letter_of, replay_of
from tars.runtime.access import access_of
from tars.runtime.bell import Bell
from tars.runtime.bus import Bus, TooLarge, connect_bus, fresh_id
from tars.runtime.journal import History, Journal, sequence_of
from tars.runtime.refusals import NotPermitted
from tars.runtime.settings import Settings, load_settings
from tars.runtime.signing import Gateway, Signer, signer_of
from tars.runtime.telemetry import sending
from tars.schemas.errors import Poison, TarsError, Transient
from tars.schemas.message import Answer, By, Command, Event, Login, Report
from tars.schemas.queries import Ask, Reply, query_subject, rows_of
from tars.schemas.streams import history_subject
from tars.schemas.update import ApproveUpdate, UpdateProposed
from tars.schemas.views import DeadRow

log = logging.getLogger(__name__)

Role = Literal["person", "dashboard"]
PATIENCE: Final = 3.0
"""Seconds to wait for a first connection."""
ANSWER_SECONDS: Final = 20.0
"""Seconds to wait for a command's outcome."""
QUERY_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 0.2
NOT_STORED: Final[dict[type[Exception], str]] = {
    OutboundBufferLimitError: "NATS is away",
    ConnectionClosedError: "NATS is away",
    NoStreamResponseError: "the server has no stream for it: run `tars provision`",
    APIError: "the server would not store it",
}
"""After these the server does not have the message, and nothing here keeps it to send it later."""
ELECTION_SECONDS: Final = 10.0
"""A stream on several servers has no leader for some seconds after that one died: meanwhile nothing is stored."""
LOOK_SECONDS: Final = 1.0
"""A reply can be lost: the ledger is asked this often."""


class NobodyAnswers(TarsError):
    """No consumers process answers queries."""


class AsyncClient:
    """A connection of a script. Use `async with AsyncClient.connect() as client`."""

    def __init__(self, bus: Bus, by: By, role: Role = "person") -> None:
        self.bus, self.by = bus, by
        self.journal = Journal(bus)
        self.role = role
        self.name = f"{role}.{fresh_id('client')}"
        """Where answers to its commands go, below `tars.reply.`: what its role may hear."""
        self._one_at_a_time: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # while somebody sends

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        nats_url: str | None = None,
        *,
        user: str | None = None,
        key: Path | None = None,
        role: Role = "person",
    ) -> "AsyncIterator[AsyncClient]":
        """Connect to `nats_url`, else as the settings say; raises Unreachable when no server answers.

        key: the file that signs commands; unset: that of `user` or the operator in the data folder, where there is one.
        role: what it is to a secured server.
        """
        settings = load_settings()
        signer = signer_of(settings, user, key)
        by = By(principal=signer.name) if signer else By(principal=user) if user else sender(settings)
        url, access = nats_url or nats_address(settings), access_of(settings, role)
        bus = await connect_bus(url, "client", access=access, patience=PATIENCE)
        try:
            bus.signer = signer
            yield cls(bus, by, role)
        finally:
            await bus.close()

    def speaking_for(self, login: Login, token: str) -> "AsyncClient":
        """Return the same connection, with this page's key speaking for who logged in; raises NotSent without a key."""
        if not isinstance(self.bus.signer, Signer):
            raise NotSent("nothing is sent for who logged in: this page has no key to sign with")
        bus = Bus(self.bus.client, self.bus.source)
        bus.signer = Gateway(self.bus.signer, login, token)
        other = AsyncClient(bus, By(principal=login.principal), self.role)
        other._one_at_a_time = self._one_at_a_time
        return other

    @staticmethod
    def settings() -> Settings:
        """What the environment says."""
        return load_settings()

    async def send(self, command: Command, *, command_id: str | None = None) -> Outcome:
        """Send a command and wait until it is decided; commands about the same id go one after the other.

        Raises CommandRefused with every reason, NotSent when nothing will happen, OutcomeUnknown when nobody
        answers in time: the same `command_id` may then be sent again, and counts once.
        """
        async with self._turn(command):
            with sending(command.kind):
                return await self._send(await self._complete(command), command_id or fresh_id("c"))

    async def replay(self, sequence: int, *, command_id: str | None = None) -> Outcome:
        """Send a dead letter's bytes again to their subject, in one's own name, and wait until it is decided.

        `sequence`: its place in the stream DEAD. Only a deadline that has passed is renewed. Raises as `send`.
        """
        command = replay_of(await self._dead_letter(sequence), datetime.now(UTC))
        async with self._turn(command):
            with sending(command.kind):
                return await self._send(command, command_id or fresh_id(f"replay-{sequence}"))

    async def dead_letter(self, sequence: int) -> DeadRow:
        """Read one message that was put aside, whole, from the stream itself; raises CommandRefused, NotSent."""
        return letter_of(await self._dead_letter(sequence))

    async def _dead_letter(self, sequence: int) -> Msg:
        try:
            found = await self.journal.page("DEAD", sequence, 1)
        except Transient as error:
            raise NotSent("nothing was sent: NATS is away, so the dead letter cannot be read") from error
        if not found or sequence_of(found[0]) != sequence:
            raise CommandRefused(f"there is no dead letter {sequence}: `tars dead list` shows those of 30 days")
        return found[0]

    def _turn(self, command: Command | Replay) -> asyncio.Lock:
        """Commands about one id wait for each other."""
        return self._one_at_a_time.setdefault(f"{command.noun}.{command.key}", asyncio.Lock())

    async def _complete(self, command: Command) -> Command:
        """A deadline; and an approval that is signed names the content it approves, as the ledger has it."""
        if isinstance(command, ApproveUpdate) and self.bus.signer is not None:
            try:
                history: History[Event] = await self.journal.read("update", command.update_id)
            except Transient as error:
                raise NotSent(f"{command.kind} was not sent: NATS is away, so what it approves is not known") from error
            proposed = next((event for event in history.events if isinstance(event, UpdateProposed)), None)
            command = endorsing(command, proposed) if proposed else command
        return with_deadline(command)

    async def _send(self, command: Command | Replay, command_id: str) -> Outcome:
        reply = f"tars.reply.{self.name}.{command_id}"
        answers: asyncio.Queue[Answer] = asyncio.Queue()

        async def hear(message: Any) -> None:  # noqa: ANN401 - nats-py's callback
            answers.put_nowait(Answer.model_validate_json(message.data))

        try:
            subscription = await self.bus.client.subscribe(reply, cb=hear)
        except (NatsError, OSError) as error:
            raise NotSent(f"{command.kind} was not sent: NATS is away ({type(error).__name__})") from error
        try:
            await self._publish(command, command_id, reply)
            return await self._outcome(command, command_id, answers)
        finally:
            if self.bus.client.is_connected:
                await subscription.unsubscribe()

    async def _publish(self, command: Command | Replay, command_id: str, reply: str) -> None:
        """Store the command; where that was not acknowledged, again under the same id until its deadline."""
        unknown, began = False, asyncio.get_running_loop().time()
        while True:
            try:
                if isinstance(command, Replay):
                    await self.bus.resend(command.subject, command.body, id=command_id, by=self.by, reply=reply)
                else:
                    await self.bus.publish(command, id=command_id, by=self.by, reply=reply)
            except (NatsError, OSError, Transient, TooLarge) as error:
                why, over = _not_stored(error), seconds_left(command.deadline) <= 0
                electing = _has_no_leader(error) and asyncio.get_running_loop().time() < began + ELECTION_SECONDS
                if why and not unknown and (over or not electing):
                    raise NotSent(f"{command.kind} {command.key} was not sent: {why}") from error
                unknown = unknown or not why
                if over:
                    raise OutcomeUnknown(
                        f"{command.kind} {command.key}: not acknowledged until its deadline; it may have been stored "
                        "before, and is then carried out or refused",
                        command_id,
                    ) from error
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _outcome(self, command: Command | Replay, command_id: str, answers: asyncio.Queue[Answer]) -> Outcome:
        """Wait for the answer, and look into the ledger meanwhile: a lost reply costs nothing."""
        end = asyncio.get_running_loop().time() + ANSWER_SECONDS
        while asyncio.get_running_loop().time() < end:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    return _outcome_of(await answers.get())
            except TimeoutError:
                if found := await self._found(command, command_id):
                    return _outcome_of(found)
        raise OutcomeUnknown(
            f"{command.kind} {command.key}: nobody answered in {ANSWER_SECONDS:.0f} s; does its worker run? "
            "It may still be carried out until its deadline",
            command_id,
        )

    async def _found(self, command: Command | Replay, command_id: str) -> Answer | None:
        try:
            history: History[Event] = await self.journal.read(command.noun, command.key)
        except Transient:
            return None  # NATS is away: look again
        except Poison:  # a newer release wrote to it: its workers answer, and only their words can be understood here
            return await self._put_aside(command_id)
        events = history.caused_by(command_id)
        return Answer.from_events(command_id, events) if events else await self._put_aside(command_id)

    async def _put_aside(self, command_id: str) -> Answer | None:
        """Why it was put aside: nobody will answer it; None: it was not, or nobody knows yet."""
        try:
            letters: list[DeadRow] = await self.query("dead")
        except NobodyAnswers:
            return None
        found = next((letter for letter in letters if letter.id == command_id), None)
        if found is None:
            return None
        why = f"nobody could handle it: {found.reason}: {found.error}; it is dead letter {found.sequence}"
        return Answer(command_id=command_id, done=False, reasons=(why,))

    async def follow(self, noun: str, key: str, is_last: Callable[[Event], bool]) -> AsyncGenerator[Event, None]:
        """Yield the events of one id, from the first, up to one that is the last."""
        history: History[Event] = History(noun, key)
        async with Bell.on(self.bus, history_subject(noun, key)) as bell:
            while True:
                bell.clear()
                new = await self._newer(history)
                history = history.extended(new)
                for event in new.events:
                    yield event
                    if is_last(event):
                        return
                await bell.wait(LOOK_SECONDS)

    async def _newer(self, history: History[Event]) -> History[Event]:
        """What was appended since; nothing while NATS is away: whoever follows looks again."""
        try:
            return await self.journal.read(history.noun, history.key, after=history.version)
        except Transient as error:
            log.debug("cannot follow now", extra={"key": history.key, "error": str(error)})
            return History(history.noun, history.key)

    async def query(self, name: str, ask: Ask | None = None) -> list[Any]:
        """Ask the consumers; the rows are of the query's model. Raises NobodyAnswers."""
        question = (ask or Ask()).model_dump_json().encode()
        try:
            message = await self.bus.client.request(query_subject(name), question, timeout=QUERY_SECONDS)
        except (NoRespondersError, TimeoutError) as error:
            raise NobodyAnswers(
                f"nobody answers the query {name}: start the consumers (`tars run consumers`)"
            ) from error
        except NotPermitted as error:
            raise NobodyAnswers(f"the query {name} was not sent: {error}") from error
        except (NatsError, OSError) as error:
            raise NobodyAnswers(f"the query {name} was not sent: NATS is away ({type(error).__name__})") from error
        reply = Reply.model_validate_json(message.data)
        if reply.error is not None:
            raise NobodyAnswers(f"the query {name} failed: {reply.error}")
        return rows_of(name, reply)

    async def report(self, report: Report) -> None:
        """Send a measurement, without waiting."""
        await self.bus.report(report)


def _not_stored(error: Exception) -> str | None:
    """Why the server cannot have the message; None: it may have it."""
    if isinstance(error, NotPermitted | TooLarge):
        return str(error)
    cause = error.__cause__ if isinstance(error, Transient) else error
    why = next((why for kind, why in NOT_STORED.items() if isinstance(cause, kind)), None)
    return f"{why} ({cause.description})" if why and isinstance(cause, APIError) and cause.description else why


def _has_no_leader(error: Exception) -> bool:
    """The stream has no leader now, or there is no such stream."""
    return isinstance(error.__cause__ if isinstance(error, Transient) else error, NoStreamResponseError)


def _outcome_of(answer: Answer) -> Outcome:
    if not answer.done:
        raise CommandRefused(*answer.reasons, retry_after=answer.retry_after)
    return Outcome(answer.command_id, answer.events)
