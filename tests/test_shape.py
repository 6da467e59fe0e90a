"""What is easily forgotten when something new comes in; each message says what to do."""

import ast
from pathlib import Path

import pytest

from tars.schemas.streams import KINDS

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(init.parent for init in ROOT.glob("*/__init__.py"))
MODULES = sorted(path for folder in [*FOLDERS, ROOT / "tests", ROOT / "benchmarks"] for path in folder.rglob("*.py"))
VAGUE = {"util", "helper", "common", "misc", "base", "manager", "service", "tool", "stuff"}
PACKAGES = [path for path in MODULES if path.name == "__init__.py" and path.parent.name != "tars"]


def relative(path: Path) -> str:
    """Name a file as git does; pytest shows it as the test's parameter."""
    return str(path.relative_to(ROOT))


def test_no_module_has_a_vague_name() -> None:
    """Such a module collects what nobody wanted to name."""
    words = {relative(path): {word.removesuffix("s") for word in path.stem.split("_")} for path in MODULES}
    assert [name for name, parts in words.items() if parts & VAGUE] == []


@pytest.mark.parametrize("path", PACKAGES, ids=relative)
def test_a_package_holds_nothing_but_its_docstring(path: Path) -> None:
    module = ast.parse(path.read_text())
    assert ast.get_docstring(module)
    assert len(module.body) == 1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_has_a_wire_sample(kind: str) -> None:
    """The sample proves that what was sent once can be read for ever."""
    sample = ROOT / "tests" / "wire" / f"{kind}.json"
    assert sample.is_file(), f"write {relative(sample)}, from the message in tests/examples.py"
