"""Real servers for tests: a fresh nats-server (and Valkey) for each test that asks, in a temporary folder."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio
from secured import Secured

from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats, start_valkey
from tars.runtime.settings import Settings

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when MLflow is imported: tests tell its makers nothing

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


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Server]:
    """A nats-server of this test's own."""
    server = start_nats(tmp_path / "nats")
    yield server
    server.stop()


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
    server.stop()


@pytest.fixture
def settings(nats_server: Server) -> Settings:
    """Settings of a worker on this test's nats-server, without Redis, whatever the environment says."""
    return Settings(nats_url=nats_server.url, use_redis=False, ack_wait_seconds=ACK_WAIT, rate_limit_per_minute=0)


@pytest.fixture
async def bus(nats_server: Server) -> AsyncIterator[Bus]:
    """A connection to this test's nats-server, provisioned."""
    connection = await connect_bus(nats_server.url, "test", patience=5)
    await provision(connection.jetstream, ack_wait=ACK_WAIT)
    yield connection
    await connection.close()


@pytest.fixture
async def store(valkey: Server) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of this test's Valkey."""
    client = redis.asyncio.Redis.from_url(valkey.url)
    yield client
    await client.aclose()
