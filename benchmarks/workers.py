"""Real processes of the project on servers of their own, and what each takes of processor and memory."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import start_nats, start_valkey
from tars.runtime.stack import answers, free_port

PATIENCE: Final = 120.0
"""Seconds until a process that is not ready ends the benchmark: no measure, a limit."""


@dataclass(frozen=True)
class Use:
    """What a process has taken up to a moment."""

    cpu_seconds: float
    megabytes: float
    """Resident, 10^6 bytes."""


@dataclass
class Workers:
    """Servers, workers on them by name, and a connection of the benchmark's own."""

    folder: Path
    bus: Bus
    environment: Mapping[str, str]
    processes: dict[str, psutil.Process]
    """By name; servers too."""
    children: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    async def start(self, name: str, *command: str) -> None:
        """Start `tars run <role>`, the role being what `name` begins with, or a command of Python's."""
        self.ports[name] = free_port(0)
        words = command or ("-m", "tars", "run", name.partition("-")[0], "--port", str(self.ports[name]))
        self.children[name] = child = await asyncio.create_subprocess_exec(
            sys.executable, *words, env=os.environ | self.environment, stdout=asyncio.subprocess.DEVNULL
        )
        self.processes[name] = psutil.Process(child.pid)

    async def end(self, name: str) -> None:
        """Kill one, and forget it."""
        child = self.children.pop(name)
        del self.processes[name]
        if child.returncode is None:
            child.kill()
        await child.wait()

    async def ready(self, *names: str) -> None:
        """Wait until these say that they are ready; raises ChildProcessError for one that has ended."""
        for name in names:
            path = "_stcore/health" if name.startswith("dashboard") else "ready"
            address = f"http://127.0.0.1:{self.ports[name]}/{path}"

            async def there(name: str = name, address: str = address) -> bool:
                if self.children[name].returncode is not None:
                    raise ChildProcessError(f"{name} ended before it was ready")
                return await answers(address)

            await until(there, what=f"{name} is not ready at {address}")

    def use(self) -> dict[str, Use]:
        """What each process has taken; raises psutil.NoSuchProcess for one that has ended."""
        found = {}
        for name, process in self.processes.items():
            with process.oneshot():
                times = process.cpu_times()
                found[name] = Use(times.user + times.system, process.memory_info().rss / 1e6)
        return found


@asynccontextmanager
async def servers(ack_wait: float = 30.0, **environment: str) -> AsyncIterator[Workers]:
    """A fresh nats-server that fsyncs and a Valkey; whatever was started on them is killed in the end.

    ack_wait: seconds after which what a killed worker had goes to the next.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tars-bench-")))
        nats, valkey = stack.enter_context(start_nats(folder / "n")), stack.enter_context(start_valkey(folder / "v"))
        bus = await connect_bus(nats.url, "bench", patience=5)
        await provision(bus.jetstream, ack_wait=ack_wait)
        settings = {
            "NATS_URL": nats.url, "REDIS_URL": valkey.url, "TARS_DATA": str(folder), "LOG_LEVEL": "ERROR",
            "ACK_WAIT_SECONDS": str(ack_wait),
        }  # fmt: skip
        running = {"nats-server": psutil.Process(nats.pid), "valkey": psutil.Process(valkey.pid)}
        found = Workers(folder, bus, settings | environment, running)
        try:
            yield found
        finally:
            for name in [*found.children]:
                await found.end(name)
            await bus.close()


async def until(true: Callable[[], Awaitable[bool]], what: str = "still not so") -> None:
    """Wait until something holds; raises TimeoutError, which says what does not."""
    end = time.monotonic() + PATIENCE
    while not await true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} after {PATIENCE:g} s")
        await asyncio.sleep(0.1)
