"""The folds of the streams: the same rows however the messages are cut into batches, and those that must be."""

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import (
    START,
    expected_counts,
    expected_histories,
    expected_stages,
    held,
    ledger,
    stored,
    update_events,
)

from tars.consumers.boards import BOARDS, Board, DeadBoard, Stored
from tars.runtime.view_store import MemoryViews
from tars.schemas.errors import Poison
from tars.schemas.message import Message
from tars.schemas.session import SessionReported
from tars.schemas.streams import KINDS
from tars.schemas.study import StudyStarted
from tars.schemas.update import UpdateEvent

TTL = 86_400
CAP = 20
STREAMS = ("EVENTS", "TRIALS", "REPORTS")


def folded(stream: str, batches: Sequence[Sequence[Stored]], views: MemoryViews | None = None) -> MemoryViews:
    """Fold batches as the projection does."""
    views = views or MemoryViews(CAP)
    board: Board = BOARDS[stream](TTL)
    for batch in batches:
        for message in batch:
            board.fold(message)
        views.apply(board.changes())
    return views


@pytest.mark.parametrize("stream", STREAMS)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 60), max_size=8))
@settings(max_examples=25)
def test_however_a_stream_is_cut_its_rows_are_the_same(stream: str, seed: int, cuts: list[int]) -> None:
    messages = stored(ledger(stream, seed, 60))
    edges = [0, *sorted(cuts), len(messages)]
    batches = [messages[start:end] for start, end in itertools.pairwise(edges)]
    assert held(folded(stream, batches)) == held(folded(stream, [messages]))


@pytest.mark.parametrize("stream", STREAMS)
@given(seed=st.integers(0, 1000), known=st.integers(0, 60))
@settings(max_examples=25)
def test_a_batch_whose_beginning_is_written_adds_only_the_rest(stream: str, seed: int, known: int) -> None:
    """Another worker, which cuts its batches elsewhere, was ahead."""
    messages = stored(ledger(stream, seed, 60))
    views, whole = folded(stream, [messages[:known]]), BOARDS[stream](TTL)
    for message in messages:
        whole.fold(message)
    views.apply(whole.changes().after(known))
    assert held(views) == held(folded(stream, [messages]))


@given(seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_an_update_shows_the_stage_of_its_last_event(seed: int) -> None:
    messages = ledger("EVENTS", seed, 80)
    views = folded("EVENTS", [stored(messages)])
    stages = {row.update_id: row.stage for row in views.updates(0, 1000)}
    assert stages == expected_stages(messages)
    assert {row.update_id for row in views.pending()} == {name for name, stage in stages.items() if stage == "pending"}


@given(seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_a_study_counts_its_trials(seed: int) -> None:
    started: list[Message] = [m for m in ledger("EVENTS", 3, 200) if isinstance(m, StudyStarted)]
    messages = ledger("TRIALS", seed, 40)
    views = folded("TRIALS", [stored(messages)], folded("EVENTS", [stored(started)]))
    for row in views.studies():
        assert row.model_dump(include={"asked", "completed", "pruned", "failed", "confirmations"}) == expected_counts(
            messages, row.study_id
        )


@given(seed=st.integers(0, 1000))
@settings(max_examples=25)
def test_a_history_is_the_newest_episodes_newest_first(seed: int) -> None:
    messages = ledger("REPORTS", seed, 400)
    views = folded("REPORTS", [stored(messages)])
    assert {name: [point.episode for point in views.history(name, 0, 1000)] for name in ("a0", "a1", "a2", "a3")} == (
        expected_histories(messages, CAP)
    )


def test_every_event_of_an_update_leaves_a_sentence() -> None:
    messages = update_events("u1")
    assert {type(message) for message in messages} == set(get_args(get_args(UpdateEvent)[0]))
    row = folded("EVENTS", [stored(messages)]).update("u1")
    assert row is not None
    assert [entry.kind for entry in row.history] == [message.kind for message in messages]
    assert all(entry.text for entry in row.history)
    assert {entry.by for entry in row.history} == {"ada (unsigned)", None}


def test_every_kind_of_event_and_report_has_been_folded() -> None:
    """The ledgers of these tests hold each kind, so a kind without a fold would raise here."""
    seen = {m.kind for stream in STREAMS for seed in range(3) for m in ledger(stream, seed, 400)}
    assert {kind for kind, model in KINDS.items() if model.CHANNEL in {"event", "report"}} <= seen


def test_the_trace_of_an_event_is_in_its_sentence() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    (message,) = stored([ledger("EVENTS", 0, 1)[0]])
    traced = Stored(1, START, message.subject, message.body, {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
    assert traced.trace_id == trace
    assert message.trace_id is None


def test_a_page_that_fell_silent_is_closed_when_others_report() -> None:
    pages: list[Message] = [SessionReported(session_id=name, page="agents") for name in ("p1", "p2", "p2")]
    at = [START, START + timedelta(seconds=1), START + timedelta(seconds=62)]
    messages = [Stored(n, t, m.subject, m.model_dump_json().encode()) for n, (m, t) in enumerate(zip(pages, at), 1)]  # noqa: B905 - equally long
    assert folded("REPORTS", [messages[:2]]).stats().sessions == 2
    assert folded("REPORTS", [messages]).stats().sessions == 1


@pytest.mark.parametrize(
    ("stream", "subject", "body"),
    [
        ("EVENTS", "tars.event.update.confirmed.v1.u1", b"\xff{"),
        ("EVENTS", "tars.event.update.confirmed.v9.u1", b"{}"),
        ("EVENTS", "tars.event.update.invented.v1.u1", b"{}"),
        ("REPORTS", "tars.report.agent.reported.v1.a1", b'{"score": NaN}'),
        ("TRIALS", "tars.event.trial.completed.v1.s1.0", b"[]"),
    ],
    ids=["bytes", "newer", "unknown", "nan", "no-object"],
)
def test_what_cannot_be_read_raises_poison_and_changes_no_row(stream: str, subject: str, body: bytes) -> None:
    board: Board = BOARDS[stream](TTL)
    with pytest.raises(Poison):
        board.fold(Stored(1, START, subject, body))
    views = MemoryViews(CAP)
    views.apply(board.changes())
    assert [*views.updates(), *views.agents(), *views.trials("s1")] == []


def test_an_update_says_that_a_newer_release_knows_more_of_it() -> None:
    """Its stage may have passed: people must not act on it as if it had not."""
    board: Board = BOARDS["EVENTS"](TTL)
    (proposed,) = stored([update_events("u1")[0]])
    board.fold(proposed)
    with pytest.raises(Poison):
        board.fold(Stored(2, START, "tars.event.update.approved.v2.u1", b"{}"))
    views = MemoryViews(CAP)
    views.apply(board.changes())
    [row] = views.updates()
    assert row.reasons[-1].startswith("update.approved.v2: this version cannot read it")
    assert [entry.kind for entry in row.history] == ["update.proposed.v1", "update.approved.v2"]


@given(body=st.binary(max_size=200), headers=st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=4))
@settings(max_examples=50)
def test_no_dead_letter_is_too_broken_to_be_shown(body: bytes, headers: dict[str, str]) -> None:
    board = DeadBoard(TTL)
    board.fold(Stored(1, START, "tars.dead.EVENTS.x", body, headers))
    views = MemoryViews(CAP)
    views.apply(board.changes())
    assert views.dead()[0].sequence == 1
