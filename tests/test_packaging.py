"""The wheel beside openai-agents, which also installs a package called `agents`: both work. Needs a package index."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = sorted(init.parent for init in ROOT.glob("*/__init__.py"))
NEEDS_NO_EXTRA = ("schemas", "runtime", "producers", "consumers", "sync_worker")
NEEDS_ONE = {"tars.consumers.mlflow_app", "tars.consumers.mlflow_sink", "tars.consumers.mlflow_store"}
"""Modules in these folders that an extra brings to life."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a release is: from the source distribution, in a copy of the tree."""
    tree, out = tmp_path_factory.mktemp("tree") / "tars", tmp_path_factory.mktemp("dist")
    ignore = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore)
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, tree], check=True, timeout=300)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment with the wheel, without extras, and openai-agents."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=True, symlinks=True)
    pip: list[str | Path] = [
        home / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        ROOT / "constraints.txt",
    ]
    subprocess.run([*pip, wheel, "openai-agents"], check=True, timeout=600)
    return home / "bin" / "python"


def said_by(python: Path, code: str) -> str:
    """What `code` prints in the clean environment, away from the repository."""
    return subprocess.run([python, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout.strip()


def test_the_wheel_holds_every_file_of_the_folders_as_a_real_file_and_nothing_else(wheel: Path) -> None:
    """A script in Lua or a style sheet beside the modules must not be left behind either."""
    files = {path.resolve() for folder in FOLDERS for path in folder.rglob("*") if path.is_file()}
    names = {path.relative_to(ROOT) for path in files if path.suffix != ".pyc"}
    expected = {str(name) if name.parts[0] == "tars" else f"tars/{name}" for name in names}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())


def test_agents_is_still_the_package_of_openai(python: Path) -> None:
    owner = said_by(python, "import agents; from agents import Runner; print(Runner.__module__, agents.__file__)")
    assert owner.startswith("agents.")
    assert "tars" not in owner.split("site-packages")[1]


def test_ours_are_importable_below_tars_only(python: Path) -> None:
    assert said_by(python, "from tars.schemas.message import Event; print(Event.__module__)") == "tars.schemas.message"
    ours = [folder.name for folder in FOLDERS if folder.name not in {"tars", "agents"}]
    found = f"from importlib.util import find_spec; print([name for name in {ours} if find_spec(name)])"
    assert said_by(python, found) == "[]"


def test_talking_to_the_bus_needs_no_extra(python: Path) -> None:
    """Scripts, workers that only talk, and consumers run without torch, Optuna or Streamlit."""
    modules = sorted(
        "tars." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name in NEEDS_NO_EXTRA
        for path in (ROOT / name).rglob("*.py")
    )
    without = [name for name in modules if name not in NEEDS_ONE]
    said_by(python, f"from importlib import import_module\nfor name in {without}: import_module(name)")


def test_the_command_is_installed(python: Path) -> None:
    result = subprocess.run([python.with_name("tars"), "--help"], cwd="/", capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "demo" in result.stdout
