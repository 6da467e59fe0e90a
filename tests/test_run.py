"""run.py, started as a newcomer starts it: what it says when it cannot work, and that it installs once, and whole."""

import ast
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Start = Callable[..., subprocess.CompletedProcess[str]]

PIP = """#!/bin/sh
case "$*" in *--version) exit 0 ;; esac
echo "$*" >> "{folder}/pip.log"
{then}
"""
"""A pip on PATH that only says what it was asked for: the real one takes minutes."""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what run.py needs, in a folder whose name has a space, as a user's may."""
    folder = tmp_path / "my clone"
    folder.mkdir()
    for name in ("run.py", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "tars").mkdir()
    shutil.copy(ROOT / "tars" / "__init__.py", folder / "tars")
    (folder / "agents").mkdir()
    shutil.copy(ROOT / "agents" / "__init__.py", folder / "agents")
    (folder / "tars" / "agents").symlink_to(Path("..") / "agents")
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a Debian without python3-venv: ensurepip fails, and PATH has neither pip nor uv."""
    (tmp_path / "ensurepip.py").write_text("raise SystemExit('No module named ensurepip')")
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin"), "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def start(clone: Path, bare: dict[str, str]) -> Start:
    """Start the clone's run.py and wait for its end."""

    def run(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "run.py", *words)
        return subprocess.run(
            words, cwd=clone, env=environment or bare, capture_output=True, text=True, check=False, timeout=120
        )

    return run


def put_pip(bare: dict[str, str], then: str = "") -> Path:
    """Put a pip on PATH; return the file that will hold what it was asked for."""
    folder = Path(bare["PATH"])
    (folder / "pip3").write_text(PIP.format(folder=folder, then=then))
    (folder / "pip3").chmod(0o755)
    return folder / "pip.log"


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """What a person reads; fails when run.py did not fail, or showed a traceback."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_no_command_shows_the_two_there_are(start: Start) -> None:
    assert "run.py demo" in last_line(start())


def test_an_old_python_is_named_with_the_version_needed(clone: Path) -> None:
    code = "import runpy, sys; sys.version_info = (3, 8, 0); runpy.run_path('run.py', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, check=False)
    assert last_line(result).startswith("run.py: needs Python 3.11 or newer, and this is 3.")


def test_an_old_python_can_read_the_file_that_tells_it_so() -> None:
    ast.parse((ROOT / "run.py").read_text(), feature_version=(3, 7))


def test_links_that_became_text_files_are_named(clone: Path, start: Start) -> None:
    (clone / "tars" / "agents").unlink()
    (clone / "tars" / "agents").write_text("../agents")  # what git writes with core.symlinks=false
    assert "no links here: tars/agents;" in last_line(start("test"))


def test_a_python_without_pip_names_the_package_that_is_missing(start: Start) -> None:
    assert "sudo apt install python3-venv" in last_line(start("test"))


def test_a_disk_that_takes_no_bytes_is_named(clone: Path, bare: dict[str, str]) -> None:
    words = ["/bin/sh", "-c", 'ulimit -f 0; exec "$0" run.py test', sys.executable]
    result = subprocess.run(words, cwd=clone, env=bare, capture_output=True, text=True, check=False)
    assert last_line(result).startswith("run.py: this folder cannot be used: [Errno")


def test_a_disk_that_is_too_small_is_named_before_anything_is_fetched(clone: Path, bare: dict[str, str]) -> None:
    asked = put_pip(bare)
    code = "import run; run.NEEDED = 1e18; run.main(['test'])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=clone, env=bare, capture_output=True, text=True, check=False
    )
    assert "GB left" in last_line(result)
    assert not asked.exists()


def test_a_failing_pip_is_quoted_in_one_line(bare: dict[str, str], start: Start) -> None:
    put_pip(bare, "echo 'ERROR: torch is nowhere'; echo 'and more'; exit 1")
    assert last_line(start("test")).startswith("run.py: ERROR: torch is nowhere; all that pip said: ")


@pytest.mark.slow
def test_no_network_is_said_so(start: Start) -> None:
    unreachable = {
        "PATH": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",  # discard: nobody listens there
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }
    assert "no network: the package index cannot be reached" in last_line(start("test", environment=unreachable))


@pytest.mark.slow
def test_a_folder_of_packages_without_ours_is_said_so(tmp_path: Path, start: Start) -> None:
    nothing = {"PATH": "", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    assert "pip finds no package of a version in constraints.txt" in last_line(start("test", environment=nothing))


def test_torch_is_installed_first_and_all_by_the_tested_versions(bare: dict[str, str], start: Start) -> None:
    asked = put_pip(bare)
    start("test")
    torch, project = (line.split("install ")[1] for line in asked.read_text().splitlines())
    assert torch == "--constraint=constraints.txt torch"
    assert project == "--constraint=constraints.txt -e .[all,dev]"


def test_a_second_start_installs_nothing(bare: dict[str, str], start: Start) -> None:
    asked = put_pip(bare)
    start("test")
    asked.unlink()
    result = start("test")
    assert "No module named pytest" in result.stderr  # it became .venv's python, where this pip has put nothing
    assert not asked.exists()


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        (["demo", "--once"], "-P -m tars demo --once"),
        (["test"], "-P -m pytest --dist loadfile -n 3 -m not slow"),
        (["test", "-k", "reload"], "-P -m pytest --dist loadfile -n 3 -m not slow -k reload"),
        (["test", "--all", "-x"], "-P -m pytest --dist loadfile -n 2 --no-loadscope-reorder -x"),
    ],
)
def test_a_command_becomes_its_module(
    words: list[str], becomes: str, clone: Path, bare: dict[str, str], start: Start
) -> None:
    put_pip(bare, f"rm -f '{clone}/.venv/bin/python'; printf '#!/bin/sh\\necho \"$@\"' > '{clone}/.venv/bin/python'; "
                  f"chmod +x '{clone}/.venv/bin/python'")  # fmt: skip
    bare["PATH"] += ":/usr/bin:/bin"  # rm, chmod
    result = start(*words)
    assert (result.stdout.strip(), result.returncode) == (becomes, 0)


def test_two_first_starts_at_once_install_once(clone: Path, bare: dict[str, str]) -> None:
    asked = put_pip(bare)
    words = [sys.executable, "run.py", "test"]
    both = [subprocess.Popen(words, cwd=clone, env=bare, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert all("No module named pytest" in one.communicate()[1] for one in both)
    assert len(asked.read_text().splitlines()) == 2


def test_a_changed_lock_that_cannot_be_installed_leaves_what_was_there(
    clone: Path, bare: dict[str, str], start: Start
) -> None:
    asked = put_pip(bare)
    start("test")
    state = (clone / ".venv" / "installed").read_text()
    with (clone / "constraints.txt").open("a") as lock:
        lock.write("# changed\n")
    asked.unlink()
    put_pip(bare, "exit 1")
    assert start("test").returncode != 0
    assert asked.exists()
    assert (clone / ".venv" / "installed").read_text() == state


def test_a_venv_made_by_hand_is_filled_and_not_removed(clone: Path, bare: dict[str, str], start: Start) -> None:
    put_pip(bare)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=clone, check=True)
    (clone / ".venv" / "mine").touch()
    start("test")
    assert (clone / ".venv" / "mine").exists()


@pytest.fixture
def killed(clone: Path, bare: dict[str, str]) -> Path:
    """A first start that was killed while its pip was at work; that pip ends when a line is written to this pipe."""
    began, go = (Path(bare["PATH"]) / name for name in ("began", "go"))
    os.mkfifo(began)
    os.mkfifo(go)
    put_pip(bare, f'echo > "{began}"; read x < "{go}"')
    with subprocess.Popen([sys.executable, "run.py", "test"], cwd=clone, env=bare) as first:
        began.read_text()  # returns when pip has begun
        first.kill()
    return go


def test_a_killed_start_leaves_the_lock_to_the_pip_that_still_runs(clone: Path, killed: Path) -> None:
    with (clone / "constraints.txt").open("r+") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        killed.write_text("\n")
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the next start does; free when that pip has ended


def test_an_interrupted_installation_begins_anew(clone: Path, bare: dict[str, str], killed: Path, start: Start) -> None:
    (clone / ".venv" / "half").touch()
    killed.write_text("\n")
    put_pip(bare)
    start("test")
    assert not (clone / ".venv" / "half").exists()
