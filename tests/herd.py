"""Workers as real processes, to be killed and frozen; forked from one that has imported all, so that many may die."""

import asyncio
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from tars.cli.main import main

WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(
    [f"tars.{name}" for name in ("cli.main", "sync_worker.app", "consumers.app", "automl_worker.app", "agents.host")]
)
Program = Callable[[], None]


class Herd:
    """Processes of `tars run <role>`, or of `programs` by their name; one that is killed is replaced at once."""

    def __init__(
        self, environment: dict[str, str], log: Path, seed: int, programs: Mapping[str, Program] | None = None
    ) -> None:
        self._environment = os.environ | environment
        self._log = log
        self._random = random.Random(seed)
        self._programs = programs or {}
        self._processes: dict[str, multiprocessing.process.BaseProcess] = {}
        self._changing = asyncio.Lock()
        self.kills: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()
        """Workers that ended though nobody killed them."""

    async def start(self, name: str) -> None:
        """Start a worker; `name` is its role, with a number behind a dash where there are several."""
        role = name.partition("-")[0]
        arguments = (self._programs.get(name), role, self._environment, str(self._log))
        process = WARM.Process(target=_work, args=arguments, name=name, daemon=True)
        await asyncio.to_thread(_started, process)
        self._processes[name] = process

    async def kill(self, name: str) -> None:
        """Kill one worker with SIGKILL and start its successor."""
        async with self._changing:
            await self.end(name)
            self.kills[name.partition("-")[0]] += 1
            await self.start(name)

    async def supervise(self) -> None:
        """Replace those that end by themselves, until cancelled."""
        while True:
            async with self._changing:
                for name in [name for name, process in self._processes.items() if not process.is_alive()]:
                    self.ended[name.partition("-")[0]] += 1
                    await self.start(name)
            await asyncio.sleep(0.1)

    def send(self, name: str, sign: signal.Signals) -> None:
        """Freeze (SIGSTOP) or thaw (SIGCONT) a worker."""
        with suppress(ProcessLookupError):  # it has ended by itself, which is counted elsewhere
            os.kill(self._pid(name), sign)

    def name_of(self, holder: str) -> str | None:
        """The worker that calls itself so in its messages, if it still lives."""
        pid = int(holder.rsplit("-", 2)[1])
        return next((name for name, process in self._processes.items() if process.pid == pid), None)

    async def kill_some(self, names: Sequence[str], count: int, every: tuple[float, float]) -> None:
        """Kill workers one after the other, which and when by the seed."""
        for _ in range(count):
            await asyncio.sleep(self._random.uniform(*every))
            await self.kill(self._random.choice(names))

    async def stop(self) -> None:
        """End them all."""
        for name in self._processes:
            await self.end(name)

    async def end(self, name: str) -> None:
        """Kill one without a successor."""
        process = self._processes[name]
        process.kill()
        await asyncio.to_thread(process.join)

    def _pid(self, name: str) -> int:
        pid = self._processes[name].pid
        assert pid is not None
        return pid


def _started(process: multiprocessing.process.BaseProcess) -> None:
    """Start it without a `__main__`: it would be run there first, and Streamlit's AppTest leaves its page as that."""
    own, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = own


def _work(program: Program | None, role: str, environment: dict[str, str], log: str) -> None:
    """What a process of the herd does: it lives no longer than whoever started the herd."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    written = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(written, 1)
    os.dup2(written, 2)
    if program is not None:
        program()
        return
    sys.argv = ["tars", "run", role, "--port", "0"]
    main()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)
