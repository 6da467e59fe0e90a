"""Becoming the page: `tars run dashboard`."""

import json
import os
import secrets
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tars.dashboard import theme
from tars.runtime.settings import BadSetting, Settings
from tars.runtime.signing import BadKey, page_key, read_key

SECRETS_PREFIX: Final = "tars-page-"
"""Begins the name of the folder in which Streamlit finds what it is to know for logging people in."""
LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def serve(settings: Settings, port: int) -> None:
    """Replace this process by Streamlit, with the addresses in its environment; does not return.

    `runner.postScriptGC` is off: a collection after every refresh costs three quarters of the page's processor time.
    Raises BadSetting where anybody could act by the page, and where people are to log in and cannot.
    """
    options = {
        "server.port": str(port),
        "server.address": settings.listen_address,
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
        "runner.postScriptGC": "false",
        "logger.hideWelcomeMessage": "true",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        **theme.OPTIONS,
    }
    refuse_strangers(settings)
    if settings.oidc_issuer is not None:
        options["secrets.files"] = str(write_secrets(secrets_of(settings, port)))
    arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
    arguments += [text for name in hosts(settings) for text in ("--server.allowedHosts", name)]
    page = Path(__file__).parent / "entry" / "start.py"
    environment = os.environ | {"NATS_URL": settings.nats} | ({"REDIS_URL": settings.redis} if settings.redis else {})  # noqa: TID251
    program = [sys.executable, "-m", "tars.dashboard.process", "run", str(page), *arguments]
    os.execve(sys.executable, program, environment)  # noqa: S606


def refuse_strangers(settings: Settings) -> None:
    """Raise BadSetting where whoever reaches this machine could act by the page's key without logging in."""
    asked = settings.oidc_issuer is not None or settings.dashboard_without_login
    if not asked and not _is_loopback(settings.listen_address):
        raise BadSetting(
            f"LISTEN_ADDRESS={settings.listen_address} lets others open the page, and nobody has to log in: set "
            "OIDC_ISSUER, or listen on 127.0.0.1, or set DASHBOARD_WITHOUT_LOGIN=true where a proxy asks who it is"
        )


def hosts(settings: Settings) -> tuple[str, ...]:
    """Names by which this page is opened.

    A website may have its own name lead to this machine; a browser then takes the page for that website's, and lets
    its scripts click here. Streamlit refuses whoever asks for a name that is not among these.
    """
    public = urlsplit(settings.oidc_redirect_uri or "").hostname
    given = (name.strip() for name in settings.dashboard_hosts.split(","))
    return tuple(dict.fromkeys(name for name in (*LOOPBACK, settings.listen_address, public, *given) if name))


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError as error:
        raise BadSetting(f"LISTEN_ADDRESS={address} is no address") from error


def secrets_of(settings: Settings, port: int) -> str:
    """What Streamlit is to know for logging people in, as its secrets.toml; raises BadSetting, BadKey."""
    try:
        read_key(page_key(settings))
    except BadKey as error:
        raise BadKey(f"{error}; people log in, so the page needs a key: `tars keys new page --role gateway`") from error
    cookies = settings.oidc_cookie_secret_file
    given = {
        "redirect_uri": settings.oidc_redirect_uri or f"http://127.0.0.1:{port}/oauth2callback",
        "cookie_secret": _read("OIDC_COOKIE_SECRET_FILE", cookies) if cookies else secrets.token_hex(32),
        "client_id": settings.oidc_client_id or "",
        "client_secret": _read("OIDC_CLIENT_SECRET_FILE", settings.oidc_client_secret_file),
        "server_metadata_url": f"{(settings.oidc_issuer or '').rstrip('/')}/.well-known/openid-configuration",
    }
    # A JSON string without escaped letters is a TOML string.
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    lines += ['expose_tokens = ["id"]', f"client_kwargs = {{ scope = {json.dumps(settings.oidc_scope)} }}"]
    return "\n".join(["[auth]", *lines, ""])


def write_secrets(text: str) -> Path:
    """Write a file that this user alone can read, into a folder of its own; the page removes it when it ends."""
    path = Path(tempfile.mkdtemp(prefix=SECRETS_PREFIX)) / "secrets.toml"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return path


def _read(setting: str, path: Path | None) -> str:
    if path is None:
        raise BadSetting(f"OIDC_ISSUER needs {setting}: a file with the secret")
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSetting(f"{setting}={path} cannot be read: {error}") from error
    if not text:
        raise BadSetting(f"{setting}={path} is empty")
    return text
