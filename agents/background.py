"""The thread in which all of a process's attached learners talk to TARS.

One for all: each thread more waits for the interpreter, which the loop that trains gives away every 5 ms, and a message
takes many turns.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Work:
    """What runs there for one learner."""

    _done: "Future[None]"
    _loop: asyncio.AbstractEventLoop
    _thread: threading.Thread

    def end(self, told: asyncio.Event, seconds: float) -> None:
        """Tell it to end, and wait for so long until it has. Nothing runs in a process that was forked."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(told.set)
            wait([self._done], seconds)


class Background:
    """A thread with an event loop, from the first use to the end of the process."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> Work:
        """Let it run there, in no context of who starts it: a trace that attaches a learner is not about its life."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():  # it is not after a fork
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="tars", daemon=True)
                self._thread.start()
            done = Context().run(asyncio.run_coroutine_threadsafe, work, self._loop)
            return Work(done, self._loop, self._thread)


BACKGROUND: Final = Background()
