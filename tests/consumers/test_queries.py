"""Questions over the bus: answered from memory, and always answered."""

import pytest
from ledgers import ledger, stored

from tars.consumers.boards import BOARDS
from tars.consumers.queries import FIND, answer, serve_queries
from tars.runtime.bus import Bus
from tars.runtime.view_store import MemoryViews
from tars.schemas.queries import QUERIES, WITH_ID, Ask, Reply, query_subject, rows_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def views() -> MemoryViews:
    """Views with something of everything."""
    found = MemoryViews(100)
    for stream in ("EVENTS", "TRIALS", "REPORTS"):
        board = BOARDS[stream](86_400)
        for message in stored(ledger(stream, 1, 120)):
            board.fold(message)
        found.apply(board.changes())
    return found


def test_every_query_has_an_answer() -> None:
    assert set(FIND) == set(QUERIES)


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_an_answer_is_read_as_the_rows_of_its_query(views: MemoryViews, name: str) -> None:
    known = {"history": "a1", "update": views.updates()[0].update_id, "study": "s1", "trials": "s1"}
    reply = answer(views, query_subject(name), Ask(id=known.get(name)).model_dump_json().encode())
    assert reply.error is None
    assert bool(rows_of(name, reply)) is (name not in {"pipeline", "dead"})


@pytest.mark.parametrize("name", sorted(WITH_ID))
def test_an_unknown_id_has_no_rows(views: MemoryViews, name: str) -> None:
    assert answer(views, query_subject(name), b'{"id": "nobody"}') == Reply()


@pytest.mark.parametrize(
    ("name", "body"),
    [("nothing", b"{}"), ("updates", b"\xff"), ("updates", b'{"limit": 0}'), ("updates", b"[]"), ("history", b"{}")],
    ids=["unknown", "bytes", "limit", "no-object", "no-id"],
)
def test_a_question_that_makes_no_sense_is_told_why(views: MemoryViews, name: str, body: bytes) -> None:
    assert answer(views, query_subject(name), body).error


def test_pages_of_updates_are_the_whole_without_repetition(views: MemoryViews) -> None:
    whole = [row.update_id for row in views.updates(0, 1000)]
    pages = [row.update_id for offset in range(0, len(whole), 3) for row in views.updates(offset, 3)]
    assert pages == whole


async def test_one_of_several_processes_answers(bus: Bus, views: MemoryViews) -> None:
    for _ in range(2):
        await serve_queries(bus, views)
    replies = await bus.client.subscribe("replies")
    await bus.client.publish(query_subject("stats"), b"", reply="replies")
    await replies.next_msg(timeout=5)
    await bus.client.flush()
    assert replies.pending_msgs == 0
