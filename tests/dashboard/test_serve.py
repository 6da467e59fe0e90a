"""Becoming the page: who may open it, and what Streamlit is to know for logging people in."""

import asyncio
import http.client
import json
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import streamlit.logger
from stage import until

from browsing import page_server
from page_sessions import Sessions
from people import PAGE, trusted
from tars.dashboard.serve import hosts, refuse_strangers, secrets_of, write_secrets
from tars.dashboard.session import one_log
from tars.runtime.settings import BadSetting, Settings
from tars.runtime.signing import BadKey
from tars.runtime.stack import free_port


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


def test_the_page_answers_to_the_names_it_is_opened_by_and_to_no_other(tmp_path: Path) -> None:
    """A website whose name leads to this machine is a stranger, though the browser takes both for one."""
    port = free_port(0)
    known = {"NATS_URL": "nats://127.0.0.1:9", "USE_REDIS": "false", "DASHBOARD_HOSTS": "tars.example.org"}
    with page_server(port, known, tmp_path):
        until(lambda: opened(port, "localhost"))
        assert opened(port, "127.0.0.1")
        assert opened(port, "[::1]")
        assert opened(port, "tars.example.org")
        assert not opened(port, "evil.example")


def opened(port: int, host: str) -> bool:
    """Whether a browser that believes to be at this host gets a session."""
    name = f"{host}:{port}"
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "streamlit"}
    try:
        asked.request("GET", "/_stcore/stream", headers={"Host": name, "Origin": f"http://{name}", **upgrade, **key})
        return asked.getresponse().status == http.client.SWITCHING_PROTOCOLS
    except ConnectionError:
        return False
    finally:
        asked.close()


def test_off_a_terminal_the_page_logs_as_every_worker_does(tmp_path: Path) -> None:
    port, log = free_port(0), tmp_path / "page.log"
    known = {"NATS_URL": "nats://127.0.0.1:9", "USE_REDIS": "false"}
    with page_server(port, known, tmp_path) as page:
        until(lambda: opened(port, "127.0.0.1"))
        asyncio.run(look(page.address, lambda: "waiting for NATS" in log.read_text()))
    [line, *_] = [json.loads(text) for text in log.read_text().splitlines() if "waiting for NATS" in text]
    assert line["event"] == "waiting for NATS"
    assert (line["level"], line["service"], line["logger"]) == ("warning", "dashboard", "tars.dashboard.line")


def test_streamlits_own_lines_go_where_ours_go_of_loggers_made_later_too(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("streamlit.one", "streamlit.later"):
        own = streamlit.logger.get_logger(name)
        one_log()
        own.warning("seen %s", name)
        assert f"seen {name}" in caplog.text


async def look(address: str, seen: Callable[[], bool]) -> None:
    """Keep the page open until something is seen."""
    async with Sessions(address, 1).open(), asyncio.timeout(60):
        while not seen():
            await asyncio.sleep(0.05)


def test_the_address_people_are_sent_back_to_is_a_name_of_the_page() -> None:
    assert "tars.example.org" in hosts(Settings(oidc_redirect_uri="https://tars.example.org:8443/oauth2callback"))
    assert {"a.example", "b.example"} <= set(hosts(Settings(dashboard_hosts="a.example, b.example")))
    assert "10.0.0.7" in hosts(Settings(listen_address="10.0.0.7"))
    assert set(hosts(Settings())) == {"localhost", "127.0.0.1", "::1"}
