"""Two regions: a sync worker at the hub, agents at leaf servers, and the links between them cut and healed."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from accounting import account
from clusters import Cluster, Link
from herd import Herd
from light_agents import serve
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision_in_time
from tars.schemas.agent import ConfigureAgent
from tars.schemas.errors import Conflict
from tars.schemas.message import By, Event
from tars.schemas.streams import configure_subject
from tars.schemas.update import ApproveUpdate, ProposeUpdate

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
AGENTS = ("a0", "a1")
ACK_WAIT = 2.0
RATE = 1.1e-3


class Regions:
    """The hub and its client, the leaf, and the links between their servers."""

    def __init__(self, bus: Bus, hub: Cluster, leaf: Cluster, links: Sequence[Link]) -> None:
        self.bus, self.hub, self.leaf, self._links = bus, hub, leaf, links
        self.client = AsyncClient(bus, By(principal="ada"))

    def cut(self) -> None:
        for link in self._links:
            link.cut()

    def heal(self) -> None:
        for link in self._links:
            link.heal()

    async def propose(self, update: str, agent: str, rate: float) -> None:
        await self.client.send(ProposeUpdate(update_id=update, agents=(agent,), values={"learning_rate": rate}))

    async def approve(self, update: str) -> None:
        await self.client.send(ApproveUpdate(update_id=update))

    async def end_of(self, update: str) -> str:
        """Follow an update to its end."""

        def is_end(event: Event) -> bool:
            return event.kind.split(".")[1] in {"confirmed", "rolled-back", "failed"}

        async with asyncio.timeout(120):
            return [event.kind async for event in self.client.follow("update", update, is_end)][-1].split(".")[1]

    async def unfinished(self) -> list[str]:
        """Once every agent runs what it was told last: nothing happened twice or was lost, and these updates wait."""
        async with asyncio.timeout(90):
            while (found := await account(self.bus, [], {})).behind:
                await asyncio.sleep(0.2)
        assert (found.doubled_events, found.illegal) == ([], [])
        assert max(found.configurations.values()) == max(found.reloads.values()) == 1
        return found.unfinished


@pytest.fixture(params=[1, 3], ids=["a server each", "three servers each"])
async def regions(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Regions]:
    size: int = request.param
    form = "-cluster" if size > 1 else ""
    hub = Cluster(tmp_path, size, f"hub{form}")
    links = [Link(door) for door in hub.doors]
    ways = ", ".join([f'"nats://127.0.0.1:{await link.listen()}"' for link in links])
    leaf = Cluster(tmp_path, size, f"leaf{form}", NATS_REGION="far", NATS_HUB=f"[{ways}]")
    bus = await connect_bus(hub.url, "test", patience=20)
    await provision_in_time(bus.jetstream, 60, ack_wait=ACK_WAIT, replicas=size)
    environment = {"USE_REDIS": "false", "ACK_WAIT_SECONDS": str(ACK_WAIT), "RATE_LIMIT_PER_MINUTE": "0"}
    here = Herd(environment | {"NATS_URL": hub.url}, tmp_path / "here.log", 0)
    there = Herd(environment | {"NATS_URL": leaf.url}, tmp_path / "there.log", 0, {"agents": partial(serve, *AGENTS)})
    try:
        await here.start("sync")
        await there.start("agents")
        async with asyncio.timeout(60):
            while None in [await bus.last("EVENTS", f"tars.event.agent.started.v1.{agent}") for agent in AGENTS]:
                await asyncio.sleep(0.1)
        yield Regions(bus, hub, leaf, links)
    finally:
        await here.stop()
        await there.stop()
        await bus.close()
        for link in links:
            await link.close()
        leaf.stop()
        hub.stop()


async def test_a_cut_link_loses_nothing_and_what_is_stale_by_then_is_refused(regions: Regions) -> None:
    await regions.propose("before", "a0", RATE)
    await regions.approve("before")
    assert await regions.end_of("before") == "confirmed"
    await regions.propose("waits", "a0", RATE * 1.1)
    await regions.propose("meanwhile", "a0", RATE * 1.2)

    regions.cut()
    await regions.approve("meanwhile")
    await asyncio.sleep(3)  # its configuration is stored, and nobody there hears it
    regions.heal()
    assert await regions.end_of("meanwhile") in {"confirmed", "rolled-back"}

    assert await regions.unfinished() == ["waits"]
    with pytest.raises(CommandRefused, match="has moved on"):
        await regions.approve("waits")
    await is_refused_when_stale(regions.bus, "a0")
    await regions.propose("after", "a0", RATE * 0.9)
    await regions.approve("after")
    assert await regions.end_of("after") == "confirmed"


@pytest.mark.parametrize("regions", [3], indirect=True)
async def test_each_region_may_lose_a_server(regions: Regions) -> None:
    """The others have the streams, and the ways to the other region."""
    for number in range(2):
        lost = [[*region.servers.values()][number] for region in (regions.hub, regions.leaf)]
        for server in lost:
            server.kill()
        await regions.propose(f"u{number}", "a0", RATE * (1 + number / 10))
        await regions.approve(f"u{number}")
        assert await regions.end_of(f"u{number}") == "confirmed"
        for server in lost:
            server.start()
        await asyncio.to_thread(regions.hub.wait_until_healthy)
    assert await regions.unfinished() == []


async def is_refused_when_stale(bus: Bus, agent: str) -> None:
    """A configuration that was made for an earlier one is not even stored."""
    newest = await bus.last("AGENTS", configure_subject(agent))
    assert newest is not None
    stale = ConfigureAgent.model_validate_json(newest.body).model_copy(update={"base": 1, "update_id": "stale"})
    with pytest.raises(Conflict):
        await bus.publish(stale, id="stale", after=(configure_subject(agent), 1))
