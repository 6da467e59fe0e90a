"""Everything on one machine: servers, workers and page, started in order, supervised, and stopped in order."""

import asyncio
import fcntl
import getpass
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tars.runtime.access import AUTHORITY, FOLDER, Access, access_of, keys_in, seed_path
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, StartError, start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.signing import ensure_operator, ensure_page
from tars.runtime.supervisor import Program, Supervisor
from tars.schemas.errors import TarsError

log = logging.getLogger(__name__)

PORTS: Final = {"agents": 8094, "coordinator": 8097, "consumers": 3001, "dashboard": 3000}
"""Documented ports; a taken one is replaced by a free one. The sync worker's is a setting, trainers take any."""
TRAINERS: Final = 2
SINKS: Final = frozenset({"mlflow"})
"""Programs that nobody waits for: whatever ails them, the others start."""
READY_SECONDS: Final = 60.0
"""How long all workers together may take to become ready."""


class StackError(TarsError):
    """The stack cannot start here; the message says why and what to do."""


@dataclass(frozen=True)
class Endpoints:
    """Where everything listens, as written to `endpoints.json`."""

    nats: str
    redis: str | None
    """None: USE_REDIS is false."""
    dashboard: str
    workers: dict[str, str] = field(default_factory=dict)
    """Name -> HTTP address of /health, /ready and /metrics."""
    keys: str | None = None
    """Folder of the seeds and certificates of a secured NATS; None: it asks nobody who comes."""

    def write(self, folder: Path) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        draft = folder / "endpoints.json.new"
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n")
        draft.replace(folder / "endpoints.json")


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Hold a data folder; raises StackError when another `tars up` holds it. The lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise StackError(
                f"{folder} is in use by `tars up` with pid {pid}: stop that one, or choose another folder with --data"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
        lock.truncate(0)


def free_port(wanted: int) -> int:
    """Return `wanted` if nobody listens there on loopback, else a free port."""
    for candidate in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StackError("no free port on 127.0.0.1")


def worker_ports(settings: Settings) -> dict[str, int]:
    """Choose a port for every program of the stack, by name."""
    wanted = {"coordinator": PORTS["coordinator"], **{f"trainer-{n}": 0 for n in range(1, TRAINERS + 1)}}
    wanted |= {"sync": settings.hyperparam_sync_port, "consumers": PORTS["consumers"]}
    wanted |= {"agents": PORTS["agents"], "dashboard": PORTS["dashboard"]}
    if settings.use_mlflow and find_spec("mlflow") is None:
        log.warning("USE_MLFLOW is true, but MLflow is not installed: pip install 'tars-rl[mlflow]'")
    elif settings.use_mlflow:
        wanted["mlflow"] = 0
    return {name: free_port(port) for name, port in wanted.items()}


class Servers:
    """The embedded servers of a data folder, brought back on the same address when they die."""

    def __init__(self, settings: Settings, folder: Path, keys: Path | None) -> None:
        """keys: the folder of what closes NATS; None: it asks nobody who comes."""
        self._folder, self.keys = folder, keys
        self._nats: Server | None = None if settings.nats_url else start_nats(folder / "nats", keys=keys)
        self._valkey: Server | None = None
        if settings.use_redis and not settings.redis_url:
            self._valkey = start_valkey(folder / "valkey")
        self.nats_url = settings.nats_url or (self._nats.url if self._nats else "")
        self.redis_url = settings.redis_url or (self._valkey.url if self._valkey else None)

    async def watch(self) -> None:
        """Start a server again that died, until cancelled."""
        while True:
            await asyncio.sleep(0.5)
            for brought_back in (self._nats_again, self._valkey_again):
                try:
                    await brought_back()
                except (StartError, OSError) as error:  # its port is taken for now, the disk is full
                    log.warning("it did not start, and is tried again", extra={"error": str(error)})

    async def _nats_again(self) -> None:
        if self._nats is not None and not self._nats.alive:
            log.error("nats-server died: starting it again")
            port = int(self._nats.url.rpartition(":")[2])
            self._nats = await asyncio.to_thread(start_nats, self._folder / "nats", port=port, keys=self.keys)

    async def _valkey_again(self) -> None:
        if self._valkey is not None and not self._valkey.alive:
            log.error("valkey died: starting it again")
            self._valkey = await asyncio.to_thread(start_valkey, self._folder / "valkey")

    def stop(self) -> None:
        """Stop what was started here."""
        for server in (self._valkey, self._nats):
            if server is not None:
                server.stop()


def programs(settings: Settings, endpoints: Endpoints, ports: Mapping[str, int], folder: Path) -> list[Program]:
    """Every process of the stack, as `tars run <role>` with the addresses in its environment."""
    own = {name.upper(): str(value) for name, value in settings.model_dump(exclude_none=True).items()}
    env = {**os.environ, **own, "NATS_URL": endpoints.nats, "TARS_DATA": str(folder)}  # noqa: TID251 - they inherit it
    if endpoints.redis:
        env["REDIS_URL"] = endpoints.redis
    env["PYTHONUNBUFFERED"] = "1"
    return [_program(name, port, env, endpoints.keys) for name, port in ports.items()]


def _program(name: str, port: int, env: Mapping[str, str], keys: str | None) -> Program:
    """One of them; on a secured server with the seed of its own role."""
    role = name.partition("-")[0]
    own = (
        {}
        if keys is None
        else {"NATS_NKEY_FILE": str(seed_path(Path(keys), role)), "NATS_CA_FILE": f"{keys}/{AUTHORITY}"}
    )
    return Program(name, [sys.executable, "-m", "tars", "run", role, "--port", str(port)], {**env, **own})


@asynccontextmanager
async def stack(
    settings: Settings, folder: Path, *, sink: Callable[[str, str], None], secure: bool = False
) -> AsyncIterator[tuple[Endpoints, Supervisor]]:
    """Run everything in `folder` (an absolute path); ready when entered, stopped when left.

    sink: hears (program, line) for every line that a program writes. secure: NATS speaks TLS and knows each role by its
    key; a folder that was started so once stays so. Raises StackError when the folder is in use or a worker does not
    become ready, naming it.
    """
    with owned(folder):
        keys = folder / FOLDER if secure else keys_in(folder)
        if secure and settings.nats_url:
            raise StackError("NATS_URL names a server of yours, so it is yours to secure: docs/deployment.md says how")
        if settings.tars_trust is None:
            ensure_operator(folder, settings.tars_user or getpass.getuser())
            if settings.oidc_issuer is not None:
                ensure_page(folder)
        servers = await asyncio.to_thread(Servers, settings, folder, None if settings.nats_url else keys)
        try:
            async with _workers(settings, folder, servers, sink) as running:
                yield running
        finally:
            (folder / "endpoints.json").unlink(missing_ok=True)
            await asyncio.to_thread(servers.stop)


@asynccontextmanager
async def _workers(
    settings: Settings, folder: Path, servers: Servers, sink: Callable[[str, str], None]
) -> AsyncIterator[tuple[Endpoints, Supervisor]]:
    keys = servers.keys
    access = Access("admin", seed_path(keys, "admin"), keys / AUTHORITY) if keys else access_of(settings, "admin")
    bus = await connect_bus(servers.nats_url, "up", access=access, patience=10)
    await provision(bus.jetstream, ack_wait=settings.ack_wait_seconds, replicas=settings.stream_replicas)
    await bus.close()
    ports = worker_ports(settings)
    addresses = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    page = addresses.pop("dashboard")
    endpoints = Endpoints(servers.nats_url, servers.redis_url, page, addresses, str(keys) if keys else None)
    supervisor, stop = Supervisor(programs(settings, endpoints, ports, folder), sink=sink), asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop))
    watching = asyncio.create_task(servers.watch())
    try:
        await _ready(endpoints, running)
        endpoints.write(folder)
        yield endpoints, supervisor
    finally:
        watching.cancel()
        stop.set()
        await running


async def _ready(endpoints: Endpoints, running: asyncio.Task[None]) -> None:
    waiting = {name: f"{address}/ready" for name, address in endpoints.workers.items() if name not in SINKS}
    waiting["dashboard"] = f"{endpoints.dashboard}/_stcore/health"
    try:
        async with asyncio.timeout(READY_SECONDS):
            while waiting:
                if running.done():
                    raise StackError("a worker could not start; its last line above says why")
                for name, address in list(waiting.items()):
                    if await answers(address):
                        del waiting[name]
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise StackError(f"not ready after {READY_SECONDS:.0f} s: {', '.join(waiting)}") from error


async def answers(address: str) -> bool:
    """Say whether an HTTP GET on loopback gives 200."""
    host, _, path = address.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(name, int(port))
            writer.write(f"GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            status = await reader.readline()
            writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in status
