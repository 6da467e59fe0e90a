"""What processes without torch may hold; benchmarks/memory.py has what they grow by."""

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tars.runtime.bus import Bus
from tars.runtime.servers import Server
from tars.runtime.stack import free_port

BUDGET = 120e6
"""Bytes (TARGETS: sync and consumers import no torch)."""


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("role", ["sync", "consumers"])
async def test_a_process_without_torch_is_small(
    role: str, bus: Bus, nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    monkeypatch.setenv("USE_REDIS", "false")
    port = free_port(0)
    with subprocess.Popen([sys.executable, "-m", "tars", "run", role, "--port", str(port)]) as process:
        try:
            while not is_ready(port):
                assert process.poll() is None
                await asyncio.sleep(0.1)
            assert psutil.Process(process.pid).memory_info().rss <= BUDGET
        finally:
            process.terminate()
