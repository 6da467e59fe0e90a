"""A stream that has no room left: commands are refused with the server's reason, and go on when there is room."""

import asyncio

import pytest
from nats.js.api import DiscardPolicy

from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused, NotSent
from tars.runtime.bus import Bus
from tars.runtime.settings import Settings
from tars.schemas.message import By
from tars.schemas.update import RejectUpdate
from tars.sync_worker.app import worker

pytestmark = pytest.mark.anyio


async def limit(bus: Bus, max_bytes: int) -> None:
    config = (await bus.stream("COMMANDS")).config
    await bus.jetstream.update_stream(config.evolve(max_bytes=max_bytes, discard=DiscardPolicy.NEW))


async def test_a_command_without_room_is_not_sent_and_says_why_and_the_next_goes_on(
    bus: Bus, settings: Settings
) -> None:
    client = AsyncClient(bus, By(principal="ada"))
    await limit(bus, 50)
    with pytest.raises(NotSent, match="maximum bytes exceeded"):
        await client.send(RejectUpdate(update_id="u"))
    await limit(bus, -1)
    deciding = asyncio.create_task(worker(settings).serve(0))
    with pytest.raises(CommandRefused, match="there is no update"):
        await client.send(RejectUpdate(update_id="u"))
    deciding.cancel()
    await asyncio.gather(deciding, return_exceptions=True)
