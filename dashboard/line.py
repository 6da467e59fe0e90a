"""The page's connection to NATS: made in the background and tried for ever, so that a page opens without it."""

import logging
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tars.producers.client import Client, connect
from tars.producers.commands import NotSent
from tars.schemas.errors import TarsError
from tars.schemas.message import Report

log = logging.getLogger(__name__)

AGAIN_SECONDS: Final = 0.5


class Line:
    """One connection for all sessions of this process; once made it renews itself."""

    def __init__(self, nats_url: str, key: Path | None = None) -> None:
        self._url, self._key = nats_url, key
        self._client: Client | None = None
        self._closing = threading.Event()
        self._stack = ExitStack()
        self._thread = threading.Thread(target=self._connect, name="nats-line", daemon=True)
        self._thread.start()

    def _connect(self) -> None:
        while not self._closing.is_set():
            try:
                self._client = self._stack.enter_context(connect(self._url, key=self._key, role="dashboard"))
            except TarsError as error:
                log.warning("waiting for NATS", extra={"error": str(error)})
                self._closing.wait(AGAIN_SECONDS)
            else:
                return

    def client(self) -> Client:
        """Return the door for commands and queries; raises NotSent while there was no connection yet."""
        if self._client is None:
            raise NotSent("NATS is away")
        return self._client

    def reached(self, report: Report) -> Client:
        """Return the same for a command; raises NotSent when not even a report can be sent at this moment.

        The client itself cannot tell a command that never left from one whose answer was lost, and calls both unknown.
        """
        client = self.client()
        try:
            client.report(report)
        except Exception as error:
            raise NotSent(f"NATS is away ({type(error).__name__})") from error
        return client

    def close(self) -> None:
        """End the connection."""
        self._closing.set()
        self._thread.join()
        self._stack.close()
