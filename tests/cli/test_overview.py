"""`tars watch` says what changes: a line for each, at once, until Ctrl-C."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from rich.console import Console

from examples import AGENT, EXAMPLES, NOON
from tars.cli.overview import NEWEST, Overview, changes, picture, states
from tars.consumers.app import worker as consumers
from tars.consumers.update_queue import row
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.message import Message
from tars.schemas.views import AgentRow, StudyRow, UpdateRow

RUNNING = AgentRow(
    agent_id=AGENT, role="policy", algorithm="dqn", seen_at=NOON, episode=3, score=0.5, applied=7, heard=7
)
SILENT = RUNNING.model_copy(update={"agent_id": "policy-9", "state": "stopped"})
STUDY = StudyRow(
    study_id="s-1", stage="running", started_at=NOON, by="ada", algorithm="dqn", environment="policy", agents=(AGENT,),
    trials=20, quick=True, incumbent={}, searched=("gamma",), completed=3, best_score=0.25,
)  # fmt: skip


def updates(*kinds: str) -> tuple[UpdateRow, ...]:
    """The row of an update after these events."""
    found: UpdateRow | None = None
    for kind in kinds:
        event: Any = EXAMPLES[kind]
        found = row(event, found, NOON)
    return (found,) if found else ()


PENDING = updates("update.proposed.v1")
RELEASED = updates("update.proposed.v1", "update.approved.v1", "update.released.v1", "update.started.v1")
OVER = updates("update.proposed.v1", "update.rejected.v1")


def overview(*, agents: tuple[AgentRow, ...] = (), of: tuple[UpdateRow, ...] = (), studies: Any = ()) -> Overview:
    return Overview(at=NOON, agents=agents, updates=of, studies=tuple(studies))


def told(now: Overview, before: Overview | None = None) -> list[str]:
    """What is said at `now`, to somebody who was told `before`."""
    return [f"{one.noun} {one.id}: {one.told}" for one in changes(now, states(before) if before else {})]


def test_at_first_it_tells_what_is_not_over() -> None:
    finished = STUDY.model_copy(update={"stage": "finished", "study_id": "s-0"})
    assert told(overview(agents=(RUNNING,), of=OVER, studies=(STUDY, finished))) == [
        f"agent {AGENT}: running, v7, score 0.5", "study s-1: running: 3 of 20 trials, best 0.25",
    ]  # fmt: skip


def test_what_was_over_before_is_not_told_at_the_second_look_either() -> None:
    finished = STUDY.model_copy(update={"stage": "finished"})
    now = overview(agents=(RUNNING,), of=OVER, studies=(finished,))
    assert told(now, now) == []


def test_a_score_alone_is_no_change_and_a_reload_is() -> None:
    before = overview(agents=(RUNNING,))
    assert told(overview(agents=(RUNNING.model_copy(update={"score": 0.75, "episode": 4}),)), before) == []
    reloaded = RUNNING.model_copy(update={"applied": 8, "heard": 8})
    assert told(overview(agents=(reloaded,)), before) == [f"agent {AGENT}: running, v8, score 0.5"]


def test_each_step_of_an_update_is_told_in_its_own_words_also_the_last() -> None:
    assert told(overview(of=RELEASED), overview(of=PENDING)) == ["update u-s-17: reloading 1 agent"]
    assert told(overview(of=OVER), overview(of=PENDING)) == ["update u-s-17: rejected: not today"]


def test_progress_of_a_study_is_told() -> None:
    more = STUDY.model_copy(update={"failed": 1, "confirmations": 2})
    assert told(overview(studies=(more,)), overview(studies=(STUDY,))) == [
        "study s-1: running: 4 of 20 trials, best 0.25, 2 trials on held-out seeds"
    ]


def drawn(now: Overview) -> str:
    console = Console(width=120, record=True, file=StringIO())
    console.print(picture(now))
    return console.export_text()


def test_the_picture_shows_what_waits_what_rolls_out_and_who_runs() -> None:
    text = drawn(overview(agents=(RUNNING, SILENT), of=(*PENDING, *RELEASED), studies=(STUDY,)))
    titles = ["waiting for approval", "rollouts", "studies", "agents"]
    assert [line.strip() for line in text.splitlines() if line.strip() in titles] == titles
    for shown in ("learning_rate 0.0012, gamma 0.95", "reloading 1 agent", "3 of 20 trials", "running", "stopped"):
        assert shown in text


def test_what_strangers_wrote_is_no_markup_of_the_picture() -> None:
    last = RELEASED[0].history[-1].model_copy(update={"text": "[/b] [type=missing]"})
    text = drawn(overview(of=(RELEASED[0].model_copy(update={"history": (last,)}),)))
    assert "[/b] [type=missing]" in text


def test_where_there_is_nothing_the_picture_says_so() -> None:
    text = drawn(overview())
    for shown in ("nothing waits for approval", "no rollout in progress", "no study is running", "tars run agents"):
        assert shown in text


@pytest.fixture
def publish(nats_server: Server, settings: Settings) -> Iterator[Callable[[Message, str], None]]:
    """Stores messages on a server with consumers, and an agent that says it runs."""
    working: list[asyncio.Task[None]] = []

    async def start() -> None:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        await provision(bus.jetstream, ack_wait=settings.ack_wait_seconds)
        await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
        await bus.close()
        working.append(asyncio.create_task(consumers(settings).serve(0)))
        async with AsyncClient.connect(nats_server.url) as client:
            while True:
                try:
                    assert await client.query("agents")
                except (NobodyAnswers, AssertionError):
                    await asyncio.sleep(0.1)
                else:
                    return

    async def store(message: Message, name: str) -> None:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        await bus.publish(message, id=name)
        await bus.close()

    async def stop() -> None:
        working[0].cancel()
        await asyncio.gather(*working, return_exceptions=True)

    with start_blocking_portal() as portal:
        portal.call(start)
        yield lambda message, name: portal.call(store, message, name)
        stopping: BlockingPortal = portal
        stopping.call(stop)


@contextmanager
def watching(server: Server, *arguments: str) -> Iterator[Any]:
    """`tars watch` as a process, with its output in a pipe."""
    command = [sys.executable, "-m", "tars", "watch", "--every", "0.1", *arguments]
    with subprocess.Popen(
        command, env={**os.environ, "NATS_URL": server.url}, cwd=server.folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as watcher:  # fmt: skip
        try:
            yield watcher
        finally:
            watcher.kill()


@pytest.mark.slow
def test_off_a_terminal_each_change_is_a_line_and_ctrl_c_a_clean_end(
    publish: Callable[[Message, str], None], nats_server: Server
) -> None:
    with watching(nats_server) as watcher:
        assert f"agent {AGENT}: " in watcher.stdout.readline()
        publish(EXAMPLES["update.proposed.v1"], "c:0")
        assert "update u-s-17: pending: proposed learning_rate = 0.0012" in watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        rest, err = watcher.communicate(timeout=10)
        assert (watcher.returncode, rest, err) == (0, "", "")


@pytest.mark.slow
def test_however_many_came_later_what_waits_is_told_and_how_it_ends(
    publish: Callable[[Message, str], None],
    nats_server: Server,
    tars: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    proposed, rejected = EXAMPLES["update.proposed.v1"], EXAMPLES["update.rejected.v1"]
    names = [f"u-{number}" for number in range(NEWEST + 1)]
    for name in names:
        publish(proposed.model_copy(update={"update_id": name}), f"{name}:0")
    while len(json.loads(tars("updates", "--pending", "--json")[1])) < len(names):
        pass
    with watching(nats_server) as watcher:
        told = [watcher.stdout.readline() for _ in (AGENT, *names)]
        assert any("update u-0: pending: proposed" in line for line in told)
        publish(rejected.model_copy(update={"update_id": "u-0"}), "u-0:1")
        line = watcher.stdout.readline()
        while line.split()[2] == "agent":  # it may fall silent meanwhile
            line = watcher.stdout.readline()
        assert "update u-0: rejected" in line


@pytest.mark.slow
def test_programs_get_an_object_a_line_also_when_nobody_answers_any_more(
    publish: Callable[[Message, str], None], nats_server: Server
) -> None:
    with watching(nats_server, "--json") as watcher:
        first = json.loads(watcher.stdout.readline())
        assert (first["noun"], first["id"]) == ("agent", AGENT)
        nats_server.kill()
        lines = [json.loads(watcher.stdout.readline())]
        while lines[-1]["noun"] != "connection":  # the agent falls silent meanwhile
            lines.append(json.loads(watcher.stdout.readline()))
        assert lines[-1]["state"] == "away"


def test_without_a_server_it_says_what_to_start(
    tars: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", "nats://127.0.0.1:9")
    code, out, err = tars("watch")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "start one with `tars up`" in err
