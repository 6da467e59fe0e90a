"""Workers are killed with SIGKILL at random moments while updates and a study flow: nothing lost, nothing doubled."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from accounting import Account, account
from herd import Herd
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.bus import Bus, fresh_id
from tars.runtime.servers import Server
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By
from tars.schemas.study import StartStudy, StudyFinished
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RejectUpdate

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SEED = 20261124
UPDATES = 24
KILLS = 14


@pytest.fixture
def environment(nats_server: Server, bus: Bus) -> dict[str, str]:
    return {
        "NATS_URL": nats_server.url,
        "USE_REDIS": "false",
        "ACK_WAIT_SECONDS": "2",
        "RATE_LIMIT_PER_MINUTE": "0",
        "REAL_TRAINING_EPISODES": "2",
        "REAL_EVAL_EPISODES": "1",
        "HYPERPARAM_SYNC_ENABLED": "false",
        "WATCH_EPISODES": "10",
    }


class Traffic:
    """Commands about updates, each waited for; and what was said of each."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.sent: list[str] = []
        self.told: dict[str, bool] = {}

    async def send(self, command: ProposeUpdate | ApproveUpdate | RejectUpdate) -> bool:
        """Send one command until it is decided, always under one id."""
        command_id = fresh_id("c")
        self.sent.append(command_id)
        while True:
            try:
                await self.client.send(command.model_copy(update={"deadline": None}), command_id=command_id)
            except CommandRefused:
                self.told[command_id] = False
                return False
            except Exception:  # noqa: BLE001, S112 - outcome unknown: ask again under the same id
                continue
            self.told[command_id] = True
            return True

    async def flow(self) -> None:
        for number in range(UPDATES):
            update_id, rate = f"u{number}", 1e-3 * (1 + number % 5)
            values: dict[str, Value] = {"learning_rate": rate, "gamma": 0.95 + 0.001 * number}
            if not await self.send(ProposeUpdate(update_id=update_id, agents=("policy-0",), values=values)):
                continue
            if number % 6 == 5:
                await self.send(RejectUpdate(update_id=update_id))
            elif await self.send(ApproveUpdate(update_id=update_id)):
                await self.ended(update_id)

    async def ended(self, update_id: str) -> None:
        async for _ in self.client.follow("update", update_id, _is_end):
            pass


def _is_end(event: object) -> bool:
    kind = getattr(event, "kind", "").split(".")[1]
    return kind in {"confirmed", "rolled-back", "rejected", "refused", "superseded", "failed"}


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 120.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.1)


async def test_every_command_has_one_outcome_and_every_trial_counts_once(
    bus: Bus, environment: dict[str, str], tmp_path: Path
) -> None:
    herd = Herd(environment, tmp_path / "herd.log", SEED)
    names = ["sync-1", "sync-2", "coordinator-1", "coordinator-2", "trainer-1", "trainer-2"]
    client = AsyncClient(bus, By(principal="herd"))
    try:
        for name in [*names, "agents"]:
            await herd.start(name)
        await until(lambda: _started(bus))
        traffic = Traffic(client)
        await client.send(StartStudy(study_id="s1", algorithm="dqn", trials=20, quick=False))
        killing = asyncio.create_task(herd.kill_some(names, KILLS, (0.3, 1.2)))
        async with asyncio.timeout(420):
            await traffic.flow()
            await killing
            last = [event async for event in client.follow("study", "s1", lambda e: isinstance(e, StudyFinished))][-1]
        found = await account(bus, traffic.sent, traffic.told)
    finally:
        await herd.stop()
    assert sum(herd.kills.values()) == KILLS
    assert isinstance(last, StudyFinished)
    assert last.completed + last.failed == 20
    _is_in_order(found)


async def _started(bus: Bus) -> bool:
    return (await bus.last("EVENTS", "tars.event.agent.started.v1.policy-0")) is not None


def _is_in_order(found: Account) -> None:
    assert found.doubled_events == []
    assert found.unanswered == []
    assert found.unfinished == []
    assert set(found.ends.values()) == {1}
    assert set(found.configurations.values()) == {1}
    assert set(found.asked.values()) == {1}
    assert found.outcomes == found.asked
    assert (found.waiting, found.dead) == (0, 0)
