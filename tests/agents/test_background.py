"""The thread of all attached learners."""

import asyncio
from contextvars import ContextVar
from threading import current_thread

from tars.agents.background import Background

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
