"""The thread of all attached learners."""

import asyncio
from concurrent.futures import Future
from contextvars import ContextVar
from threading import Thread, current_thread

from tars.agents.background import Background, Work

TRACE: ContextVar[str] = ContextVar("TRACE", default="none")


def test_what_runs_there_is_in_no_context_of_who_started_it() -> None:
    """Else all that an agent ever says would belong to the trace in which it was attached."""
    seen: list[tuple[str, str]] = []
    ended = asyncio.Event()

    async def work() -> None:
        seen.append((TRACE.get(), current_thread().name))
        await ended.wait()

    background = Background()
    TRACE.set("attaching")
    one, other = background.run(work()), background.run(work())
    one.end(ended, 10)
    other.end(ended, 10)
    assert seen == [("none", "tars")] * 2


def test_in_a_process_that_was_forked_nothing_is_told_or_waited_for() -> None:
    """Its copy of the loop is its parent's, and the thread that would turn it is not there."""
    told, loop = asyncio.Event(), asyncio.new_event_loop()
    loop.close()  # telling it anything would raise
    Work(Future(), loop, Thread(target=loop.run_forever)).end(told, 10)
    assert not told.is_set()
