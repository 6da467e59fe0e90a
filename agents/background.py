"""The thread in which all of a process's attached learners talk to TARS.

One for all: each thread more waits for the interpreter, which the loop that trains gives away every 5 ms, and a message
takes many turns.
"""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Final


class Background:
    """A thread with an event loop, from the first use to the end of the process."""

    def __init__(self) -> None:
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, None]) -> "Future[None]":
        """Let it run there; cancelling what is returned cancels it."""
        with self._starting:
            if not self._is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="tars", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def tell(self, event: asyncio.Event) -> bool:
        """Set an event that something there waits for; False: nothing does, as after a fork."""
        if alive := self._is_alive():
            self._loop.call_soon_threadsafe(event.set)
        return alive

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()


BACKGROUND: Final = Background()
