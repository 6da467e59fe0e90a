"""Becoming the page: who may open it, and what Streamlit is to know for logging people in."""

import stat
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from people import PAGE, trusted
from tars.dashboard.serve import refuse_strangers, secrets_of, write_secrets
from tars.runtime.settings import BadSetting, Settings
from tars.runtime.signing import BadKey


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.7"])  # noqa: S104 - refused
def test_beyond_loopback_somebody_must_ask_who_comes(address: str) -> None:
    with pytest.raises(BadSetting, match=f"LISTEN_ADDRESS={address} lets others open the page"):
        refuse_strangers(Settings(listen_address=address))
    refuse_strangers(Settings(listen_address=address, oidc_issuer="https://idp.example.org", oidc_client_id="tars"))
    refuse_strangers(Settings(listen_address=address, dashboard_without_login=True))
    refuse_strangers(Settings(listen_address="::1"))


def test_the_command_line_refuses_it_in_one_line(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "tars", "run", "dashboard", "--port", "0"],
        env={"LISTEN_ADDRESS": "0.0.0.0", "TARS_DATA": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},  # noqa: S104
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 2
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "nobody has to log in" in answer.stderr


def oidc(folder: Path, **change: object) -> Settings:
    (folder / "secret").write_text('hush "#\n')
    own = {"oidc_issuer": "https://idp.example.org", "oidc_client_id": "tars", "tars_data": folder}
    return Settings.model_validate({**own, "oidc_client_secret_file": folder / "secret", **change})


def test_streamlit_gets_its_secrets_in_a_file_of_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    trusted(tmp_path, PAGE)
    path = write_secrets(secrets_of(oidc(tmp_path), 3000))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    auth = tomllib.loads(path.read_text())["auth"]
    assert (auth["client_secret"], auth["expose_tokens"]) == ('hush "#', ["id"])
    assert auth["redirect_uri"] == "http://127.0.0.1:3000/oauth2callback"
    assert len(auth["cookie_secret"]) >= 32


def test_what_logging_in_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="tars keys new page --role gateway"):
        secrets_of(oidc(tmp_path), 3000)
    trusted(tmp_path, PAGE)
    with pytest.raises(BadSetting, match="OIDC_ISSUER needs OIDC_CLIENT_SECRET_FILE"):
        secrets_of(oidc(tmp_path, oidc_client_secret_file=None), 3000)
    with pytest.raises(BadSetting, match="OIDC_CLIENT_SECRET_FILE=.*cannot be read"):
        secrets_of(oidc(tmp_path, oidc_client_secret_file=tmp_path / "none"), 3000)
