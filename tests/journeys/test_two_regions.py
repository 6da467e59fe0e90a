"""Two regions: a sync worker beside the hub, agents beside a leaf server, and the link between them cut and healed."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from accounting import account
from clusters import DEPLOY, Deployed, Link, free_ports
from herd import Herd
from light_agents import serve
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
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
    """The hub and its client, the leaf, and the link."""

    def __init__(self, bus: Bus, link: Link) -> None:
        self.bus, self.link = bus, link
        self.client = AsyncClient(bus, By(principal="ada"))

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


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[Regions]:
    [port, door, near] = free_ports(3)
    hub = Deployed(
        DEPLOY / "hub.conf", tmp_path / "hub.log", NATS_LISTEN=f'"127.0.0.1:{port}"', NATS_HTTP='"127.0.0.1:-1"',
        NATS_STORE=f'"{tmp_path / "js"}"', NATS_LEAFNODES=f'"127.0.0.1:{door}"',
    )  # fmt: skip
    link = Link(door)
    through = f'"nats://127.0.0.1:{await link.listen()}"'
    leaf = Deployed(DEPLOY / "leaf.conf", tmp_path / "leaf.log", NATS_LEAF=f'"127.0.0.1:{near}"', NATS_HUB=through)
    bus = await connect_bus(f"nats://127.0.0.1:{port}", "test", patience=20)
    await provision(bus.jetstream, ack_wait=ACK_WAIT)
    environment = {"USE_REDIS": "false", "ACK_WAIT_SECONDS": str(ACK_WAIT), "RATE_LIMIT_PER_MINUTE": "0"}
    far = environment | {"NATS_URL": f"nats://127.0.0.1:{near}"}
    here = Herd(environment | {"NATS_URL": f"nats://127.0.0.1:{port}"}, tmp_path / "here.log", 0)
    there = Herd(far, tmp_path / "there.log", 0, {"agents": partial(serve, *AGENTS)})
    try:
        await here.start("sync")
        await there.start("agents")
        async with asyncio.timeout(60):
            while None in [await bus.last("EVENTS", f"tars.event.agent.started.v1.{agent}") for agent in AGENTS]:
                await asyncio.sleep(0.1)
        yield Regions(bus, link)
    finally:
        await here.stop()
        await there.stop()
        await bus.close()
        await link.close()
        leaf.kill()
        hub.kill()


async def test_a_cut_link_loses_nothing_and_what_is_stale_by_then_is_refused(regions: Regions) -> None:
    await regions.propose("before", "a0", RATE)
    await regions.approve("before")
    assert await regions.end_of("before") == "confirmed"
    await regions.propose("waits", "a0", RATE * 1.1)
    await regions.propose("meanwhile", "a0", RATE * 1.2)

    regions.link.cut()
    await regions.approve("meanwhile")
    await asyncio.sleep(3)  # its configuration is stored, and nobody there hears it
    regions.link.heal()
    assert await regions.end_of("meanwhile") in {"confirmed", "rolled-back"}

    async with asyncio.timeout(90):
        while (found := await account(regions.bus, [], {})).behind:
            await asyncio.sleep(0.2)
    assert (found.doubled_events, found.illegal, found.unfinished) == ([], [], ["waits"])
    assert max(found.configurations.values()) == max(found.reloads.values()) == 1
    with pytest.raises(CommandRefused, match="has moved on"):
        await regions.approve("waits")
    await is_refused_when_stale(regions.bus, "a0")
    await regions.propose("after", "a0", RATE * 0.9)
    await regions.approve("after")
    assert await regions.end_of("after") == "confirmed"


async def is_refused_when_stale(bus: Bus, agent: str) -> None:
    """A configuration that was made for an earlier one is not even stored."""
    newest = await bus.last("AGENTS", configure_subject(agent))
    assert newest is not None
    stale = ConfigureAgent.model_validate_json(newest.body).model_copy(update={"base": 1, "update_id": "stale"})
    with pytest.raises(Conflict):
        await bus.publish(stale, id="stale", after=(configure_subject(agent), 1))
