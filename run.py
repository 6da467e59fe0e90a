#!/usr/bin/env python3
"""From a fresh clone to a running project.

    python3 run.py demo [options of `tars demo`]
    python3 run.py test [--all] [options of pytest]

The first start makes .venv and puts into it the versions that constraints.txt names. Later starts only look whether
that file, [project] in pyproject.toml, the Python or the folder have changed. Standard library only, and a syntax that
an old Python can read far enough to say that it is too old.
"""

import functools
import hashlib
import os
import re
import select
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - who starts this file has not read pyproject.toml
    sys.exit(f"run.py: needs Python 3.11 or newer, and this is {sys.version.split()[0]}")
if sys.platform == "win32":
    sys.exit("run.py: TARS runs on Linux and macOS; on Windows, use WSL (its servers have no Windows build)")

import fcntl  # not on Windows
import tomllib  # not before Python 3.11

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STATE = VENV / "installed"  # what is installed, or "unfinished": then the next start begins anew
LOG = VENV / "install.log"
LOCK = ROOT / "constraints.txt"
NEEDED = 2.5e9  # bytes: .venv with a CPU build of torch, and room to unpack
REASONS = {
    r"No space left on device|Disk quota exceeded": "the disk is full",
    r"connection broken|NewConnectionError|NameResolution|Connect(ion)?Timeout|ConnectionError|error sending request": (
        "no network: the package index cannot be reached"
    ),
    r"No matching distribution|conflicting dependencies": (
        "pip finds no package of a version in constraints.txt (no network, or none for this Python or machine)"
    ),
}


class CannotInstallError(Exception):
    """Neither uv nor pip could install; the message is one line for a person."""


def main(words: list[str]) -> None:
    """Check, install when needed, then become the command."""
    if not words or words[0] not in {"demo", "test"}:
        sys.exit("usage: python3 run.py demo [options]  or  python3 run.py test [--all] [pytest's options]")
    try:
        check_links()
        want = fingerprint()
        if installed() != want:
            with LOCK.open("r+") as lock:
                install(want, lock.fileno())
    except CannotInstallError as error:
        sys.exit(f"run.py: {error}")
    except KeyboardInterrupt:
        sys.exit("\nrun.py: interrupted; the next start installs anew")
    except OSError as error:
        sys.exit(f"run.py: this folder cannot be used: {error}")
    # -P: the current folder stays off the import path, where `agents` would be a second `tars.agents`.
    os.execv(PYTHON, [str(PYTHON), "-P", "-m", *command(words[0], words[1:])])


def command(name: str, words: list[str]) -> list[str]:
    """Return the module to run, and its words."""
    if name == "demo":
        return ["tars", "demo", *words]
    os.chdir(ROOT)
    # Several at a time, since half of a quick test is waiting for servers; the slow ones keep two cores busy by twos.
    # By file, so that what a file's tests share is made once; in order, or files of few but slow tests come last.
    tier = ["-n", "2", "--no-loadscope-reorder"] if "--all" in words else ["-n", "3", "-m", "not slow"]
    return ["pytest", "--dist", "loadfile", *tier, *(word for word in words if word != "--all")]


def check_links() -> None:
    """Exit when the links in tars/ were unpacked as text files."""
    folders = sorted(init.parent.name for init in ROOT.glob("*/__init__.py"))
    broken = [f"tars/{name}" for name in folders if name != "tars" and not (ROOT / "tars" / name).is_dir()]
    if broken:
        names = ", ".join(broken)
        sys.exit(
            f"run.py: no links here: {names}; clone with git, or unpack by a program that keeps links (tar, unzip)"
        )


def fingerprint() -> list[str]:
    """Return what .venv depends on: this Python and the place (a venv cannot move); the lock and [project]."""
    project = repr(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"])
    parts = f"{sys.version}{VENV}".encode(), LOCK.read_bytes() + project.encode()
    return [hashlib.sha256(part).hexdigest() for part in parts]


def installed() -> list[str]:
    """Return the fingerprint of what .venv holds; empty when nothing is known about it."""
    return STATE.read_text().split() if STATE.is_file() else []


def install(want: list[str], lock: int) -> None:
    """Bring .venv to what `want` stands for; a second run.py waits here, and then finds it done."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another run.py is installing here; waiting for it")
        fcntl.flock(lock, fcntl.LOCK_EX)
    have = installed()
    if have == want:
        return
    say("installing into .venv (minutes the first time; later starts skip this)")
    in_place = have[:1] == want[:1] or (not have and made_by_hand())
    if not in_place:
        venv.create(VENV, clear=True, symlinks=True)
    STATE.write_text("unfinished")
    try:
        fill(lock, check_disk=not in_place)
    except CannotInstallError:
        if in_place:  # what was there still works, and is worth more than an empty .venv
            STATE.write_text("\n".join(have))
        raise
    STATE.write_text("\n".join(want))


def fill(lock: int, *, check_disk: bool) -> None:
    """Install torch, then everything else."""
    free = shutil.disk_usage(VENV).free
    if check_disk and free < NEEDED:
        raise CannotInstallError(f".venv needs about {NEEDED / 1e9} GB, and its disk has {free / 1e9:.1f} GB left")
    # uv, where it is, knows PyTorch's small CPU builds; pip takes what is configured on this machine. torch goes
    # first, because neither replaces one that is there by the gigabytes of a CUDA build.
    backend = ["--torch-backend=auto"] if sys.platform == "linux" else []
    add(["torch"], lock, backend)
    add(["-e", ".[all,dev]"], lock, [])


def made_by_hand() -> bool:
    """Tell whether a .venv of this Python is there that run.py did not make: it is brought up to date, not removed."""
    config = VENV / "pyvenv.cfg"
    version = "^version(_info)? = {}$".format(re.escape(".".join(map(str, sys.version_info[:3]))))
    return PYTHON.exists() and config.is_file() and re.search(version, config.read_text(), re.MULTILINE) is not None


def add(what: list[str], lock: int, for_uv: list[str]) -> None:
    """Install `what` by uv where it is on PATH, else or when that fails by pip. Raises CannotInstallError."""
    words = ["install", f"--constraint={LOCK.name}", *what]
    uv = shutil.which("uv")
    if uv and call([uv, "pip", *words, f"--python={PYTHON}", *for_uv], lock) is None:
        return
    output = call([*find_pip(lock), *words], lock)
    if output is not None:
        raise CannotInstallError(f"{reason(output)}; all that pip said: {LOG}")


@functools.cache
def find_pip(lock: int) -> list[str]:
    """Return a pip for .venv: the one inside this Python, or one from PATH (22.3 or newer) that installs into it.

    Raises CannotInstallError where there is neither.
    """
    if call([str(PYTHON), "-m", "ensurepip", "--default-pip"], lock) is None:
        return [str(PYTHON), "-m", "pip"]
    outside = shutil.which("pip3") or shutil.which("pip")
    if outside and call([outside, f"--python={PYTHON}", "--version"], lock) is None:
        return [outside, f"--python={PYTHON}"]
    raise CannotInstallError("this Python has no pip; on Debian and Ubuntu: sudo apt install python3-venv")


def call(words: list[str], lock: int) -> str | None:
    """Run a command, its newest line moving on the terminal, all of them in LOG; return its output if it failed.

    The child inherits the lock: if run.py is killed, the next one waits until the child has ended too.
    """
    began, output, line = time.monotonic(), b"", ""
    child = subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[lock]
    )
    with child, LOG.open("ab") as log:
        pipe = child.stdout.fileno() if child.stdout else -1
        chunk = b"-"
        while chunk:
            if select.select([pipe], [], [], 1.0)[0]:  # once a second, so that a long download still moves
                chunk = os.read(pipe, 1 << 16)
                log.write(chunk)
                output += chunk
                line = (chunk.decode(errors="replace").splitlines() or [line])[-1].strip()
            show(f"{time.monotonic() - began:4.0f} s  {line}")
    show("")
    return output.decode(errors="replace") if child.returncode else None


def reason(output: str) -> str:
    """Say in one line why pip failed."""
    for pattern, why in REASONS.items():
        if re.search(pattern, output):
            return why
    lines = [line for line in output.splitlines() if line.strip()] or ["pip failed without a word"]
    return ([line for line in lines if line.startswith("ERROR")] or lines)[-1]


def say(text: str) -> None:
    """Tell a person, away from the command's own output."""
    print("run.py: " + text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Replace the moving line, where there is a terminal."""
    if sys.stderr.isatty():
        print("\r\033[K" + text[: shutil.get_terminal_size().columns - 1], end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
