"""Where a command goes, from whom, and until when."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tars.producers.commands import nats_address, sender, with_deadline
from tars.runtime.settings import Settings
from tars.schemas.update import ApplyUpdate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder in which `tars up` runs."""
    (tmp_path / "endpoints.json").write_text(json.dumps({"nats": "nats://127.0.0.1:5001", "dashboard": "http://x"}))
    return tmp_path


def test_nats_url_counts_most(folder: Path) -> None:
    assert nats_address(Settings(nats_url="nats://there:4222", tars_data=folder)) == "nats://there:4222"


def test_without_it_the_running_tars_up_is_found(folder: Path) -> None:
    assert nats_address(Settings(nats_url=None, tars_data=folder)) == "nats://127.0.0.1:5001"


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"nats": null}'])
def test_without_either_it_is_the_usual_port(tmp_path: Path, text: str | None) -> None:
    """Also beside a file that is half written, or is something else."""
    if text is not None:
        (tmp_path / "endpoints.json").write_text(text)
    assert nats_address(Settings(nats_url=None, tars_data=tmp_path)) == "nats://localhost:4222"


def test_the_sender_is_who_the_setting_names_or_who_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    assert sender(Settings(tars_user="ada")).principal == "ada"
    assert sender(Settings(tars_user="")).principal == "grace"
    assert not sender(Settings(tars_user="ada")).signed


def test_a_deadline_of_its_own_is_kept() -> None:
    own = ApplyUpdate(update_id="u1", deadline=datetime(2026, 1, 1, tzinfo=UTC))
    assert with_deadline(own) == own
    assert with_deadline(ApplyUpdate(update_id="u1")).deadline is not None
