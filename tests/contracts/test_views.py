"""One suite for both forms of the views: fed alike, nobody can tell them apart."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import redis.asyncio
from ledgers import START, held, ledger, stored

from tars.consumers.boards import BOARDS, Stored
from tars.runtime import view_changes as keys
from tars.runtime.servers import Server
from tars.runtime.view_changes import Changes, Pushes
from tars.runtime.view_store import Epoch, MemoryViews, RedisViews, RedisWriter, Views
from tars.schemas.views import PipelineRow

pytestmark = pytest.mark.anyio
CAP = 30
TTL = 31_536_000
EPOCH = Epoch("one", 1)
Write = Callable[[str, int, int, Changes], Awaitable[None]]


@pytest.fixture(params=["memory", "redis"])
async def form(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Views, Write]]:
    """A form of the views, and how changes of a stream from one sequence to another come in."""
    if request.param == "memory":
        memory = MemoryViews(CAP)

        async def remember(_: str, start: int, __: int, changes: Changes) -> None:
            memory.apply(changes.after(start))

        yield memory, remember
        return
    valkey: Server = request.getfixturevalue("valkey")
    writer, views = RedisWriter(valkey.url, CAP), RedisViews(valkey.url)

    async def write(stream: str, start: int, last: int, changes: Changes) -> None:
        assert await writer.write(stream, EPOCH, (start, last), changes) == last

    yield views, write
    views.close()
    await writer.close()


async def feed(write: Write, seed: int, *, batch: int = 37) -> None:
    """Fold random streams in batches."""
    for stream in ("EVENTS", "TRIALS", "REPORTS"):
        board, messages = BOARDS[stream](TTL), stored(ledger(stream, seed, 150), every=1.0)
        for start in range(0, len(messages), batch):
            for message in messages[start : start + batch]:
                board.fold(message)
            await write(stream, start, min(start + batch, len(messages)), board.changes())


async def test_empty_views_have_no_rows(form: tuple[Views, Write]) -> None:
    views, _ = form
    assert views.update("u1") is None
    assert views.study("s1") is None
    assert [*views.agents(), *views.pending(), *views.trials("s1"), *views.history("a1"), *views.pipeline()] == []
    assert set(views.stats().model_dump().values()) == {0}


async def test_redis_knows_since_when_nobody_has_written(valkey: Server, store: redis.asyncio.Redis) -> None:
    writer, views = RedisWriter(valkey.url, CAP), RedisViews(valkey.url)
    assert views.age() == math.inf
    await writer.open("REPORTS", EPOCH, 0)
    assert math.isfinite(views.age())
    await writer.open("EVENTS", EPOCH, 0)
    await store.hincrby(keys.cursor("REPORTS"), "seen", -1000)  # as if its loop alone hung
    assert views.age() >= 1000
    assert await writer.position("REPORTS", EPOCH) == 0
    assert views.age() < 1000
    views.close()
    await writer.close()


@pytest.mark.parametrize("seed", [1, 2])
async def test_both_forms_tell_the_same(form: tuple[Views, Write], seed: int) -> None:
    views, write = form
    await feed(write, seed)
    other = MemoryViews(CAP)
    for stream in ("EVENTS", "TRIALS", "REPORTS"):
        board = BOARDS[stream](TTL)
        for message in stored(ledger(stream, seed, 150), every=1.0):
            board.fold(message)
        other.apply(board.changes())
    assert held(views) == held(other)


async def test_a_single_row_is_the_one_of_the_list(form: tuple[Views, Write]) -> None:
    views, write = form
    await feed(write, 1)
    for update in views.updates(0, 1000):
        assert views.update(update.update_id) == update
    for study in views.studies(0, 1000):
        assert views.study(study.study_id) == study


async def test_lists_keep_the_newest_up_to_their_cap(form: tuple[Views, Write]) -> None:
    views, write = form
    changes = Changes()
    for number in range(CAP + 5):
        changes.push(keys.agent_history("a1"), number + 1, _point(number))
    changes.index(keys.AGENTS, "a1", 0)
    await write("REPORTS", 0, CAP + 5, changes)
    episodes = [point.episode for point in views.history("a1", 0, 1000)]
    assert episodes == list(range(CAP + 4, 4, -1))
    assert [point.episode for point in views.history("a1", 2, 3)] == episodes[2:5]
    assert views.stats().history == CAP


async def test_how_full_the_longest_history_is_is_told(form: tuple[Views, Write]) -> None:
    views, write = form
    changes = Changes()
    for number in range(CAP // 3):
        changes.push(keys.agent_history("a1"), number + 1, _point(number))
    changes.index(keys.AGENTS, "a1", 0)
    changes.index(keys.AGENTS, "a2", 0)
    changes.put(keys.METRICS, {"history_cap": str(CAP), "redis_bytes": "2048"})
    await write("REPORTS", 0, CAP, changes)
    assert views.stats().utilisation == pytest.approx(1 / 3)
    assert views.stats().redis_bytes == 2048


async def test_a_dead_letter_says_whether_it_can_be_sent_again(form: tuple[Views, Write]) -> None:
    views, write = form
    board = BOARDS["DEAD"](TTL)
    for number, subject in enumerate(("tars.command.update.approve.v9.u1", "tars.event.agent.lost.v1.a1"), 1):
        headers = {"Tars-Dead-Subject": subject, "Tars-Dead-Id": f"c{number}", "Tars-Dead-Reason": "newer-version"}
        board.fold(Stored(number, START, "tars.dead.COMMANDS.update-command", b"x" * 5000, headers))
    await write("DEAD", 0, 2, board.changes())
    event, command = views.dead()
    assert (command.id, command.sequence, command.not_again, len(command.body)) == ("c1", 1, None, 4000)
    assert event.not_again is not None
    assert "is no command that people send" in event.not_again


async def test_what_another_worker_wrote_is_not_pushed_again(form: tuple[Views, Write]) -> None:
    views, write = form
    changes = Changes()
    for number in (1, 2, 3, 4):
        changes.push(keys.agent_history("a1"), number, _point(number))
    await write("REPORTS", 0, 2, Changes(lists={key: Pushes(p.items[:2]) for key, p in changes.lists.items()}))
    await write("REPORTS", 2, 4, changes)
    assert [point.episode for point in views.history("a1")] == [4, 3, 2, 1]


async def test_the_trials_of_a_study_nobody_told_of_make_no_study(form: tuple[Views, Write]) -> None:
    views, write = form
    board = BOARDS["TRIALS"](TTL)
    for message in stored(ledger("TRIALS", 1, 9)):
        board.fold(message)
    await write("TRIALS", 0, 9, board.changes())
    assert views.study("s0") is None
    assert views.trials("s0")


async def test_the_pipeline_is_by_durable(form: tuple[Views, Write]) -> None:
    views, write = form
    rows = [
        PipelineRow(durable=name, stream="EVENTS", waiting=2, unacknowledged=1, redelivered=0) for name in ("b", "a")
    ]
    changes = Changes()
    changes.put(keys.PIPELINE, {row.durable: row.model_dump_json() for row in rows})
    await write("EVENTS", 0, 1, changes)
    assert [row.durable for row in views.pipeline()] == ["a", "b"]


def _point(episode: int) -> str:
    return f'{{"at":"2026-11-24T09:00:00Z","episode":{episode},"score":0.5,"version":0}}'
