"""Start programs, prefix what they write, start again what dies, stop all in order."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TextIO

from tars.runtime.guardian import Guarded
from tars.runtime.servers import StartError

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
LONG_LIFE: Final = 60.0
"""Seconds; who lived so long starts again after FIRST_DELAY."""
EARLY: Final = 5.0
MISCONFIGURED: Final = 2
"""Exit code of a program that says, in its first EARLY seconds, that its settings are wrong: no restart can help."""
GRACE: Final = 10.0
"""Seconds between SIGTERM and SIGKILL."""
DRAIN_SECONDS: Final = 1.0
"""How long a program's output is still read after its end: a process that it left behind may hold the pipe."""
LONGEST_LINE: Final = 1 << 16
"""Bytes; a longer line is shown in pieces."""
COLOURS: Final = (36, 32, 33, 35, 34, 31)
"""ANSI foregrounds."""

Show = Callable[[str, str], None]
"""Hears (name, line)."""


@dataclass(frozen=True)
class Program:
    """What to run, under which name."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]


class Supervisor:
    """Runs programs until told to stop. They end when this process does, even when it is killed."""

    def __init__(self, programs: Sequence[Program], *, sink: TextIO | Show) -> None:
        """sink: a file, which gets `name | line`, in colour on a terminal, or a function of (name, line)."""
        self._programs = tuple(programs)
        self._show = sink if callable(sink) else prefixing(sink, [program.name for program in programs])
        self._pids: dict[str, int] = {}
        self._restarts = {program.name: 0 for program in programs}
        self._last_line: dict[str, str] = {}

    def pids(self) -> dict[str, int]:
        """Return the process ids of the programs that run now."""
        return dict(self._pids)

    def restarts(self) -> dict[str, int]:
        """Return how often each program was started again."""
        return dict(self._restarts)

    async def run(self, stop: asyncio.Event) -> None:
        """Run all until `stop` is set, a signal comes or this is cancelled; then stop all, the last one first.

        Raises StartError, after all are stopped, with the last line of one that is misconfigured.
        """
        keepers = [asyncio.create_task(self._keep(program)) for program in self._programs]
        stopped = asyncio.create_task(stop.wait())
        with _signals_that_would_kill(stop.set):
            try:
                await asyncio.wait({stopped, *keepers}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
                for keeper in reversed(keepers):
                    keeper.cancel()
                    await asyncio.wait({keeper})
            for keeper in keepers:
                if not keeper.cancelled():
                    keeper.result()

    async def _keep(self, program: Program) -> None:
        """Start one program again and again, until this is cancelled."""
        clock, delay = asyncio.get_running_loop().time, 0.0
        while True:
            began = clock()
            code = await self._run_once(program)
            lived = clock() - began
            if code == MISCONFIGURED and lived < EARLY:
                raise StartError(f"{program.name}: {self._last_line.get(program.name) or 'is misconfigured'}")
            delay = next_delay(delay, lived)
            self._show(program.name, f"{_ending(code)}; starting it again in {delay:g} s")
            await asyncio.sleep(delay)
            self._restarts[program.name] += 1

    async def _run_once(self, program: Program) -> int:
        """Run a program to its end, or end it when this is cancelled; return its exit code."""
        reading, writing = os.pipe()
        try:
            child = Guarded(program.argv, output=writing, grace=GRACE, env=program.env)
        finally:
            os.close(writing)
        output = asyncio.create_task(self._forward(program.name, reading))
        ended = asyncio.create_task(self._follow(program.name, child))
        try:
            await asyncio.wait({output, ended}, return_when=asyncio.FIRST_COMPLETED)
            if output.done():
                output.result()  # a sink that fails ends the program
            await asyncio.wait({ended})
        finally:
            asked = not ended.done()
            child.release()
            await asyncio.wait({ended})
            try:
                await asyncio.wait({output}, timeout=DRAIN_SECONDS)
            finally:
                output.cancel()
            if asked and ended.result() == -signal.SIGKILL:
                self._show(program.name, f"killed: it did not stop in {GRACE:g} s")
        return ended.result()

    async def _follow(self, name: str, child: Guarded) -> int:
        """Wait for the child's end; return its exit code."""
        await _readable(child.fileno())
        try:
            self._pids[name] = child.pid
        except OSError as error:
            raise StartError(f"{name}: {error}") from error
        await _readable(child.fileno())
        del self._pids[name]
        code = child.poll(None)
        return -signal.SIGKILL if code is None else code

    async def _forward(self, name: str, pipe: int) -> None:
        """Show each line that comes through the pipe, and close it at its end."""
        rest, chunk = b"", b"\n"
        try:
            while chunk:
                await _readable(pipe)
                chunk = os.read(pipe, LONGEST_LINE)
                *lines, rest = (rest + chunk).split(b"\n")
                if rest and (not chunk or len(rest) >= LONGEST_LINE):
                    lines, rest = [*lines, rest], b""
                for line in lines:
                    text = line.decode(errors="replace").rstrip()
                    self._last_line[name] = text or self._last_line.get(name, "")
                    self._show(name, text)
        finally:
            os.close(pipe)


def next_delay(delay: float, lived: float) -> float:
    """Return the seconds to wait after a life of `lived` seconds: twice the last `delay`, the least after a long life.

    delay: 0 before the first death.
    """
    return FIRST_DELAY if lived >= LONG_LIFE or not delay else min(2 * delay, LONGEST_DELAY)


def prefixing(sink: TextIO, names: Sequence[str]) -> Show:
    """Return a function that writes each line with its program's name, in a colour of its own on a terminal."""
    width = max(map(len, names), default=0)
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}

    def show(name: str, line: str) -> None:
        label = f"{name:>{width}} |"
        sink.write(f"\x1b[{colours[name]}m{label}\x1b[0m {line}\n" if sink.isatty() else f"{label} {line}\n")
        sink.flush()

    return show


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"ended by signal {-code}"


async def _readable(pipe: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pipe, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(pipe)


@contextmanager
def _signals_that_would_kill(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at SIGINT and SIGTERM where they would end this process at once; they end it when the body is done.

    A caller that handles a signal itself keeps it, as asyncio.run() does SIGINT, by cancelling.
    """
    loop, heard = asyncio.get_running_loop(), list[int]()
    in_main = threading.current_thread() is threading.main_thread()  # others cannot handle signals
    deadly = (signal.SIG_DFL, signal.default_int_handler)
    taken = [number for number in (signal.SIGINT, signal.SIGTERM) if in_main and signal.getsignal(number) in deadly]

    def hear(number: int) -> None:
        heard.append(number)
        stop()

    for number in taken:
        loop.add_signal_handler(number, hear, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
    if heard:
        signal.raise_signal(heard[0])
