"""Start programs, prefix what they write, start again what dies, stop all in order."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tars.runtime.servers import GUARDIAN

log = logging.getLogger(__name__)

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
LONG_LIFE: Final = 60.0
"""Seconds after which a program that dies is started again without a longer delay."""
EARLY: Final = 5.0
MISCONFIGURED: Final = 2
"""Exit code of a program that says, in its first EARLY seconds, that its settings are wrong: no restart can help."""
GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Program:
    """What to run, under which name."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]


class Supervisor:
    """Runs programs until told to stop. They end when this process does, even when it is killed."""

    def __init__(self, programs: Sequence[Program], *, sink: Callable[[str, str], None]) -> None:
        self._programs = programs
        self._sink = sink
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._pids: dict[str, int] = {}
        self._restarts = {program.name: 0 for program in programs}
        self._stopping = False

    def pids(self) -> dict[str, int]:
        """Return the process ids of the programs that run now."""
        return dict(self._pids)

    def restarts(self) -> dict[str, int]:
        """Return how often each program was started again."""
        return dict(self._restarts)

    async def run(self, stop: asyncio.Event) -> None:
        """Run all until `stop` is set or one is misconfigured; then stop all, the last started first."""
        watchers = [asyncio.create_task(self._keep(program)) for program in self._programs]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({stopped, *watchers}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping = True
            stopped.cancel()
            for program in reversed(self._programs):
                await self._stop(program.name)
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _keep(self, program: Program) -> None:
        """Start one program again and again; returns only when it is misconfigured."""
        loop, delay = asyncio.get_running_loop(), FIRST_DELAY
        while True:
            began = loop.time()
            code = await self._run_once(program)
            lived = loop.time() - began
            if self._stopping or (code == MISCONFIGURED and lived < EARLY):
                return
            delay = FIRST_DELAY if lived > LONG_LIFE else delay
            self._sink(program.name, f"ended with code {code}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
            self._restarts[program.name] += 1

    async def _run_once(self, program: Program) -> int:
        guardian = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", str(GUARDIAN), *program.argv,
            env=dict(program.env), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True, limit=1 << 20,
        )  # fmt: skip
        self._running[program.name] = guardian
        try:
            if guardian.stdout is not None and (line := await guardian.stdout.readline()):
                self._pids[program.name] = int(line)
            if guardian.stderr is not None:
                await self._forward(program.name, guardian.stderr)
            return await guardian.wait()
        finally:
            self._pids.pop(program.name, None)
            self._running.pop(program.name, None)

    async def _forward(self, name: str, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            self._sink(name, line.decode(errors="replace").rstrip())

    async def _stop(self, name: str) -> None:
        guardian = self._running.get(name)
        if guardian is None:
            return
        self._signal(name, signal.SIGTERM)
        try:
            async with asyncio.timeout(GRACE):
                await guardian.wait()
        except TimeoutError:
            log.warning("did not stop in time", extra={"program": name})
            self._signal(name, signal.SIGKILL)
            await guardian.wait()

    def _signal(self, name: str, number: int) -> None:
        if name in self._pids:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(self._pids[name], number)
