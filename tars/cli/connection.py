"""A command's own connection to NATS, for what a script's door does not offer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

from tars.runtime.settings import Settings

if TYPE_CHECKING:
    from tars.runtime.bus import Bus


@asynccontextmanager
async def connected(
    settings: Settings, name: str, role: Literal["person", "admin"], *, patience: float, address: str | None = None
) -> AsyncIterator["Bus"]:
    """Connect for the length of the block, with the role's rights; patience: seconds; address: else what is set.

    Raises Unreachable, NotAdmitted and BadSeed.
    """
    from tars.producers.commands import nats_address  # noqa: PLC0415 - help must be quick
    from tars.runtime.access import access_of  # noqa: PLC0415
    from tars.runtime.bus import connect_bus  # noqa: PLC0415

    url = address or nats_address(settings)
    bus = await connect_bus(url, name, access=access_of(settings, role), patience=patience)
    try:
        yield bus
    finally:
        await bus.close()
