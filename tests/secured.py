"""A nats-server that knows roles by their keys, for tests: each role's way in, and what it was refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tars.runtime.access import AUTHORITY, Access, seed_path
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server
from tars.runtime.settings import Settings


@dataclass(frozen=True)
class Secured:
    """Such a server, and the folder of its keys."""

    server: Server
    keys: Path

    def access(self, role: str) -> Access:
        return Access(role, seed_path(self.keys, role), self.keys / AUTHORITY)

    def settings(self, role: str, **more: object) -> Settings:
        """What the environment of a process of this role says."""
        own = {"nats_nkey_file": seed_path(self.keys, role), "nats_ca_file": self.keys / AUTHORITY}
        return Settings.model_validate({"nats_url": self.server.url, "use_redis": False, **own, **more})

    @asynccontextmanager
    async def bus(self, role: str) -> AsyncIterator[Bus]:
        """Connect as a role."""
        bus = await connect_bus(self.server.url, "test", access=self.access(role), patience=5)
        try:
            yield bus
        finally:
            await bus.close()

    async def provision(self, ack_wait: float = 2.0) -> None:
        """Make streams and durables, as the one role that may."""
        async with self.bus("admin") as admin:
            await provision(admin.jetstream, ack_wait=ack_wait)


def refused(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """(role, what, subject) of every refusal that the log names."""
    records = [vars(record) for record in caplog.records if record.name == "tars.runtime.refusals"]
    return [(str(r["role"]), str(r["what"]), str(r["subject"])) for r in records]
