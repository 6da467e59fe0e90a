"""What `tars up` is going to run."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tars.runtime.bus import connect_bus
from tars.runtime.settings import Settings
from tars.runtime.stack import Endpoints, Servers, programs, worker_ports


def test_the_mlflow_sink_runs_only_when_asked_for() -> None:
    assert "mlflow" not in worker_ports(Settings(use_mlflow=False))
    assert "mlflow" in worker_ports(Settings(use_mlflow=True))


def test_without_mlflow_the_others_run_and_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with caplog.at_level(logging.WARNING):
        assert set(worker_ports(Settings(use_mlflow=True))) == set(worker_ports(Settings(use_mlflow=False)))
    assert "pip install 'tars-rl[mlflow]'" in caplog.text


@pytest.mark.anyio
async def test_a_server_whose_port_is_taken_when_it_died_comes_back_once_that_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servers = Servers(Settings(nats_url=None, use_redis=False), tmp_path, None)
    port = int(servers.nats_url.rpartition(":")[2])
    watching = asyncio.create_task(servers.watch())
    os.kill(int((tmp_path / "nats" / "lock").read_text()), signal.SIGKILL)
    with taken(port):
        async with asyncio.timeout(60):
            while "it did not start, and is tried again" not in caplog.text:
                await asyncio.sleep(0.05)
    bus = await connect_bus(servers.nats_url, "test", patience=60)
    await bus.close()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    servers.stop()


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Hold a port that a server has just let go of."""
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            with suppress(OSError):
                stranger.bind(("127.0.0.1", port))
                break
        stranger.listen()
        yield


def test_the_sink_gets_the_store_that_is_set(tmp_path: Path) -> None:
    settings = Settings(use_mlflow=True, mlflow_tracking_uri="http://mlflow:5000")
    (program,) = programs(settings, Endpoints("nats://x", None, ""), {"mlflow": 4711}, tmp_path)
    assert program.argv[-4:] == ["run", "mlflow", "--port", "4711"]
    assert program.env["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_a_store_is_a_file_in_the_data_folder_unless_set(tmp_path: Path) -> None:
    assert Settings(tars_data=tmp_path).mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert Settings(tars_data=tmp_path, mlflow_tracking_uri="").mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert Settings(mlflow_tracking_uri="postgresql://x/y").mlflow == "postgresql://x/y"
