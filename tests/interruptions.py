"""A rollout whose holder is interrupted, or dies, just before a given append."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from nats.aio.msg import Msg

from tars.runtime.bus import Bus
from tars.runtime.journal import History
from tars.runtime.leases import Lease
from tars.schemas.update import UpdateEvent
from tars.sync_worker.rollout import Rollout


class Dies(Exception):
    """The process ends here."""


class Interrupted(Lease[UpdateEvent]):
    """A lease during whose appends, counted from 0, something else happens first; an error there ends its holder."""

    happens: Callable[[int], Awaitable[None]]
    appends = 0

    async def append(self, decide: Callable[[History[UpdateEvent]], Sequence[UpdateEvent]]) -> tuple[UpdateEvent, ...]:
        """Append, unless something else happens."""
        await self.happens(self.appends)
        self.appends += 1
        return await super().append(decide)


async def interrupted(bus: Bus, rollout: Rollout, happens: Callable[[int], Awaitable[None]]) -> Msg:
    """Begin a rollout whose holder is interrupted; return its leasing message, to be given back."""
    subscription = await bus.jetstream.pull_subscribe_bind(consumer="run-rollout", stream="EVENTS")
    [message] = await subscription.fetch(1, timeout=5)
    lease = Interrupted(bus, message, "first")
    lease.happens = happens
    with suppress(Dies):
        await rollout(lease)
    return message


def dies_at(append: int) -> Callable[[int], Awaitable[None]]:
    """The holder dies just before its append of this number, counted from 0; a negative one: never."""

    async def happens(number: int) -> None:
        if number == append:
            raise Dies

    return happens
