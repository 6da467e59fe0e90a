"""Programs are started, named in what they write, started again when they die, and stopped with their supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tars.runtime import supervisor as module
from tars.runtime.supervisor import Program, Supervisor

pytestmark = pytest.mark.anyio
LIVES = "import time; print('up', flush=True); time.sleep(60)"


def python(name: str, code: str) -> Program:
    return Program(name, [sys.executable, "-I", "-S", "-c", code], {})


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.02)


class Run:
    """A supervisor that runs, and what it heard."""

    def __init__(self, *programs: Program) -> None:
        self.heard: list[tuple[str, str]] = []
        self.supervisor = Supervisor(programs, sink=lambda name, line: self.heard.append((name, line)))
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.supervisor.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def test_each_line_comes_with_the_name_of_its_program() -> None:
    run = Run(python("a", LIVES), python("b", LIVES))
    await until(lambda: {("a", "up"), ("b", "up")} <= set(run.heard))
    await run.end()
    assert run.supervisor.pids() == {}


async def test_a_killed_program_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    run = Run(python("a", LIVES))
    await until(lambda: ("a", "up") in run.heard)
    os.kill(run.supervisor.pids()["a"], signal.SIGKILL)
    await until(lambda: run.heard.count(("a", "up")) == 2)
    assert run.supervisor.restarts() == {"a": 1}
    await run.end()


async def test_one_that_keeps_dying_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    run = Run(python("a", "raise SystemExit(1)"))
    await until(lambda: run.supervisor.restarts()["a"] == 3)
    await run.end()
    waits = [line.split()[-2] for _, line in run.heard if "starting it again" in line]
    assert waits[:3] == ["0.01", "0.02", "0.04"]


async def test_a_misconfigured_program_stops_everything_with_its_line() -> None:
    run = Run(python("a", LIVES), python("b", "import sys; print('X=1 is not allowed'); sys.exit(2)"))
    await asyncio.wait_for(run.task, 20)
    assert ("b", "X=1 is not allowed") in run.heard
    assert run.supervisor.restarts() == {"a": 0, "b": 0}


async def test_one_that_does_not_listen_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    run = Run(python("a", deaf))
    await until(lambda: ("a", "up") in run.heard)
    await run.end()
    assert run.supervisor.pids() == {}


async def test_programs_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from tars.runtime.supervisor import *;"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)';"
        "p = Program('a', [sys.executable, '-c', code], {});"
        "asyncio.run(Supervisor([p], sink=lambda n, l: print(l, flush=True)).run(asyncio.Event()))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def is_gone() -> bool:
        stat = Path(f"/proc/{child}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"

    await until(is_gone)
