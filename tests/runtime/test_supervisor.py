"""Programs are started, named in what they write, started again when they die, and stopped with their supervisor."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import have_ended, is_running

from tars.runtime import supervisor as module
from tars.runtime.servers import StartError
from tars.runtime.supervisor import Program, Supervisor, next_delay

pytestmark = pytest.mark.anyio
LIVES = "import time; print('up', flush=True); time.sleep(60)"
SAYS_BYE = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit()));"
    "print('up', flush=True); time.sleep(60)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


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

    async def is_up(self, *names: str) -> None:
        await until(lambda: {(name, "up") for name in names} <= set(self.heard))

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def test_programs_are_stopped_the_last_one_first() -> None:
    run = Run(*(python(name, SAYS_BYE) for name in "abc"))
    await run.is_up(*"abc")
    pids = run.supervisor.pids()
    await run.end()
    assert [name for name, line in run.heard if line == "bye"] == ["c", "b", "a"]
    assert run.supervisor.pids() == {}
    assert not any(map(is_running, pids.values()))


async def test_a_stop_right_after_the_start_leaves_nothing_and_waits_for_no_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "GRACE", 3600.0)
    run = Run(python("a", LIVES), python("b", LIVES))
    await asyncio.sleep(0)  # it has begun
    await run.end()
    assert run.supervisor.pids() == {}


async def test_a_cancelled_run_stops_its_programs() -> None:
    run = Run(python("a", SAYS_BYE))
    await run.is_up("a")
    run.task.cancel()
    await asyncio.wait({run.task})
    assert run.heard[-1] == ("a", "bye")


async def test_a_killed_program_is_started_again_and_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    run = Run(python("a", LIVES))
    await run.is_up("a")
    os.kill(run.supervisor.pids()["a"], signal.SIGKILL)
    await until(lambda: run.heard.count(("a", "up")) == 2)
    assert run.heard[1:] == [("a", "ended by SIGKILL; starting it again in 0.01 s"), ("a", "up")]
    assert run.supervisor.restarts() == {"a": 1}
    await run.end()


async def test_a_process_that_a_killed_program_left_behind_does_not_hinder_its_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It holds the program's output open, as a page server under a wrapper would."""
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-I', '-S', '-c', {LIVES!r}]); {LIVES}"
    run = Run(python("a", code))
    await until(lambda: run.heard.count(("a", "up")) == 2)
    os.kill(run.supervisor.pids()["a"], signal.SIGKILL)
    await until(lambda: run.heard.count(("a", "up")) == 4)
    await run.end()


async def test_one_that_keeps_dying_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    run = Run(python("a", "raise SystemExit(1)"))
    await until(lambda: run.supervisor.restarts()["a"] == 3)
    await run.end()
    assert [line.split()[-2] for _, line in run.heard if "starting it again" in line][:3] == ["0.01", "0.02", "0.04"]


@given(st.lists(st.floats(0, 59.9), min_size=1, max_size=20))
def test_short_lives_double_the_delay_from_half_a_second_to_thirty(lives: Sequence[float]) -> None:
    delay = 0.0
    for index, lived in enumerate(lives):
        delay = next_delay(delay, lived)
        assert delay == min(0.5 * 2**index, 30.0)
    assert next_delay(delay, 60.0) == 0.5


async def test_a_misconfigured_program_stops_everything_with_its_line() -> None:
    run = Run(python("a", LIVES), python("b", "import sys; print('X=1 is not allowed'); sys.exit(2)"))
    with pytest.raises(StartError, match="^b: X=1 is not allowed$"):
        await asyncio.wait_for(run.task, 20)
    assert ("b", "X=1 is not allowed") in run.heard
    assert run.supervisor.restarts() == {"a": 0, "b": 0}
    assert run.supervisor.pids() == {}


async def test_code_2_after_the_first_seconds_is_a_death_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EARLY", 0.0)
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)
    run = Run(python("a", "raise SystemExit(2)"))
    await until(lambda: run.supervisor.restarts()["a"] == 1)
    await run.end()


async def test_a_program_that_does_not_exist_stops_everything_and_is_named() -> None:
    run = Run(python("a", LIVES), Program("b", ["/no/such"], {}))
    with pytest.raises(StartError, match="^b: cannot run /no/such: No such file or directory$"):
        await asyncio.wait_for(run.task, 20)


async def test_one_that_does_not_listen_is_killed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.3)
    run = Run(python("a", DEAF))
    await run.is_up("a")
    await run.end()
    assert run.heard[-1] == ("a", "killed: it did not stop in 0.3 s")


async def test_a_line_of_any_length_and_bytes_comes_through_whole() -> None:
    run = Run(python("a", r"import os, time; os.write(1, b'x' * 200_000 + b'\n\xff end\n'); time.sleep(60)"))
    await until(lambda: ("a", "\ufffd end") in run.heard)
    assert "".join(line for _, line in run.heard) == "x" * 200_000 + "\ufffd end"
    await run.end()


async def test_a_last_line_without_an_end_is_shown() -> None:
    run = Run(python("a", "import os; os.write(2, b'half a line'); os._exit(1)"))
    await until(lambda: ("a", "half a line") in run.heard)
    await run.end()


async def test_a_sink_that_fails_ends_the_run_with_its_error() -> None:
    def refuse(name: str, line: str) -> None:
        raise BrokenPipeError(name, line)

    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(Supervisor([python("a", LIVES)], sink=refuse).run(asyncio.Event()), 20)


class Terminal(io.StringIO):
    """A text file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("sink", "line"),
    [(io.StringIO(), " a | up\n"), (Terminal(), "\x1b[36m a |\x1b[0m up\n")],
    ids=["file", "terminal"],
)
async def test_a_file_gets_each_line_behind_the_name_of_its_program(sink: io.StringIO, line: str) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(Supervisor([python("a", LIVES), python("bc", LIVES)], sink=sink).run(stop))
    await until(lambda: sink.getvalue().count("up") == 2)
    stop.set()
    await running
    assert line in sink.getvalue()


SUPERVISOR = (
    "import asyncio, sys; from tars.runtime.supervisor import *;"
    "p = [Program(n, [sys.executable, '-I', '-S', '-c', sys.argv[1]], {}) for n in 'ab'];"
    "asyncio.run(Supervisor(p, sink=lambda n, l: print(n, l, flush=True)).run(asyncio.Event()))"
)


def supervising(code: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SUPERVISOR, code]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_programs_end_when_their_supervisor_is_killed() -> None:
    with supervising("import os, time; print(os.getpid(), flush=True); time.sleep(60)") as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline().split()[1]) for _ in "ab"]
        parent.kill()
    assert have_ended(*pids)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_in_order_and_then_ends_the_supervisor(number: signal.Signals) -> None:
    with supervising(SAYS_BYE) as parent:
        assert parent.stdout is not None
        assert {parent.stdout.readline() for _ in "ab"} == {"a up\n", "b up\n"}
        parent.send_signal(number)
        assert parent.stdout.read() == "b bye\na bye\n"
    assert parent.returncode == -number
