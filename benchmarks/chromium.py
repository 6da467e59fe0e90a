"""A headless Chromium: where it is, how to get it, and opening it. For tests, benchmarks and pictures of the page."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

FETCHED: Final = Path(__file__).resolve().parents[1] / ".chromium"
"""Where .ci/get-chromium puts it when nobody is root."""
HOW_TO_GET: Final = (
    "there is no Chromium with its driver here: apt-get install chromium chromium-driver, or without root "
    ".ci/get-chromium (Debian, Ubuntu), or name both in TARS_CHROMIUM and TARS_CHROMEDRIVER"
)
QUIET: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en-GB",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
"""It asks nobody outside for anything."""


@dataclass(frozen=True)
class Chromium:
    """Both programs."""

    browser: str
    driver: str


def find() -> Chromium | None:
    """Look where the environment says, where .ci/get-chromium puts it, and on the PATH."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = _first(os.environ.get("TARS_CHROMIUM"), str(FETCHED / "chromium"), *names)
    driver = _first(os.environ.get("TARS_CHROMEDRIVER"), str(FETCHED / "chromedriver"), "chromedriver")
    return Chromium(browser, driver) if browser and driver else None


def _first(*names: str | None) -> str | None:
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def opened(chromium: Chromium, width: int = 1280, height: int = 900) -> Iterator[WebDriver]:
    """A browser with a profile of its own, for the length of the block."""
    os.environ |= {"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"}  # Selenium fetches and tells nothing
    with tempfile.TemporaryDirectory(prefix="tars-chromium-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium.browser
        for option in (*QUIET, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options=options, service=Service(chromium.driver))
        try:
            yield driver
        finally:
            driver.quit()
