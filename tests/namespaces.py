"""Two networks and a router between them that can make all that passes vanish: no end hears that the other is gone."""

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Self, TypeVar

NEW_NETWORK: Final = 0x40000000
"""CLONE_NEWNET of setns(2)."""
NEAR, FAR = "10.0.1.2", "10.0.2.2"
T = TypeVar("T")


def lacking() -> str | None:
    """Why no networks can be made here; None: they can."""
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"there is no {program} here"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)  # noqa: S607
    return f"no network can be made here: {tried.stderr.strip()}" if tried.returncode else None


class Namespace:
    """A network of its own, without a name: it is gone with the process that holds it, which ends with this one."""

    def __init__(self) -> None:
        holding = ["unshare", "--net", "sh", "-c", "echo made; exec cat"]
        self._holder = subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"made\n"
        self.pid: Final = self._holder.pid
        self.do("ip", "link", "set", "lo", "up")

    def do(self, *command: str) -> None:
        """Run a command in it."""
        subprocess.run(["nsenter", "-t", str(self.pid), "-n", *command], check=True)  # noqa: S607

    def ask(self, question: Callable[[], T]) -> T:
        """Call a function whose connections are made in it."""
        found: list[T] = []

        def answer() -> None:
            enter(self.pid)
            found.append(question())

        asking = threading.Thread(target=answer)
        asking.start()
        asking.join()
        return found[0]

    def close(self) -> None:
        """End it."""
        self._holder.communicate()


class Strait:
    """NEAR and FAR, and what lies between them."""

    def __init__(self) -> None:
        self.near, self.far, self._router = made = Namespace(), Namespace(), Namespace()
        self._made: Sequence[Namespace] = made
        for name, end, address in (("near", self.near, NEAR), ("far", self.far, FAR)):
            door = f"{address[:-1]}1"
            peer = ("peer", "name", "eth0", "netns", str(end.pid))
            self._router.do("ip", "link", "add", name, "type", "veth", *peer)
            self._router.do("ip", "address", "add", f"{door}/24", "dev", name)
            self._router.do("ip", "link", "set", name, "up")
            end.do("ip", "address", "add", f"{address}/24", "dev", "eth0")
            end.do("ip", "link", "set", "eth0", "up")
            end.do("ip", "route", "add", "default", "via", door)
        self._router.do("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def cut(self) -> None:
        """Let whatever comes vanish, without a word to who sent it."""
        for address in (NEAR, FAR):
            self._router.do("ip", "route", "add", "blackhole", address)

    def heal(self) -> None:
        """Let everything through again."""
        for address in (NEAR, FAR):
            self._router.do("ip", "route", "del", "blackhole", address)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *error: object) -> None:
        """End all three."""
        for namespace in self._made:
            namespace.close()


@contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """Let this thread, and what it starts, be in a network meanwhile."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    enter(namespace.pid)
    try:
        yield
    finally:
        _set(before)


def enter(pid: int) -> None:
    """Move this thread to the network of a process."""
    _set(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))


def _set(network: int) -> None:
    """Python has os.setns from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.setns(network, NEW_NETWORK)
    os.close(network)
    if failed:
        raise OSError(ctypes.get_errno(), "setns")
