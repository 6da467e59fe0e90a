"""The page in a real browser, as a person uses it: what they read, press and type."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from stage import Stage, until, workers

from reporting_fleet import reporting
from tars.producers.client import connect
from tars.runtime.bus import connect_bus
from tars.runtime.servers import start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.stack import free_port

FLEET = ("dqn-0", "dqn-1", "dqn-2", "dqn-3")
PATIENCE = 20.0
"""Seconds until what is waited for should be there, on a busy machine."""


@dataclass
class Window:
    """A browser that looks at one page server."""

    driver: WebDriver
    address: str

    def open(self, path: str, shows: str) -> "Window":
        """Go to an address, and wait until it shows something."""

        def opened() -> bool:
            self.driver.get(self.address + path)  # raises while nobody answers
            return True

        return self._until(opened, f"{path} to answer").sees(shows)

    def text(self) -> str:
        """All that can be read."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def sees(self, *words: str) -> "Window":
        """Wait until all of this can be read, at once."""
        return self._until(lambda: all(word in self.text() for word in words), f"{words} to be there")

    def misses(self, *words: str) -> "Window":
        """Wait until none of this can be read any more."""
        return self._until(lambda: not any(word in self.text() for word in words), f"{words} to be gone")

    def draws(self, *selectors: str) -> "Window":
        """Wait until all of these are drawn, which a browser fetches when it first needs them."""

        def drawn() -> bool:
            return all(self.driver.find_elements(By.CSS_SELECTOR, selector) for selector in selectors)

        return self._until(drawn, f"{selectors} to be drawn")

    def refreshes(self) -> "Window":
        """Wait until its rows were read once more: what is pressed while the page's process is away is lost."""
        before = self._read_at()
        return self._until(lambda: self._read_at() not in {"", before}, f"rows newer than {before}")

    def _read_at(self) -> str:
        found = re.search(r"read at ([0-9:]+) UTC", self.text())
        return found[1] if found else ""

    def press(self, key: str) -> "Window":
        """Press a button as soon as it can be pressed."""

        def pressed() -> bool:
            button = self._button(key)
            if button is None or not button.is_enabled():
                return False
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            button.click()
            return True

        return self._until(pressed, f"the button {key} to be pressed")

    def can_press(self, key: str) -> bool:
        """Whether there is such a button, and it can be pressed."""
        button = self._button(key)
        return button is not None and button.is_enabled()

    def write(self, key: str, text: str) -> "Window":
        """Type into a field."""

        def written() -> bool:
            field = self.driver.find_element(By.CSS_SELECTOR, f".st-key-{key} input")
            if field.get_attribute("value") != text:
                field.send_keys(Keys.CONTROL, "a")
                field.send_keys(text)
            return field.get_attribute("value") == text

        return self._until(written, f"{text} to be typed into {key}")

    def _button(self, key: str) -> Any:
        found = self.driver.find_elements(By.CSS_SELECTOR, f".st-key-{key} button")
        return found[0] if found else None

    def _until(self, condition: Callable[[], bool], what: str) -> "Window":
        end, failed = time.monotonic() + PATIENCE, ""
        while time.monotonic() < end:
            try:
                if condition():
                    return self
            except (StaleElementReferenceException, WebDriverException) as error:  # it was drawn again meanwhile
                failed = f" ({type(error).__name__})"
            time.sleep(0.05)
        raise AssertionError(f"waited for {what}{failed}; the page shows:\n{self.text()[:2000]}")


class PageServer:
    """`tars run dashboard` at one address, which can be killed and started again."""

    def __init__(self, port: int, environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "tars", "run", "dashboard", "--port", str(port)]
        self._environment, self._log = os.environ | dict(environment), log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it answers a little later."""
        self._process = subprocess.Popen(self._command, env=self._environment, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def page_server(port: int, environment: Mapping[str, str], folder: Path) -> Iterator[PageServer]:
    """A page for the length of the block; what it says is in page.log."""
    with (folder / "page.log").open("wb") as log:
        server = PageServer(port, environment, log)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@dataclass
class House:
    """A page and all that stands behind it."""

    stage: Stage
    page: PageServer


@contextmanager
def furnished(folder: Path) -> Iterator[House]:
    """Servers, workers, four live agents and the page's process, whose operator is `grace`; `ada` is a script."""
    stage = Stage(folder, start_nats(folder / "nats"), start_valkey(folder / "valkey"))
    nats_url, redis_url = stage.nats.url, stage.valkey.url
    settings = Settings(
        nats_url=nats_url, redis_url=redis_url, ack_wait_seconds=2, rate_limit_per_minute=0, watch_episodes=10
    )
    environment = {"NATS_URL": nats_url, "REDIS_URL": redis_url, "TARS_USER": "grace"}
    try:
        with (
            workers(settings),
            fleet(nats_url),
            connect(nats_url, user="ada") as stage.client,
            page_server(free_port(0), environment, folder) as page,
        ):
            until(lambda: all(stage.episodes(name) for name in FLEET))
            yield House(stage, page)
    finally:
        stage.nats.stop()
        stage.valkey.stop()


@contextmanager
def fleet(nats_url: str) -> Iterator[None]:
    """Agents that learn nothing, apply at once and report, in a thread of their own, for the length of the block."""
    here: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        bus, leave = await connect_bus(nats_url, "fleet", patience=5), asyncio.Event()
        async with reporting(bus, lambda *_: 0.6, *FLEET):
            here.set_result((asyncio.get_running_loop(), leave))
            await leave.wait()
        await bus.close()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="fleet")
    thread.start()
    loop, leave = here.result(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(leave.set)
        thread.join(20)
