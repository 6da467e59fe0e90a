"""What `tars up` is going to run."""

import logging
import sys
from pathlib import Path

import pytest

from tars.runtime.settings import Settings
from tars.runtime.stack import Endpoints, programs, worker_ports


def test_the_mlflow_sink_runs_only_when_asked_for() -> None:
    assert "mlflow" not in worker_ports(Settings(use_mlflow=False))
    assert "mlflow" in worker_ports(Settings(use_mlflow=True))


def test_without_mlflow_the_others_run_and_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with caplog.at_level(logging.WARNING):
        assert set(worker_ports(Settings(use_mlflow=True))) == set(worker_ports(Settings(use_mlflow=False)))
    assert "pip install 'tars-rl[mlflow]'" in caplog.text


def test_the_sink_gets_the_store_that_is_set(tmp_path: Path) -> None:
    settings = Settings(use_mlflow=True, mlflow_tracking_uri="http://mlflow:5000")
    (program,) = programs(settings, Endpoints("nats://x", None, ""), {"mlflow": 4711}, tmp_path)
    assert program.argv[-4:] == ["run", "mlflow", "--port", "4711"]
    assert program.env["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


def test_a_store_is_a_file_in_the_data_folder_unless_set(tmp_path: Path) -> None:
    assert Settings(tars_data=tmp_path).mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert Settings(tars_data=tmp_path, mlflow_tracking_uri="").mlflow == f"sqlite:///{tmp_path}/mlflow.db"
    assert Settings(mlflow_tracking_uri="postgresql://x/y").mlflow == "postgresql://x/y"
