"""Embedded servers: one owner for a folder, data that stays, and no server that outlives its parent."""

import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from processes import have_ended, is_running

from tars.runtime import servers
from tars.runtime.bus import connect_bus
from tars.runtime.servers import Server, StartError, start_nats, start_valkey
from tars.schemas.study import StudyFailed

pytestmark = pytest.mark.anyio
DEPLOYED = Path(__file__).parents[2] / "deploy" / "nats" / "server.conf"
END: list[Callable[[Server], None]] = [Server.stop, Server.kill]


def port_of(server: Server) -> int:
    return int(server.url.rpartition(":")[2])


def pings(server: Server) -> bool:
    with redis.Redis.from_url(server.url) as client:
        return bool(client.ping())


def test_servers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from tars.runtime.servers import *; d = pathlib.Path(sys.argv[1]);"
        "n, v = start_nats(d / 'n'), start_valkey(d / 'v'); print(n.pid, v.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert [is_running(pid) for pid in pids] == [True, True]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert have_ended(*pids)


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    started: list[Server] = []
    thread = threading.Thread(target=lambda: started.append(start_valkey(tmp_path / "v")))
    thread.start()
    thread.join()
    with started[0] as server:
        assert pings(server)


def test_a_folder_has_one_owner_and_the_second_is_told_who(nats_server: Server) -> None:
    with pytest.raises(StartError, match=f"{nats_server.folder} is in use by the process with pid {nats_server.pid}"):
        start_nats(nats_server.folder)


def test_a_refused_second_start_does_not_touch_the_first(valkey: Server) -> None:
    with pytest.raises(StartError, match="in use by the process with pid"):
        start_valkey(valkey.folder)
    assert pings(valkey)


def test_a_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="file/data cannot be used: Not a directory"):
        start_nats(tmp_path / "file" / "data")


@pytest.mark.parametrize("end", END, ids=["stopped", "killed"])
async def test_what_was_acknowledged_is_there_again_on_the_same_port(
    tmp_path: Path, end: Callable[[Server], None]
) -> None:
    first = start_nats(tmp_path / "n")
    bus = await connect_bus(first.url, "test", patience=5)
    await bus.jetstream.add_stream(name="EVENTS", subjects=["tars.event.>"])
    await bus.publish(StudyFailed(study_id="s", error="x"), id="1")
    await bus.close()
    end(first)
    assert not first.alive
    with start_nats(tmp_path / "n", port=port_of(first)) as again:
        assert again.url == first.url
        fresh = await connect_bus(again.url, "test", patience=5)
        assert (await fresh.stream("EVENTS")).state.messages == 1
        await fresh.close()


@pytest.mark.parametrize(
    ("end", "kept"),
    [(Server.stop, True), (Server.kill, True), (Server.stop, False)],
    ids=["stopped", "killed", "not-asked-to"],
)
def test_valkey_keeps_its_data_where_it_is_asked_to(
    tmp_path: Path, end: Callable[[Server], None], *, kept: bool
) -> None:
    first = start_valkey(tmp_path / "v", append_only=kept)
    with redis.Redis.from_url(first.url) as client:
        client.set("key", "value")
    end(first)
    with start_valkey(tmp_path / "v", append_only=kept) as again, redis.Redis.from_url(again.url) as client:
        assert again.url == first.url
        assert client.get("key") == (b"value" if kept else None)


def test_a_long_path_gets_a_private_socket_folder_that_goes_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        with start_valkey(tmp_path / ("long" * 30)) as server:
            assert pings(server)
            [private] = Path(short).iterdir()
            assert private.stat().st_mode & 0o777 == 0o700
        assert list(Path(short).iterdir()) == []


def test_a_socket_folder_that_others_can_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name can be guessed, and everybody may write to the folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    start_valkey(tmp_path / ("long" * 30)).kill()  # a crash leaves the folder
    [private] = tmp_path.glob("tars-*")
    private.chmod(0o777)
    with pytest.raises(StartError, match=f"{private} is not a folder that only we can use"):
        start_valkey(tmp_path / ("long" * 30))


def test_a_taken_port_is_an_error_of_one_line_with_the_servers_own_words(nats_server: Server, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"nats-server did not start in .*/other: .*address already in use"):
        start_nats(tmp_path / "other", port=port_of(nats_server))


def test_a_missing_server_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.files", lambda _: None)  # what a distribution without a record answers
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StartError, match=r"pip install 'tars-rl\[servers\]', or set NATS_URL"):
        start_nats(tmp_path / "n")
    with pytest.raises(StartError, match=r"pip install 'tars-rl\[servers\]', or set REDIS_URL"):
        start_valkey(tmp_path / "v")


def test_a_proxy_is_not_asked_whether_the_server_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(servers, "BOOT_SECONDS", 5.0)
    with start_nats(tmp_path / "n") as server:
        assert server.alive


def limits(monitor: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(monitor.removeprefix("http://"))
    connection.request("GET", "/varz")
    found = json.loads(connection.getresponse().read())
    connection.close()
    jetstream = found["jetstream"]["config"]
    return {
        "max_payload": found["max_payload"],
        "max_storage": jetstream["max_storage"],
        "sync_interval": jetstream["sync_interval"],
        "sync_always": jetstream.get("sync_always"),
    }


def test_the_deployed_configuration_is_valid_and_has_the_embedded_ones_limits(
    nats_server: Server, tmp_path: Path
) -> None:
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    subprocess.run([program, "-t", "-c", str(DEPLOYED)], check=True, capture_output=True)
    elsewhere = {":4222": ":-1", ":8222": ":-1", "/var/lib/nats": f"{tmp_path}/js"}
    text = DEPLOYED.read_text()
    for default, free in elsewhere.items():
        assert default in text
        text = text.replace(default, free)
    (tmp_path / "server.conf").write_text(text)
    command = [program, "-c", str(tmp_path / "server.conf"), "--ports_file_dir", str(tmp_path)]
    deployed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while not any(written := [file.read_text() for file in tmp_path.glob("*.ports")]):  # made, then written
            assert deployed.poll() is None
            time.sleep(0.01)
        assert nats_server.monitor is not None
        assert limits(json.loads(written[0])["monitoring"][0]) == limits(nats_server.monitor)
    finally:
        deployed.kill()
        deployed.wait()
