"""What is easily forgotten when something new comes in; each message says what to do."""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tars.dashboard.app import PAGES
from tars.schemas import bounds, validation
from tars.schemas.streams import KINDS
from tars.schemas.update import UpdateEvent
from tars.sync_worker import audit

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


def public_functions(module: ModuleType, parameter: str) -> dict[str, object]:
    """Those that `module` defines for others and that take `parameter` alone."""
    found = inspect.getmembers(module, inspect.isfunction)
    return {
        name: function
        for name, function in found
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and list(inspect.signature(function).parameters) == [parameter]
    }


def test_each_validation_rule_is_asked() -> None:
    rules = public_functions(validation, "proposal")
    del rules["objections"]  # it asks them
    assert rules == {rule.__name__: rule for rule in validation.RULES}


def test_each_invariant_belongs_to_an_algorithm() -> None:
    asked = [rule for rules in bounds.INVARIANTS.values() for rule in rules]
    assert [name for name, rule in public_functions(bounds, "values").items() if rule not in asked] == []


def test_the_audit_knows_what_each_event_of_an_update_may_follow() -> None:
    """Otherwise an update that has a new one contradicts itself."""
    assert audit.FOLLOWS.keys() == set(get_args(get_args(UpdateEvent)[0]))


def test_each_page_is_in_the_menu() -> None:
    modules = {path.stem for path in (ROOT / "dashboard" / "pages").glob("*.py")} - {"__init__"}
    shown = [page.draw.__module__ for page in PAGES]
    assert sorted(shown) == sorted(f"tars.dashboard.pages.{name}" for name in modules)


def needed_by(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> Iterator[str]:
    """The names of all packages that `name` brings on this machine."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for text in requires(name) or []:
        need = Requirement(text)
        if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield canonicalize_name(need.name)
            yield from needed_by(need.name, frozenset(need.extras), seen)


def test_each_dependency_has_its_tested_version() -> None:
    """Without its line in constraints.txt, tomorrow's release of it is installed by everybody but us."""
    pins = re.findall(r"^([\w.-]+)==[\w.]+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    needed = set(needed_by("tars-rl", frozenset({"all", "dev"}), set()))
    assert sorted(needed - {canonicalize_name(name) for name in pins} - {"tars-rl"}) == []
