"""Embedded servers: one owner for a folder, data that stays, and no server that outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from tars.runtime.bus import connect_bus
from tars.runtime.servers import Server, ServerError, start_nats, start_valkey
from tars.schemas.study import StudyFailed

pytestmark = pytest.mark.anyio


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until_gone(*pids: int) -> bool:
    end = time.monotonic() + 15
    while time.monotonic() < end and any(map(is_running, pids)):
        time.sleep(0.02)
    return not any(map(is_running, pids))


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """A process that started both servers, and their pids."""
    code = (
        "import sys, time, pathlib; from tars.runtime.servers import *; d = pathlib.Path(sys.argv[1]);"
        "print(start_nats(d / 'n').pid, start_valkey(d / 'v').pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    yield parent, [int(word) for word in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()


def test_servers_end_when_their_parent_is_killed(orphan: tuple["subprocess.Popen[str]", list[int]]) -> None:
    parent, pids = orphan
    assert len(pids) == 2
    assert all(map(is_running, pids))
    parent.send_signal(signal.SIGKILL)
    assert wait_until_gone(*pids)


def test_a_folder_has_one_owner_and_the_second_is_told_who(nats_server: Server) -> None:
    with pytest.raises(ServerError, match=f"in use by the server with pid {nats_server.pid}"):
        start_nats(nats_server.folder)


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    first = start_nats(tmp_path / "n")
    bus = await connect_bus(first.url, "test", patience=5)
    await bus.jetstream.add_stream(name="EVENTS", subjects=["tars.event.>"])
    await bus.publish(StudyFailed(study_id="s", error="x"), id="1")
    first.kill()
    again = start_nats(tmp_path / "n", port=int(first.url.rpartition(":")[2]))
    assert again.url == first.url
    fresh = await connect_bus(again.url, "test", patience=5)
    assert (await fresh.stream("EVENTS")).state.messages == 1
    await fresh.close()
    await bus.close()
    again.stop()


def test_valkey_answers_on_a_short_socket_whatever_the_folder(tmp_path: Path) -> None:
    server = start_valkey(tmp_path / ("long" * 30))
    client = redis.Redis.from_url(server.url)
    assert client.ping()
    client.close()
    server.stop()
    assert not server.alive
    assert not is_running(server.pid)


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    box: list[Server] = []
    thread = threading.Thread(target=lambda: box.append(start_valkey(tmp_path / "v")))
    thread.start()
    thread.join()
    os.sched_yield()
    client = redis.Redis.from_url(box[0].url)
    assert client.ping()
    client.close()
    box[0].stop()


def test_a_taken_port_is_an_error_of_one_line_with_the_servers_own_words(nats_server: Server, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"did not start: .*address already in use"):
        start_nats(tmp_path / "other", port=int(nats_server.url.rpartition(":")[2]))
