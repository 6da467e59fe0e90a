"""People who send commands about updates side by side, each waited for; and what each of them was told."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from accounting import ENDS, verbs
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus
from tars.schemas.errors import TarsError
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate, RollBackUpdate

UpdateRequest = ProposeUpdate | ApproveUpdate | RejectUpdate | RollBackUpdate
GOOD, BAD = 1.2e-3, 3.0
"""Learning rates: one that may go live, one that may not."""
SHARES = {"held": 50, "refused": 14, "too late": 14, "unreadable": 4, "rolled out": 9, "rolled back": 9}
"""What becomes of an update, of 100."""


@dataclass
class Traffic:
    """Updates of several agents, a lane for each; commands are counted up to `commands`."""

    bus: Bus
    seed: int
    commands: int
    attempts: int = 50
    """How often a command whose outcome is unknown is sent again, under its id."""
    sent: list[str] = field(default_factory=list)
    told: dict[str, bool] = field(default_factory=dict)
    """By command, whether it was carried out (or refused)."""
    unreadable: list[str] = field(default_factory=list)
    """Ids of messages that nobody can read."""
    stored: set[str] = field(default_factory=set)
    """Those of them that are stored."""
    is_over: bool = False

    async def flow(self, agents: Sequence[str]) -> None:
        """Send all."""
        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(self._lane(agent, random.Random(f"{self.seed}/{agent}")))
        self.is_over = True

    async def _lane(self, agent: str, chance: random.Random) -> None:
        client, number = AsyncClient(self.bus, By(principal=f"of-{agent}")), 0
        while len(self.sent) < self.commands:
            number += 1
            [fate] = chance.choices(list(SHARES), list(SHARES.values()))
            await self._update(client, f"{agent}-u{number}", agent, fate, GOOD * chance.uniform(0.5, 1.5))

    async def _update(self, client: AsyncClient, update: str, agent: str, fate: str, rate: float) -> None:
        """One update from its proposal to its end."""
        if fate == "unreadable":
            await self._garbage(update)
            return
        values: dict[str, Value] = {"learning_rate": BAD if fate == "refused" else rate}
        if not await self._send(client, ProposeUpdate(update_id=update, agents=(agent,), values=values)):
            return
        if fate == "held":
            await self._send(client, ApproveUpdate(update_id=update, hold=True))
        if fate in {"held", "too late"}:
            await self._send(client, RejectUpdate(update_id=update))
        if fate == "too late":
            await self._send(client, ApproveUpdate(update_id=update))
        if fate.startswith("rolled") and await self._send(client, ApproveUpdate(update_id=update)):
            end = await self._ended(client, update, 1)
            if fate == "rolled back" and await self._send(client, RollBackUpdate(update_id=update)):
                await self._ended(client, update, 2 if end == "confirmed" else 1)

    async def _send(self, client: AsyncClient, command: UpdateRequest) -> bool:
        """Send one command until it is decided, always under one id; say whether it was carried out."""
        command_id = f"c-{command.update_id}-{command.kind.split('.')[1]}"
        self.sent.append(command_id)
        for _ in range(self.attempts):
            try:
                await client.send(command, command_id=command_id)
            except CommandRefused:
                self.told[command_id] = False
            except (TarsError, OSError):  # not sent, or outcome unknown: ask again under the same id
                await asyncio.sleep(0.05)
                continue
            else:
                self.told[command_id] = True
            return self.told[command_id]
        return False

    async def _garbage(self, update: str) -> None:
        """A message that is no command, stored once."""
        message_id, subject = f"g-{update}", f"tars.command.update.approve.v1.{update}"
        self.unreadable.append(message_id)
        while message_id not in self.stored:
            try:
                await self.bus.jetstream.publish(subject, b'{"what": 1', headers={"Nats-Msg-Id": message_id}, timeout=2)
                self.stored.add(message_id)
            except Exception:  # noqa: BLE001 - the server is being restarted
                await asyncio.sleep(0.1)

    async def _ended(self, client: AsyncClient, update: str, ends: int) -> str:
        """Wait for an update's first or second end; return which it is."""
        seen = 0

        def is_last(event: object) -> bool:
            nonlocal seen
            seen += verbs([event])[0] in ENDS  # type: ignore[list-item] # of one update
            return seen == ends

        last = [event async for event in client.follow("update", update, is_last)][-1]
        return verbs([last])[0]
