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
        "server.address": settings.listen_address,
        "server.headless": "true",
        "browser.gatherUsageStats": "false",
        "server.fileWatcherType": "none",
        "runner.postScriptGC": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "theme.primaryColor": "#2f6fde",
        "theme.baseFontSize": "14",
        "theme.baseRadius": "6px",
        "theme.metricValueFontSize": "1.25rem",
        "theme.headingFontSizes": '["1.7rem", "1.5rem", "1.3rem", "1.15rem", "1rem", "0.9rem"]',
        "theme.paddingTop": "1rem",
    }
    arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
    page = Path(__file__).parent / "entry" / "start.py"
    environment = os.environ | {"NATS_URL": settings.nats} | ({"REDIS_URL": settings.redis} if settings.redis else {})  # noqa: TID251
    os.execve(sys.executable, [sys.executable, "-m", "streamlit", "run", str(page), *arguments], environment)  # noqa: S606
