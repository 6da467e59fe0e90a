"""A process between a parent and its child: when the parent is gone, however it ended, the child ends too.

Run as `python -I -S guardian.py <command...>` by path, with the standard library alone. It holds one end of a pipe; the
parent's death closes the other. (Linux's parent-death signal fires when the creating *thread* ends, so a server that a
worker thread started would die with that thread.)
"""

import os
import signal
import subprocess
import sys
import threading

GRACE = 10.0
"""Seconds between asking a child to end and ending it."""


def main() -> int:
    """Start the child, print its pid, and end it when standard input closes."""
    # The child must not inherit the pid pipe, or its log would mix with it: its output goes where our errors go.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=2, close_fds=False)  # noqa: S603
    print(child.pid, flush=True)  # noqa: T201 - the parent reads it
    os.close(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: child.terminate())
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    return child.wait()


def _watch(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 64):  # not sys.stdin: its lock would abort the exit
        continue
    child.terminate()
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()


if __name__ == "__main__":
    sys.exit(main())
