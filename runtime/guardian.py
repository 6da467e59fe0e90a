"""A process between a parent and a program: when the parent is gone, however it ended, the program ends too.

The parent uses Guarded. The guardian itself is this file, run by its path as `python -I -S guardian.py GRACE COMMAND`,
with the standard library alone. Its standard input is a pipe, the lifeline, which only the parent holds: it closes when
the parent lets go, or is killed. (Linux's parent-death signal fires when the creating *thread* ends, so a server that a
worker thread started would die with that thread; and macOS has none.)

On standard output it says two lines: the program's pid, or `!` and why it cannot run; then the program's exit code.
"""

import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

ORPHAN_SECONDS: Final = 0.5
"""How long the end of a program whose guardian was killed is waited for."""


class Guarded:
    """A program under a guardian of its own. It ends with this process, or earlier when nobody holds this object.

    Not for several threads at once; which thread made it, and whether that thread still lives, does not matter.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: int,
        grace: float,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        """Start the guardian; `pid` tells whether the program started.

        output: the descriptor that gets both outputs of the program; grace: seconds between asking it to end and
        ending it; env: None: ours; keep: descriptors it inherits besides.
        """
        self._guardian = subprocess.Popen(  # noqa: S603 - this file, and a command that the caller chose
            [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(grace), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            bufsize=0,
            cwd=cwd,
            env=env,
            pass_fds=keep,
            start_new_session=True,  # Ctrl-C in the terminal is the parent's to handle
        )
        self._pid: int | None = None
        self._code: int | None = None

    @property
    def pid(self) -> int:
        """The program's process id; the first call waits for it, and raises OSError when the program cannot run."""
        if self._pid is None:
            said = self._said.readline().decode().strip()
            if not said.isdecimal():
                self._close()
                raise OSError(said.removeprefix("!") or "its guardian was killed")
            self._pid = int(said)
        return self._pid

    def fileno(self) -> int:
        """Return what becomes readable when the program has started (ask `pid`), and again when it has ended."""
        return self._said.fileno()

    def poll(self, seconds: float | None = 0.0) -> int | None:
        """Wait so long for the program's end (None: for ever); return its exit code, -N for signal N, None: it runs.

        Raises OSError, as `pid` does, when the program cannot run.
        """
        if self._code is None and self.pid and _is_readable(self.fileno(), seconds):
            self._code = self._collect()
        return self._code

    def release(self) -> None:
        """Ask the program to end; its guardian ends it after the grace. Safe to repeat."""
        if self._guardian.stdin is not None:
            self._guardian.stdin.close()

    def kill(self) -> None:
        """End the program at once, as a crash would, and wait until it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(self.pid, signal.SIGKILL)
        self.poll(None)

    @property
    def _said(self) -> IO[bytes]:
        if self._guardian.stdout is None:
            raise OSError("a guardian without a pipe")
        return self._guardian.stdout

    def _collect(self) -> int:
        said = self._said.read().strip()
        self._close()
        if said:
            return int(said)
        end = time.monotonic() + ORPHAN_SECONDS  # the guardian was killed, so nobody else ends the program
        while _end_group(self.pid) and time.monotonic() < end:
            time.sleep(0.01)
        return -signal.SIGKILL

    def _close(self) -> None:
        self.release()
        self._said.close()
        self._guardian.wait()


def _is_readable(pipe: int, seconds: float | None) -> bool:
    with selectors.DefaultSelector() as selector:  # select.select() refuses descriptors above 1023
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def _end_group(leader: int) -> bool:
    """Kill what is left of a program and of the processes it started; say whether there was anything."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS: the latter for a group of zombies
        return False
    return True


def _guard(grace: float, command: list[str]) -> None:
    """Run the program in a group of its own until it ends or the lifeline does."""
    parent = os.getppid()
    try:
        # Its output goes where our errors go: on our standard output it would mix with what we say.
        program = subprocess.Popen(  # noqa: S603 - what the parent asked for
            command, stdin=subprocess.DEVNULL, stdout=2, close_fds=False, start_new_session=True
        )
    except OSError as error:
        _say(f"!cannot run {command[0]}: {error.strerror}")
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: program.terminate())
    threading.Thread(target=_hold, args=(program, grace, parent), daemon=True).start()
    _say(str(program.pid))
    code = program.wait()
    _end_group(program.pid)
    _say(str(code))


def _hold(program: "subprocess.Popen[bytes]", grace: float, parent: int) -> None:
    """End the program when the lifeline closes, or when we are somebody else's child."""
    # The second, because a parent that forks without exec leaves a copy of the lifeline open in its child.
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], 1.0)
        if readable and not os.read(0, 64):
            break
    program.terminate()
    try:
        program.wait(grace)
    except subprocess.TimeoutExpired:
        program.kill()


def _say(line: str) -> None:
    with suppress(BrokenPipeError):  # the parent is gone: the lifeline says so too
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    _guard(float(sys.argv[1]), sys.argv[2:])
    os._exit(0)  # at once: the thread may still be waiting
