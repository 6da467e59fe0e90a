"""nats-servers that are started while other tests run: each is for one test, and is thrown away behind it."""

import asyncio
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from pathlib import Path

from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats


class ReadyServers:
    """One empty server and one provisioned are always on their way."""

    def __init__(self, folder: Path, ack_wait: float) -> None:
        self._folder, self._ack_wait, self._numbers = folder, ack_wait, count()
        self._threads = ThreadPoolExecutor(2, "ready-servers")
        self._waiting: dict[bool, Future[Server]] = {}

    def take(self, *, provisioned: bool) -> Server:
        """A server that nobody has used."""
        taken = self._waiting.pop(provisioned, None) or self._start(provisioned=provisioned)
        self._waiting[provisioned] = self._start(provisioned=provisioned)
        return taken.result()

    def throw_away(self, server: Server) -> None:
        """End it, and remove its folder, while the next test runs."""
        self._threads.submit(_remove, server)

    def close(self) -> None:
        """End those that nobody took."""
        for waiting in self._waiting.values():
            self._threads.submit(_remove, waiting.result())
        self._threads.shutdown()

    def _start(self, *, provisioned: bool) -> Future[Server]:
        folder = self._folder / str(next(self._numbers))
        return self._threads.submit(self._started, folder, provisioned=provisioned)

    def _started(self, folder: Path, *, provisioned: bool) -> Server:
        server = start_nats(folder)
        if provisioned:
            asyncio.run(self._provision(server.url))
        return server

    async def _provision(self, url: str) -> None:
        bus = await connect_bus(url, "ready", patience=5)
        await provision(bus.jetstream, ack_wait=self._ack_wait)
        await bus.close()


def _remove(server: Server) -> None:
    server.kill()
    shutil.rmtree(server.folder, ignore_errors=True)
