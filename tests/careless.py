"""A sync worker as one might write it: to see that the account of an ordeal finds what it loses and doubles."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from faststream.message import StreamMessage
from nats.aio.msg import Msg

from tars.runtime.app import run_worker
from tars.runtime.delivery import Delivery
from tars.runtime.journal import E, History, Journal
from tars.runtime.settings import load_settings
from tars.runtime.telemetry import start_telemetry
from tars.sync_worker.app import worker

DEATHS: Final = 0.1
"""Of its messages, how many it dies with: a moment that a kill from outside hits seldom."""


def acknowledges_first() -> None:
    """Serve; the message is gone before its effect is there."""
    handle = Delivery.consume_scope

    async def consume(
        self: Delivery, call_next: Callable[[StreamMessage[Msg]], Awaitable[Any]], msg: StreamMessage[Msg]
    ) -> Any:
        if msg.raw_message.subject.startswith("tars.command.update."):
            await self.context.get("bus").client.publish(msg.raw_message.reply, b"+ACK")
            await _dies_now_and_then(self.context.get("bus").client.flush)
        return await handle(self, call_next, msg)

    Delivery.consume_scope = consume  # type: ignore[method-assign] # that is what it is here for
    _serve()


def appends_without_looking() -> None:
    """Serve; a message that comes again is decided again, and what it leads to is appended again."""

    async def append(
        self: Journal, events: Sequence[E], history: History[E], *, cause: str, **_: object
    ) -> tuple[E, ...]:
        first = len(history.caused_by(cause))
        await self.extend(events, history, cause=cause, first=first)
        await _dies_now_and_then(self._bus.client.flush)
        return tuple(events)

    Journal.append = append  # type: ignore[method-assign]
    _serve()


async def _dies_now_and_then(flush: Callable[[], Awaitable[None]]) -> None:
    await flush()
    if random.random() < DEATHS:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0)


def _serve() -> None:
    settings = load_settings()
    start_telemetry("sync", settings.log_level)
    run_worker(worker(settings), 0)
