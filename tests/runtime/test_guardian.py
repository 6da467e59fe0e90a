"""A program ends with its parent, whatever ends the parent and whenever; and leaves nothing behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import have_ended, is_running

from tars.runtime import guardian
from tars.runtime.guardian import Guarded

LIVES = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    """Where programs write."""
    with (tmp_path / "output").open("w+b") as file:
        yield file.fileno()


def test_a_program_ends_when_it_is_released_and_tells_its_code(output: int) -> None:
    program = Guarded(LIVES, output=output, grace=10)
    assert is_running(program.pid)
    assert program.poll() is None
    program.release()
    assert program.poll(None) == -signal.SIGTERM
    assert not is_running(program.pid)


def test_an_exit_code_comes_through(output: int) -> None:
    program = Guarded(["/bin/sh", "-c", "exit 7"], output=output, grace=10)
    assert program.poll(None) == 7


def test_a_program_that_cannot_run_says_which_and_why(output: int) -> None:
    with pytest.raises(OSError, match="cannot run /no/such: No such file or directory"):
        _ = Guarded(["/no/such"], output=output, grace=10).pid


def test_a_parent_that_dies_before_it_hears_the_pid_leaves_no_program() -> None:
    """Both pipes are dead from the start: the guardian can tell nobody, and must end the program nevertheless."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-I", "-S", guardian.__file__, "10", *LIVES]
    # It returns when nobody holds standard error any more, and the program holds it.
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=writing, stderr=subprocess.PIPE, check=True, timeout=20
    )
    os.close(writing)
    assert done.stderr == b""


def test_what_a_killed_program_had_started_ends_too(output: int) -> None:
    code = f"import subprocess, time; print(subprocess.Popen({LIVES!r}).pid, flush=True); time.sleep(60)"
    program = Guarded([sys.executable, "-I", "-S", "-c", code], output=output, grace=10)
    while not (written := os.pread(output, 20, 0)).endswith(b"\n"):
        assert program.poll(0.01) is None
    program.kill()
    assert have_ended(int(written))


def test_a_killed_guardian_does_not_leave_its_program_behind(output: int) -> None:
    program = Guarded(LIVES, output=output, grace=10)
    listed = subprocess.run(["ps", "-o", "ppid=", "-p", str(program.pid)], capture_output=True, text=True, check=True)  # noqa: S607
    os.kill(int(listed.stdout), signal.SIGKILL)
    assert program.poll(None) == -signal.SIGKILL
    assert have_ended(program.pid)


@pytest.mark.slow  # the guardian looks once a second
def test_a_fork_of_the_parent_does_not_keep_the_program_alive(tmp_path: Path) -> None:
    """It holds a copy of the pipe, so its end alone would not tell that the parent is gone."""
    code = (
        "import os, sys, time; from tars.runtime.guardian import Guarded;"
        f"program = Guarded({LIVES!r}, output=2, grace=10); pid = program.pid; fork = os.fork();"
        "fork and print(pid, fork, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    program, fork = map(int, parent.stdout.readline().split())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert is_running(fork)
    assert have_ended(program)
    os.kill(fork, signal.SIGKILL)
