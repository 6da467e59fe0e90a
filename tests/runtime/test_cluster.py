"""Three NATS servers, and each stream three times: one may die, and all may be restarted, under load."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats.errors import Error as NatsError

from clusters import DEPLOY, Cluster, Deployed, free_ports
from examples import EXAMPLES
from tars.cli.server_checks import copies, streams
from tars.consumers.lag import show_stream
from tars.runtime.access import ensure_seeds
from tars.runtime.backup import back_up, restore
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.certificates import ensure_server_certificate
from tars.runtime.journal import History, Journal
from tars.runtime.metrics import REGISTRY
from tars.runtime.provision import CannotProvision, differences, provision_in_time
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.errors import Transient
from tars.schemas.permissions import variable_of
from tars.schemas.streams import STREAMS
from tars.schemas.update import UpdateEvent, UpdateResumed

pytestmark = pytest.mark.anyio
WRITERS = 8
MORE = 200
"""Events that have to be acknowledged between one blow and the next."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path)
    yield found
    found.stop()


class Load:
    """Writers that append to ids of their own, one event after the other; each until it is acknowledged."""

    def __init__(self, bus: Bus) -> None:
        self._journal = Journal(bus)
        self.acknowledged: list[str] = []
        self._tasks = [asyncio.create_task(self._write(f"u{number}")) for number in range(WRITERS)]

    async def _write(self, key: str) -> None:
        number = 0
        while True:
            await self._append(key, f"{key}-{number}")
            number += 1

    async def _append(self, key: str, cause: str) -> None:
        while True:
            try:
                history: History[UpdateEvent] = await self._journal.read("update", key)
                await self._journal.append([UpdateResumed(update_id=key, holder="h", delivery=1)], history, cause=cause)
            except (Transient, NatsError, OSError, TimeoutError):
                await asyncio.sleep(0.1)
            else:
                self.acknowledged.append(f"{cause}:0")
                return

    async def goes_on(self) -> None:
        """Wait until MORE events are acknowledged."""
        enough = len(self.acknowledged) + MORE
        async with asyncio.timeout(120):
            while len(self.acknowledged) < enough:
                await asyncio.sleep(0.05)

    async def stored(self) -> Counter[str]:
        """End, and count what the ledger holds, by id."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return Counter(entry.id for entry in await self._journal.messages("EVENTS", "tars.event.>"))


@pytest.fixture
async def bus_of_three(cluster: Cluster) -> AsyncIterator[Bus]:
    bus = await connect_bus(cluster.url, "test", patience=20)
    await provision_in_time(bus.jetstream, 60, ack_wait=2.0, replicas=3)
    yield bus
    await bus.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nats-py leaves a dead server's socket
async def test_nothing_acknowledged_is_lost_when_the_leader_dies_under_load(
    cluster: Cluster, bus_of_three: Bus
) -> None:
    copies = {name: (await bus_of_three.stream(name)).config.num_replicas for name in STREAMS}
    assert copies == dict.fromkeys(STREAMS, 3)
    assert not await differences(bus_of_three.jetstream, ack_wait=2.0, replicas=3)
    ledger = await bus_of_three.stream("EVENTS")
    assert ledger.cluster is not None
    load = Load(bus_of_three)
    await load.goes_on()
    leader = cluster.servers[str(ledger.cluster.leader)]
    leader.kill()
    await load.goes_on()
    leader.start()
    await asyncio.to_thread(cluster.wait_until_healthy)
    stored = await load.stored()
    assert set(load.acknowledged) <= set(stored)
    assert max(stored.values()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_nothing_acknowledged_is_lost_when_all_are_restarted_one_after_the_other(
    cluster: Cluster, bus_of_three: Bus
) -> None:
    load = Load(bus_of_three)
    for server in cluster.servers.values():
        await load.goes_on()
        await asyncio.to_thread(server.restart)
        await asyncio.to_thread(cluster.wait_until_healthy)
    await load.goes_on()
    stored = await load.stored()
    assert set(load.acknowledged) <= set(stored)
    assert max(stored.values()) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_server_that_is_away_is_named_by_the_doctor_and_counted(cluster: Cluster, bus_of_three: Bus) -> None:
    settings = Settings()  # whoever asks need not know how many copies there should be
    async with asyncio.timeout(60):
        while [finding.state async for finding in copies(bus_of_three, settings)] != ["ok"]:
            await asyncio.sleep(0.2)
        cluster.servers["cluster-2"].kill()
        while True:  # whoever led what lay there is replaced first
            try:
                (found,) = [finding async for finding in copies(bus_of_three, settings)]
                show_stream("EVENTS", await bus_of_three.stream("EVENTS"))
            except (NatsError, OSError, TimeoutError):
                continue
            if "EVENTS" in found.found:
                break
            await asyncio.sleep(0.2)
    assert found.state == "look"
    assert found.found.startswith("cluster-2 has not all of ")
    assert REGISTRY.get_sample_value("tars_stream_copies_away", {"stream": "EVENTS"}) == 1


@pytest.mark.slow
async def test_reports_that_are_acknowledged_early_stay_where_they_were_made(cluster: Cluster) -> None:
    """NATS lets that be changed of no stream: a cluster that was provisioned with one copy goes on with what it has."""
    bus = await connect_bus(cluster.url, "test", patience=20)
    await provision_in_time(bus.jetstream, 60, ack_wait=2.0, replicas=1)
    done = await provision_in_time(bus.jetstream, 60, ack_wait=2.0, replicas=3)
    assert [(name, done[name]) for name in ("EVENTS", "REPORTS")] == [("EVENTS", "changed"), ("REPORTS", "unchanged")]
    assert (await bus.stream("REPORTS")).config.num_replicas == 1
    assert not await differences(bus.jetstream, ack_wait=2.0, replicas=3)
    told = [finding async for finding in streams(bus, Settings(stream_replicas=3, ack_wait_seconds=2.0))]
    assert [(finding.about, finding.state) for finding in told] == [("streams", "ok"), ("REPORTS", "look")]
    await bus.close()


@pytest.mark.slow
async def test_a_backup_of_one_server_comes_back_on_all_three(
    cluster: Cluster, nats_server: Server, bus: Bus, tmp_path: Path
) -> None:
    await bus.report(EXAMPLES["agent.reported.v1"])
    await bus.publish(EXAMPLES["agent.started.v1"], id="a")
    await back_up(bus, tmp_path / "backup", reports=True, tell=lambda *_: None)
    await asyncio.to_thread(cluster.wait_until_healthy)
    three = await connect_bus(cluster.url, "test", patience=20)
    await restore(three, tmp_path / "backup", ack_wait=2.0, replicas=3, tell=lambda *_: None)
    found = {name: (await three.stream(name)) for name in ("EVENTS", "REPORTS")}
    assert {name: (one.config.num_replicas, one.state.messages) for name, one in found.items()} == {
        "EVENTS": (3, 1), "REPORTS": (3, 1),
    }  # fmt: skip
    await three.close()


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Cluster]:
    """Two servers of secure-cluster.conf, with its files in one folder."""
    keys, certificate = ensure_seeds(tmp_path), ensure_server_certificate(tmp_path)
    (tmp_path / "tls.crt").symlink_to(certificate.public)
    (tmp_path / "tls.key").symlink_to(certificate.private)
    for file in DEPLOY.glob("*.conf"):
        (tmp_path / file.name).write_text(file.read_text().replace("/etc/nats-tls", str(tmp_path)))
    known = {variable_of(role): key for role, key in keys.items()}
    found = Cluster(tmp_path, 2, "secure-cluster", tmp_path, password="sesame", **known)  # noqa: S106
    yield found
    found.stop()


async def test_a_server_without_the_password_gets_no_route_to_those_that_ask_for_keys(
    closed: Cluster, tmp_path: Path
) -> None:
    """It would speak there with the rights of every role."""
    own, client, http = free_ports(3)
    address = f'"127.0.0.1:{own}"'
    variables = {"NATS_NAME": "rogue", "NATS_LISTEN": f'"127.0.0.1:{client}"', "NATS_HTTP": f'"127.0.0.1:{http}"'}
    variables |= {"NATS_STORE": f'"{tmp_path / "rogue"}"', "NATS_CLUSTER": address, "NATS_ROUTES": closed.open_routes}
    rogue, log = Deployed(DEPLOY / "cluster.conf", tmp_path / "rogue.log", **variables), tmp_path / "rogue.log"
    try:
        async with asyncio.timeout(30):
            while closed.peers() != {"secure-cluster-0", "secure-cluster-1"}:
                await asyncio.sleep(0.1)
            while not log.exists() or log.read_text().count("Authorization Violation") < 2:
                await asyncio.sleep(0.1)
        assert closed.peers() == {"secure-cluster-0", "secure-cluster-1"}
    finally:
        rogue.kill()


async def test_servers_that_never_agree_are_named_with_their_reason(nats_server: Server) -> None:
    """More replicas than servers: it is tried for as long as was asked, then said in one line."""
    bus = await connect_bus(nats_server.url, "test", patience=5)
    with pytest.raises(CannotProvision, match="replicas > 1 not supported"):
        await provision_in_time(bus.jetstream, 0.1, ack_wait=2.0, replicas=3)
    await bus.close()
