"""The links in tars/ stay complete, relative and alive, and nothing is imported twice."""

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(init.parent.name for init in ROOT.glob("*/__init__.py") if init.parent.name != "tars")


@pytest.mark.parametrize("name", FOLDERS)
def test_each_folder_has_its_link(name: str) -> None:
    link = ROOT / "tars" / name
    assert link.is_symlink(), f"run: ln -s ../{name} tars/{name}"
    assert link.readlink() == Path("..") / name


def test_each_link_has_its_folder() -> None:
    links = sorted(path.name for path in (ROOT / "tars").iterdir() if path.is_symlink())
    assert links == FOLDERS


@pytest.mark.parametrize("name", FOLDERS)
def test_an_import_reaches_the_real_folder(name: str) -> None:
    spec = find_spec(f"tars.{name}")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"


def test_no_folder_is_imported_by_its_bare_name() -> None:
    """`agents` beside `tars.agents` would be two copies of every class."""
    origins = {name: getattr(sys.modules.get(name), "__file__", None) or "" for name in FOLDERS}
    assert [name for name, origin in origins.items() if origin.startswith(str(ROOT))] == []


def test_ruff_bans_every_bare_name() -> None:
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    banned = ruff["lint"]["flake8-tidy-imports"]["banned-api"]
    assert sorted(name for name in banned if "." not in name) == FOLDERS


def test_importing_tars_is_light() -> None:
    """A script that only asks for the version must not wait for torch, nor for the bus."""
    code = "import sys, tars; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "nats", "faststream", "pydantic", "redis"} & set(loaded.split())
