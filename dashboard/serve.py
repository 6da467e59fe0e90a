"""Becoming the page: `tars run dashboard`."""

import os
import sys
from pathlib import Path

from tars.runtime.settings import Settings


def serve(settings: Settings, port: int) -> None:
    """Replace this process by Streamlit, with the addresses in its environment; does not return.

    `runner.postScriptGC` is off: a collection after every refresh costs three quarters of the page's processor time.
    """
    options = {
        "server.port": str(port),
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
        "runner.postScriptGC": "false",
        "client.toolbarMode": "minimal",
    }
    arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
    page = Path(__file__).with_name("app.py")
    environment = os.environ | {"NATS_URL": settings.nats} | ({"REDIS_URL": settings.redis} if settings.redis else {})  # noqa: TID251
    os.execve(sys.executable, [sys.executable, "-m", "streamlit", "run", str(page), *arguments], environment)  # noqa: S606
