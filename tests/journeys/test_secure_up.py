"""`tars up --secure`: every process with its own key and rights, over TLS; their whole work, and not one refusal."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from torch import nn, optim

import tars
from tars.producers.client import Client, connect
from tars.producers.commands import StudyOptions
from tars.schemas.session import SessionReported
from tars.schemas.study import StudyFinished

pytestmark = pytest.mark.slow
START_SECONDS = 90.0
ENVIRONMENT = os.environ | {
    "ACK_WAIT_SECONDS": "3", "RATE_LIMIT_PER_MINUTE": "0", "TARS_USER": "ada", "WATCH_EPISODES": "10",
    "USE_MLFLOW": "true", "QUICK_MODE_TRAIN_EPISODES": "1", "QUICK_MODE_EVAL_EPISODES": "1",
    "REAL_TRAINING_EPISODES": "1", "REAL_EVAL_EPISODES": "1",
}  # fmt: skip


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    """Run `tars up`, ready when it returns."""
    command = [sys.executable, "-m", "tars", "up", "--no-browser", "--data", str(folder), *more]
    with (folder.parent / "up.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=ENVIRONMENT)
    until(lambda: (folder / "endpoints.json").exists() or process.poll() is not None, START_SECONDS)
    assert process.poll() is None, (folder.parent / "up.log").read_text()[-2000:]
    return process


def stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGINT)
    process.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack that was started with --secure, ended, and started again without saying so; and its data folder here."""
    data = tmp_path_factory.mktemp("secure") / "data"
    stop(start(data, "--secure"))
    process = start(data)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TARS_DATA", str(data))
        yield data
    stop(process)


@pytest.fixture(scope="module")
def bus(folder: Path) -> Iterator[Client]:
    with connect() as client:
        yield client


def tars_says(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tars", *words]
    environment = {**ENVIRONMENT, "TARS_DATA": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_it_stays_secured_and_tells_a_terminal_in_the_same_folder_all_it_needs(folder: Path) -> None:
    assert json.loads((folder / "endpoints.json").read_text())["nats"].startswith("tls://")
    until(lambda: tars_says(folder, "agents").returncode == 0)
    done = tars_says(folder, "agents", "--json")
    assert len(json.loads(done.stdout)) >= 8
    assert done.stderr == ""
    for seed in (folder / "nats-keys").glob("*.nk"):
        assert seed.stat().st_mode & 0o777 == 0o600


def test_whoever_has_no_key_is_told_so_in_one_line(folder: Path, tmp_path: Path) -> None:
    url = json.loads((folder / "endpoints.json").read_text())["nats"]
    environment = {**ENVIRONMENT, "TARS_DATA": str(tmp_path), "NATS_URL": url}
    environment["NATS_CA_FILE"] = str(folder / "nats-keys" / "ca.pem")
    command = [sys.executable, "-m", "tars", "agents"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert "does not know this process as person: set NATS_NKEY_FILE" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_study_from_snapshots_is_searched_trained_and_told_to_mlflow(folder: Path, bus: Client) -> None:
    until(lambda: {"consensus-0", "consensus-1"} <= {row.agent_id for row in bus.agents() if row.episode >= 50}, 120)
    more = StudyOptions(quick=True, start="snapshot", propose=False)
    study = bus.start_study(role="consensus", trials=3, study_id="s-secure", **more)
    assert isinstance(study.wait(timeout=240), StudyFinished)
    until((folder / "mlflow.db").exists)


def test_an_update_is_approved_applied_read_back_and_taken_back(bus: Client) -> None:
    def is_over() -> bool:
        row = bus.update("u-secure")
        return row is not None and row.stage in {"rolled back", "failed"}

    update = bus.propose({"learning_rate": 1e-3}, role="policy", update_id="u-secure", reason="by hand")
    update.approve()
    until(lambda: (row := bus.update("u-secure")) is not None and row.read_backs, 240)
    bus.roll_back("u-secure", "only to see") if not is_over() else None
    until(is_over, 240)
    row = bus.update("u-secure")
    assert row is not None
    assert row.read_backs[0].effective["learning_rate"] == pytest.approx(row.read_backs[0].requested["learning_rate"])
    assert row.approved_by == "ada (single operator)"


def test_a_page_sends_what_a_person_does_and_says_that_it_is_open(folder: Path) -> None:
    with connect(role="dashboard") as page:
        page.report(SessionReported(session_id="p-1", page="agents"))
        until(lambda: page.stats().sessions == 1)


@pytest.mark.parametrize("snapshots", [None, "bus"])
def test_a_learner_in_another_process_attaches(folder: Path, bus: Client, snapshots: Literal["bus"] | None) -> None:
    name, optimizer = f"mine-{snapshots}", optim.Adam(nn.Linear(4, 2).parameters(), lr=3e-4)
    about = Namespace(learning_rate=3e-4, gamma=0.99)
    with tars.attach(
        optimizer=optimizer, hyperparameters=about, agent_id=name, algorithm="ppo", role="pilot", snapshots=snapshots
    ) as link:

        def is_heard_of() -> bool:
            link.step(episode_return=1.0)
            return any(row.agent_id == name and row.episode for row in bus.agents())

        until(is_heard_of)


def test_in_all_of_this_nobody_was_refused_anything(folder: Path) -> None:
    """Last of this file: it reads what every process wrote while the others ran."""
    said = (folder.parent / "up.log").read_text().splitlines()
    assert [line for line in said if "does not let the role" in line] == []


def test_a_server_of_ones_own_is_not_secured_from_here(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tars", "up", "--no-browser", "--secure", "--data", str(tmp_path / "data")]
    environment = {**ENVIRONMENT, "NATS_URL": "nats://127.0.0.1:9"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert "docs/deployment.md" in done.stderr.splitlines()[-1]
