"""What stands behind the page in a test: an agent in the ledger, a real sync worker, real consumers; and the page."""

import asyncio
import gc
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from examples import ADA, AGENT, RUNNING
from tars.consumers.app import worker as consumers
from tars.dashboard import session
from tars.producers.async_client import NobodyAnswers
from tars.producers.client import Client, connect
from tars.runtime.app import Worker
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.schemas.agent import AgentReported, AgentStarted
from tars.schemas.evidence import Evidence
from tars.schemas.hyperparameters import Value
from tars.schemas.message import Message
from tars.sync_worker.app import worker as sync

EPISODES = 30
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")


def until(condition: Callable[[], object]) -> None:
    """Look again until it is true."""
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


@dataclass
class Stage:
    """What runs behind the page."""

    folder: Path
    nats: Server
    valkey: Server
    client: Client = field(init=False)
    """A script of its own, with a name of its own."""

    def publish(self, *messages: Message) -> None:
        """Store messages one after the other, as their senders would."""

        async def store() -> None:
            bus = await connect_bus(self.nats.url, "test", patience=5)
            for number, message in enumerate(messages):
                await bus.publish(message, id=f"{message.kind}-{message.key}-{number}", by=ADA)
            await bus.close()

        asyncio.run(store())

    def count(self, stream: str) -> int:
        """How many messages a stream has ever stored."""

        async def ask() -> int:
            bus = await connect_bus(self.nats.url, "test", patience=5)
            state = (await bus.stream(stream)).state
            await bus.close()
            return state.last_seq

        return asyncio.run(ask())

    def episodes(self, agent_id: str) -> int:
        """How many of an agent's episodes the consumers know; 0 while nobody answers."""
        try:
            return len(self.client.history(agent_id))
        except NobodyAnswers:  # the consumers are on their way
            return 0

    def said(self, update_id: str) -> list[tuple[str, str | None, str]]:
        """Kind, who and sentence of every event about an update, in order; nothing while nobody answers."""
        try:
            row = self.client.update(update_id)
        except NobodyAnswers:  # the consumers are on their way back
            return []
        return [(entry.kind, entry.by, entry.text) for entry in row.history] if row else []

    def propose(self, update_id: str, values: dict[str, Value], evidence: Evidence | None = None) -> None:
        """Propose an update, and wait until the page can see it."""
        self.client.propose(
            values, agents=[AGENT], update_id=update_id, evidence=evidence, reason="from the laboratory"
        )
        reader = session.reader()
        until(lambda: update_id in {row.update_id for row in reader.ask("", lambda rows: rows.pending())[2]})

    def restart_nats(self) -> None:
        """Bring it back where it was."""
        port = int(self.nats.url.rpartition(":")[2])
        self.nats = start_nats(self.folder / "nats", port=port)

    def restart_valkey(self) -> None:
        """Bring it back where it was, empty."""
        self.valkey = start_valkey(self.folder / "valkey")


def start_agent(stage: Stage) -> None:
    """Put an agent and its episodes into the ledger."""
    started = AgentStarted(
        agent_id=AGENT, run_id="r-1", role="policy", algorithm="dqn", world="world-1", values=RUNNING,
        heard_version=0, applied_version=0,
    )  # fmt: skip
    reports = (
        AgentReported(agent_id=AGENT, run_id="r-1", episode=n, step=n, score=n / EPISODES, version=n // 20)
        for n in range(EPISODES)
    )
    stage.publish(started, *reports)
    until(lambda: stage.episodes(AGENT) == EPISODES)


def forget_process() -> None:
    """End what the page's process keeps, as its end would."""
    gc.unfreeze()
    session.line().close()
    session.executor().shutdown()
    st.cache_resource.clear()


class Loop:
    """Workers in a thread of their own, until told to stop."""

    def __init__(self, *running: Worker) -> None:
        self._workers = running
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="workers")
        self._thread.start()
        self._ready.result(20)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        bus = await connect_bus(self._workers[0].settings.nats, "provision", patience=5)
        await provision(bus.jetstream, ack_wait=2)
        await bus.close()
        tasks = [asyncio.create_task(worker.serve(0)) for worker in self._workers]
        self._ready.set_result(None)
        await self._end.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        """They run already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop them, and wait until they have."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)


def workers(settings: Settings) -> Loop:
    """Run the sync worker and the consumers."""
    return Loop(sync(settings), consumers(settings))


@contextmanager
def stage_in(folder: Path) -> Iterator[Stage]:
    """Servers, workers, an agent; and the page's environment, in which `grace` decides what `ada` proposes."""
    found = Stage(folder, start_nats(folder / "nats"), start_valkey(folder / "valkey"))
    settings = Settings(
        nats_url=found.nats.url, redis_url=found.valkey.url, ack_wait_seconds=2, rate_limit_per_minute=0
    )
    try:
        with pytest.MonkeyPatch.context() as environment, workers(settings), connect(found.nats.url, user="ada") as ada:
            for name, value in (("NATS_URL", settings.nats_url), ("REDIS_URL", settings.redis_url)):
                environment.setenv(name, str(value))
            environment.setenv("TARS_USER", "grace")
            found.client = ada
            start_agent(found)
            yield found
            forget_process()
    finally:
        found.valkey.stop()
        found.nats.stop()


def _show(name: str) -> None:
    from tars.dashboard.app import PAGES, live  # noqa: PLC0415 - AppTest runs this text as a script

    live(next(page for page in PAGES if page.name == name))


def show(name: str, **query: str) -> AppTest:
    """Open one page in a new session."""
    page = AppTest.from_function(_show, default_timeout=20, args=(name,))
    for key, value in query.items():
        page.query_params[key] = value
    return page.run()


def texts(page: AppTest) -> str:
    """All that a page says outside its tables, as it is read."""
    return read(markdown(page))


def read(written: str) -> str:
    """What people read of Markdown in which others' words are escaped."""
    return ESCAPED.sub(r"\1", written)


def markdown(page: AppTest) -> str:
    """The same as it is written."""
    boxes = (page.markdown, page.caption, page.error, page.warning, page.info, page.success)
    assert not page.exception, page.exception
    return "\n".join(str(element.value) for group in boxes for element in group)
