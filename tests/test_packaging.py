"""The wheel beside packages of others that have our folders' names: both work. Needs a package index.

openai-agents installs a package called `agents`; a user's project has `agents/` and `schemas/` of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

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


TRAIN = """\
import json, pathlib

import agents, schemas.orders                  # the project's own
from stable_baselines3 import PPO
import tars

model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, device="cpu")
with tars.attach(model, agent_id="ppo-7", broker=None) as link:
    model.learn(64, callback=link.callback())
    attempt = link.apply({"learning_rate": 1e-4, "gamma": 0.9})
    model.learn(128, callback=link.callback(), reset_num_timesteps=False)
model.save("model.zip")
print(json.dumps({
    "theirs": [agents.WHOSE, schemas.orders.WHOSE, agents.__file__, schemas.__file__],
    "ours": tars.__file__,
    "state": attempt.state,
    "runs": [model.policy.optimizer.param_groups[0]["lr"], model.gamma, model.rollout_buffer.gamma],
    "checked": {key.key: key.tars for key in tars.check(model).keys},
    "saved": [key.key for key in tars.check("model.zip").keys],
}))
"""


@pytest.fixture(scope="module")
def project(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's project with agents/ and schemas/ of its own, and an environment .venv with tars-rl[sb3] in it.

    What the extra needs is mostly not fetched: it is seen in the environment that runs these tests, by a .pth file.
    """
    home = tmp_path_factory.mktemp("project")
    for name in ("agents/__init__.py", "schemas/__init__.py", "schemas/orders.py"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text('WHOSE = "theirs"\n')
    (home / "train.py").write_text(TRAIN)
    venv.create(home / ".venv", with_pip=True, symlinks=True)
    python = home / ".venv" / "bin" / "python"
    pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"]
    subprocess.run([*pip, "--no-deps", wheel], check=True, timeout=300)
    [packages] = (home / ".venv").glob("lib/python*/site-packages")
    (packages / "tests.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    subprocess.run([*pip, f"{wheel}[sb3]"], check=True, timeout=600)
    return home


def trained_in(project: Path) -> dict[str, Any]:
    """What the project's script says of itself."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [project / ".venv" / "bin" / "python", "train.py"], cwd=project, env=environment,
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def test_a_model_is_attached_and_checked_in_a_project_that_has_agents_and_schemas_of_its_own(project: Path) -> None:
    said = trained_in(project)
    assert said["theirs"][:2] == ["theirs", "theirs"]
    assert all(Path(file).is_relative_to(project) for file in (*said["theirs"][2:], said["ours"]))
    assert said["state"] == "applied"
    assert said["runs"] == [1e-4, 0.9, 0.9]
    assert said["checked"]["learning_rate"] == "effective"
    assert said["saved"] == list(said["checked"])


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
