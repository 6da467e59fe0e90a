"""Real servers for tests: a fresh nats-server (and Valkey) for each test that asks, in a temporary folder."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis.asyncio
from hypothesis import settings as effort
from ready_servers import ReadyServers
from secured import Secured

from tars.runtime.bus import Bus, connect_bus
from tars.runtime.servers import Server, start_nats, start_valkey
from tars.runtime.settings import Settings

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver
    from stage import Stage

    from browsing import House, Window
    from chromium import Chromium

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when MLflow is imported: tests tell its makers nothing

# A shell's background job ignores it, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

effort.register_profile("untimed", deadline=None)  # a busy machine is no fault of what is tested
effort.load_profile("untimed")

ACK_WAIT = 2.0
"""Seconds: short, so that a killed worker's messages come back while a test waits."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def no_data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may have keys and a trust file in .tars: they are not meant."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TARS_DATA", str(tmp_path_factory.mktemp("data") / "none"))
        yield


@pytest.fixture(scope="session")
def ready_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadyServers]:
    """Servers for tests to take."""
    servers = ReadyServers(tmp_path_factory.mktemp("servers"), ACK_WAIT)
    yield servers
    servers.close()


@pytest.fixture
def nats_server(request: pytest.FixtureRequest, tmp_path: Path, ready_servers: ReadyServers) -> Iterator[Server]:
    """A nats-server of this test's own, with its data in tmp_path / "nats"; provisioned where the test wants a bus."""
    server = ready_servers.take(provisioned="bus" in request.fixturenames)
    (tmp_path / "nats").symlink_to(server.folder)
    yield server
    ready_servers.throw_away(server)


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    """A nats-server of this test's own that knows roles by their keys, provisioned."""
    server = start_nats(tmp_path / "nats", keys=tmp_path / "nats-keys")
    found = Secured(server, tmp_path / "nats-keys")
    await found.provision(ACK_WAIT)
    yield found
    server.stop()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Server]:
    """A Valkey of this test's own."""
    server = start_valkey(tmp_path / "valkey")
    yield server
    server.kill()


@pytest.fixture
def settings(nats_server: Server) -> Settings:
    """Settings of a worker on this test's nats-server, without Redis, whatever the environment says."""
    return Settings(nats_url=nats_server.url, use_redis=False, ack_wait_seconds=ACK_WAIT, rate_limit_per_minute=0)


@pytest.fixture
async def bus(nats_server: Server) -> AsyncIterator[Bus]:
    """A connection to this test's nats-server, which is provisioned."""
    connection = await connect_bus(nats_server.url, "test", patience=5)
    yield connection
    await connection.close()


@pytest.fixture
async def store(valkey: Server) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of this test's Valkey."""
    client = redis.asyncio.Redis.from_url(valkey.url)
    yield client
    await client.aclose()


@pytest.fixture
def tars(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., tuple[int, str, str]]:
    """Run `tars ...` in this process, through the door that the program has: (exit code, stdout, stderr)."""
    from tars.cli import main as cli  # noqa: PLC0415 - most tests do without it

    monkeypatch.setenv("TARS_USER", "ada")
    monkeypatch.setenv("TARS_DATA", str(tmp_path / "none"))
    if "nats_server" not in request.fixturenames:  # else one answers, as soon as a busy machine lets it
        monkeypatch.setattr("tars.producers.async_client.PATIENCE", 0.3)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tars", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Stage]":
    """What stands behind the page, for one module of tests."""
    from stage import stage_in  # noqa: PLC0415 - Streamlit, which few tests need

    with stage_in(tmp_path_factory.mktemp("stage")) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> "Chromium":
    """Looked for before any server starts; TARS_BROWSER=require makes its absence a failure."""
    from chromium import HOW_TO_GET, find  # noqa: PLC0415 - Selenium, which few tests need

    found = find()
    if found is None and os.environ.get("TARS_BROWSER") == "require":
        pytest.fail(HOW_TO_GET, pytrace=False)
    if found is None:
        pytest.skip(HOW_TO_GET)
    return found


@pytest.fixture
def driver(browser: "Chromium") -> "Iterator[WebDriver]":
    """A browser of this test's own."""
    from chromium import opened  # noqa: PLC0415 - as above

    with opened(browser) as found:
        yield found


@pytest.fixture(scope="module")
def house(browser: "Chromium", tmp_path_factory: pytest.TempPathFactory) -> "Iterator[House]":
    """A page with everything behind it, for one module of tests, and none without a browser."""
    from browsing import furnished  # noqa: PLC0415 - as above

    with furnished(tmp_path_factory.mktemp("house")) as found:
        yield found


@pytest.fixture
def window(house: "House", driver: "WebDriver") -> "Window":
    """A browser in front of that page."""
    from browsing import Window  # noqa: PLC0415 - as above

    return Window(driver, house.page.address)
