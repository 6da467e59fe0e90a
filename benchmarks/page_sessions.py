"""Open pages without browsers: each speaks Streamlit's websocket protocol, and asks for refreshes as a browser does."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

SPREAD_SECONDS: Final = 2.0
"""Pages are opened one after the other over this long, so that they do not all refresh at once."""


class Sessions:
    """So many open pages on one server.

    every: seconds between two refreshes of a page; unset: as the page asks for.
    """

    def __init__(self, address: str, count: int, *, every: float | None = None) -> None:
        self._address, self._count, self._every = address.replace("http://", "ws://"), count, every
        self.refreshed: list[float] = []
        """When a page had been drawn again, all pages together (monotonic)."""
        self.errors: list[str] = []
        """Titles of exceptions that a page showed."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keep them open for the length of the block."""
        tasks = [
            asyncio.create_task(self._stay(SPREAD_SECONDS * number / self._count)) for number in range(self._count)
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stay(self, delay: float) -> None:
        await asyncio.sleep(delay)
        origin, protocols = Origin(self._address.replace("ws://", "http://")), [Subprotocol("streamlit")]
        async with connect(
            f"{self._address}/_stcore/stream", subprotocols=protocols, max_size=None, origin=origin, compression=None
        ) as socket:
            first = BackMsg()
            first.rerun_script.query_string = ""
            await socket.send(first.SerializeToString())
            with suppress(ConnectionClosed):
                await self._listen(socket)

    async def _listen(self, socket: ClientConnection) -> None:
        page, timer = "", None
        try:
            async for raw in socket:
                said = ForwardMsg()
                said.ParseFromString(raw if isinstance(raw, bytes) else raw.encode())
                match said.WhichOneof("type"):
                    case "new_session":
                        page = said.new_session.page_script_hash
                    case "auto_rerun" if timer is None:
                        rerun = said.auto_rerun
                        seconds = self._every or rerun.interval
                        timer = asyncio.create_task(_tick(socket, rerun.fragment_id, seconds, page))
                    case "script_finished":
                        self.refreshed.append(time.monotonic())
                    case "delta" if said.delta.new_element.WhichOneof("type") == "exception":
                        self.errors.append(said.delta.new_element.exception.message)
        finally:
            if timer is not None:
                timer.cancel()


async def _tick(socket: ClientConnection, fragment: str, seconds: float, page: str) -> None:
    """Ask for a refresh whenever the page said that it wants one."""
    due = time.monotonic()
    while True:
        due += seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        again = BackMsg()
        again.rerun_script.fragment_id = fragment
        again.rerun_script.is_auto_rerun = True
        again.rerun_script.page_script_hash = page
        await socket.send(again.SerializeToString())
