"""Streams are read to their end, whatever somebody wrote into them."""

import pytest

from tars.runtime.bus import Bus
from tars.runtime.journal import Journal

pytestmark = pytest.mark.anyio


async def test_a_header_that_looks_like_an_end_does_not_end_reading(bus: Bus) -> None:
    """Anybody who may send a report may send any header with it."""
    for number in range(4):
        await bus.jetstream.publish("tars.report.agent.beat.v1.a1", str(number).encode(), headers={"Status": "404"})
    page = await Journal(bus).page("REPORTS", 1, 100)
    assert [message.data for message in page] == [b"0", b"1", b"2", b"3"]
