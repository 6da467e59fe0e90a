"""A session's commands: sent once, and never said to be what they are not."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self, get_args

import pytest

from tars.dashboard import desk as module
from tars.dashboard.desk import SENDS, Desk, Verb
from tars.dashboard.identity import Visitor
from tars.producers.commands import CommandRefused, NotSent, Outcome, OutcomeUnknown
from tars.schemas.message import Command, Login


@dataclass
class Worker:
    """The far end: answers as it is told, and remembers what came."""

    answer: Callable[[], None] = lambda: None
    heard: list[tuple[str, str, str, str | None]] = field(default_factory=list)

    def send(self, command: Command, *, command_id: str | None = None) -> Outcome:
        verb, _ = command.kind.removeprefix("update.").rsplit(".", 1)
        return self._take(verb, command.key, getattr(command, "reason", ""), command_id)

    def replay(self, sequence: int, *, command_id: str | None = None) -> Outcome:
        return self._take("replay", str(sequence), "", command_id)

    def _take(self, verb: str, about: str, reason: str, command_id: str | None) -> Outcome:
        self.heard.append((verb, about, reason, command_id))
        self.answer()
        return Outcome(command_id or "")

    def speaking_for(self, login: Login, token: str) -> Self:
        return self

    def fails_with(self, error: Exception) -> None:
        def answer() -> None:
            raise error

        self.answer = answer


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def desk(worker: Worker) -> Iterator[Desk]:
    with ThreadPoolExecutor(4) as executor:
        yield Desk(executor, lambda: worker)


def test_what_waits_for_its_answer_is_not_sent_again(
    desk: Desk, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    decided = threading.Event()

    def answer() -> None:
        decided.wait(10)

    worker.answer = answer
    desk.approve("u-1", "yes")
    desk.approve("u-1", "yes")
    desk.reject("u-1", "no, wait")
    assert desk.news()[0].text == "u-1: approve was sent, nobody has answered yet."
    decided.set()
    desk.news()[0].future.result(10)
    assert [command[:3] for command in worker.heard] == [("approve", "u-1", "yes")]


def test_what_was_done_is_not_done_again(desk: Desk, worker: Worker) -> None:
    desk.approve("u-1", "yes")
    desk.approve("u-1", "yes")
    assert len(worker.heard) == 1
    assert desk.settled("u-1", "approve", "reject")
    assert not desk.settled("u-1", "roll back")


def test_an_unknown_outcome_is_asked_again_under_the_same_id(desk: Desk, worker: Worker) -> None:
    worker.fails_with(OutcomeUnknown("nobody answered"))
    desk.approve("u-1", "")
    assert "the outcome is unknown" in desk.news()[0].text
    worker.answer = lambda: None
    desk.approve("u-1", "")
    assert desk.news()[0].text == "u-1 is approved."
    first, second = worker.heard
    assert first[3] == second[3]


def test_what_was_refused_or_not_sent_may_be_tried_again_under_a_new_id(desk: Desk, worker: Worker) -> None:
    worker.fails_with(NotSent("NATS is away"))
    desk.roll_back("u-1", "")
    assert "roll back was NOT sent" in desk.news()[0].text
    worker.fails_with(CommandRefused("update is rejected", "it came after its deadline"))
    desk.roll_back("u-1", "")
    assert "was refused: update is rejected; it came after its deadline" in desk.news()[0].text
    assert len({command[3] for command in worker.heard}) == 2


def test_the_page_knows_who_may_send_each_of_its_commands() -> None:
    assert {*SENDS, "replay"} == set(get_args(Verb))


def test_who_may_only_look_sends_nothing_and_an_approver_may_replay(desk: Desk, worker: Worker) -> None:
    desk.visitor = lambda: Visitor("vic", frozenset({"viewer"}))
    desk.approve("u-1", "")
    desk.replay(12)
    assert worker.heard == []
    assert "approve was refused: vic may not: that needs the role approver" in desk.news()[1].text
    assert [verb for verb in get_args(Verb) if desk.may(verb)] == []
    desk.visitor = lambda: Visitor("bo", frozenset({"viewer", "approver"}))
    assert desk.may("replay")


def test_a_mistake_of_ours_is_not_taken_for_an_answer(
    desk: Desk, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    worker.fails_with(ZeroDivisionError("ours"))
    desk.approve("u-1", "")
    assert "the page failed (ZeroDivisionError)" in desk.news()[0].text
    assert "ZeroDivisionError: ours" in caplog.text
    worker.answer = lambda: None
    desk.approve("u-1", "")
    first, second = worker.heard
    assert first[3] == second[3]


def test_what_fits_into_no_message_is_refused_with_every_reason(desk: Desk, worker: Worker) -> None:
    desk.start_study("s-1", role="policy", algorithm="dqn", trials=1)
    desk.propose("u-1", agents=(), values={})
    assert "s-1: start was refused: name exactly one of role" in desk.news()[1].text
    assert "agents: Tuple should have at least 1 item" in desk.news()[0].text
    assert "values: Dictionary should have at least 1 item" in desk.news()[0].text
    assert worker.heard == []


def test_a_dead_letter_is_sent_again_once(desk: Desk, worker: Worker) -> None:
    desk.replay(12)
    desk.replay(12)
    assert desk.news()[0].text == "dead letter 12 is carried out."
    assert [command[:2] for command in worker.heard] == [("replay", "12")]
