"""Snapshots of hosted agents: when they are taken, what is in them, how they are kept; and a store that is away."""

import asyncio
import logging
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from learners import Table
from tars.agents import checkpoint
from tars.agents.app import Host, worker
from tars.agents.game import ROLES, Role, coordination_game
from tars.agents.host import Applied, Reload
from tars.agents.keeper import FIRST_SNAPSHOT, SNAPSHOT_EVERY, Keeper, Taken, is_due
from tars.agents.world import Episode, Player, Start, World
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import Journal
from tars.runtime.provision import provision
from tars.runtime.running_agents import running_agents
from tars.runtime.servers import Server, start_nats
from tars.runtime.settings import Settings
from tars.runtime.snapshots import KEPT, KEPT_RELOADS, NoSnapshot, Snapshots
from tars.schemas.agent import AgentReported
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value
from tars.schemas.snapshot import SnapshotRef

torch.set_num_threads(1)
SECONDS = 30.0


def beginnings() -> dict[Role, Start]:
    return {role: Start(dict(DECLARED[GAME_ROLES[role]].game_defaults)) for role in ROLES}


class Played:
    """A world, what it told and what it handed over."""

    def __init__(self, **values: Value) -> None:
        self.taken: queue.Queue[Taken] = queue.Queue()
        self.assessed: queue.Queue[Episode] = queue.Queue()
        begin = beginnings()
        begin["consensus"] = Start({**begin["consensus"].values, **values}, version=3)
        self.world = World("7", begin, seed=1, tell=self._tell, keep=self.taken.put, pace=None)
        self.world.start()

    def _tell(self, _: str, episode: Episode) -> None:
        if episode.number + 1 == SNAPSHOT_EVERY:
            self.assessed.put(episode)


@pytest.fixture
def played() -> Iterator[Played]:
    found = Played()
    yield found
    found.world.stop()
    assert found.world.error is None


def test_a_snapshot_is_taken_early_and_then_after_every_fifty_episodes() -> None:
    assert [n for n in range(2 * SNAPSHOT_EVERY + 1) if is_due(n)] == [FIRST_SNAPSHOT, 50, 100]


def test_every_agent_hands_over_its_lane_with_its_transitions(played: Played) -> None:
    taken = [played.taken.get(timeout=SECONDS) for _ in range(4)]
    assert [each.agent_id for each in taken] == [f"{role}-7" for role in ROLES]
    assert {each.episode for each in taken} == {FIRST_SNAPSHOT}
    assert [each.version for each in taken] == [0, 3, 0, 0]
    for each, player in zip(taken, played.world.players, strict=True):
        snapshot = checkpoint.parse(each.data)
        assert (snapshot.environment, snapshot.algorithm) == (player.role, player.algorithm)
        assert snapshot.hyperparameters.keys() == player.values().keys()
        lane = Table().players[player.role]
        checkpoint.restore(lane, 0, each.data)
        assert lane.gradient_steps(0) == each.step > 0
        assert len(snapshot.tensors["transitions"]) == (FIRST_SNAPSHOT * 512 if lane.REPLAYS else 0)


@pytest.mark.slow
def test_the_partners_of_a_snapshot_are_the_policies_that_were_assessed_then(played: Played) -> None:
    assessed = played.assessed.get(timeout=4 * SECONDS)
    later = [taken for _ in range(8) if (taken := played.taken.get(timeout=SECONDS)).episode == SNAPSHOT_EVERY]
    assert len(later) == 4
    beside_policy = checkpoint.parse(later[0].data).partners_of("policy")
    beside_consensus = checkpoint.parse(later[1].data).partners_of("consensus")
    found = coordination_game().assess(beside_policy._replace(policy=beside_consensus.policy))
    assert assessed.joint is not None
    assert found.nash_conv == pytest.approx(assessed.joint.nash_conv, abs=1e-9)


def test_a_diverged_agent_hands_over_nothing_and_the_others_do() -> None:
    played = Played(learning_rate=1e30)
    taken = [played.taken.get(timeout=SECONDS) for _ in range(3)]
    played.world.stop()
    assert {each.agent_id for each in taken} == {"policy-7", "ethical-7", "resource-7"}
    assert played.world.error is None


def test_a_reload_that_comes_while_snapshots_are_taken_waits_for_one_copy_at_most() -> None:
    """The world's thread is held in the first copy: the reload is applied before the second."""
    copies, goes_on, applied = queue.Queue[Taken](), queue.Queue[None](), queue.Queue[Applied]()

    def keep(taken: Taken) -> None:
        copies.put(taken)
        goes_on.get(timeout=SECONDS)

    world = World("8", beginnings(), seed=1, tell=lambda *_: None, keep=keep, pace=None)
    world.start()
    assert copies.get(timeout=SECONDS).agent_id == "policy-8"
    player = world.players[1]
    player.reload(Reload(4, "u", {**player.values(), "learning_rate": 1e-4}), applied.put)
    goes_on.put(None)
    second = copies.get(timeout=SECONDS)
    assert (second.agent_id, second.version) == ("consensus-8", 4)
    assert applied.get(timeout=SECONDS).reload.version == 4
    for _ in range(3):
        goes_on.put(None)
    world.stop()
    assert world.error is None


@pytest.mark.anyio
async def test_a_hosted_agents_snapshot_is_in_the_store_soon_under_its_run(bus: Bus, settings: Settings) -> None:
    host = Host(worlds=1, pace=None)
    serving = asyncio.create_task(worker(settings, host).serve(0))
    names = [f"{role}-0" for role in ROLES]
    async with asyncio.timeout(SECONDS):
        while None in (found := [await Snapshots(bus).newest(name) for name in names]):
            await asyncio.sleep(0.1)
    running = await running_agents(Journal(bus), names)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    for name, ref in zip(names, found, strict=True):
        assert ref is not None
        assert ref.name == f"{name}.{running[name].run_id}.{ref.episode}"
        assert (ref.agent_id, ref.version) == (name, 0)
        snapshot = checkpoint.parse(await Snapshots(bus).get(ref))
        assert (snapshot.algorithm, snapshot.environment) == (running[name].algorithm, running[name].role)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_hosted_agent_that_starts_again_goes_on_from_its_newest_snapshot(bus: Bus, settings: Settings) -> None:
    names = [f"{role}-0" for role in ROLES]
    async with hosting(bus, settings, names):
        pass
    newest = [ref for name in names if (ref := await Snapshots(bus).newest(name))]
    async with hosting(bus, settings, names):
        again: list[AgentReported] = []
        async with asyncio.timeout(SECONDS):
            running = await running_agents(Journal(bus), names)
            while any(agent.restored is None for agent in running.values()):
                running = await running_agents(Journal(bus), names)
            while not again:
                reported = await Journal(bus).messages("REPORTS", "tars.report.agent.reported.*.policy-0")
                again = [e.event for e in reported if e.event.run_id == running["policy-0"].run_id]
    for name, ref in zip(names, newest, strict=True):
        restored = running[name].restored
        assert restored is not None
        assert restored.snapshot == ref
    assert again[0].episode >= newest[0].episode
    assert again[0].step > newest[0].step


async def reloaded(player: Player, version: int, **asked: Any) -> Applied:
    """Ask for a reload, and wait until it is in use."""
    done, values = queue.Queue[Applied](), {**player.values(), "learning_rate": 1e-3 / version}
    player.reload(Reload(version, f"u{version}", values, **asked), done.put)
    return await asyncio.to_thread(done.get, timeout=SECONDS)


@pytest.mark.anyio
async def test_the_newest_snapshot_of_an_agent_that_went_back_is_of_what_it_went_back_to(bus: Bus) -> None:
    keeper, snapshots = Keeper(bus), Snapshots(bus)
    keeping = asyncio.create_task(keeper.run())
    world = World("0", beginnings(), seed=1, tell=lambda *_: None, keep=lambda t: keeper.keep("run-0", t), pace=None)
    world.start()
    out = await reloaded(world.players[0], 1, snapshot_first=True, twin=1)
    assert out.taken is not None
    async with asyncio.timeout(SECONDS):
        while (harmed := await snapshots.newest("policy-0")) is None or harmed.version < 1:
            await asyncio.sleep(0.01)
    back = await reloaded(world.players[0], 2, restore=out.taken.data)
    async with asyncio.timeout(SECONDS):
        while (newest := await snapshots.newest("policy-0")) is None or newest.version < 2:
            await asyncio.sleep(0.01)
    await asyncio.to_thread(world.stop)
    keeping.cancel()
    lane = Table().players["policy"]
    checkpoint.restore(lane, 0, await snapshots.get(newest))
    assert lane.weights_hash(0) == back.restored == out.weights_before


@pytest.mark.slow
@pytest.mark.anyio
async def test_every_agent_of_a_host_that_is_told_to_end_says_that_it_stopped(bus: Bus, settings: Settings) -> None:
    names = [f"{role}-0" for role in ROLES]
    async with hosting(bus, settings, names):
        running = await running_agents(Journal(bus), names)
        assert [running[name].alive for name in names] == [True] * len(names)
    stopped = await running_agents(Journal(bus), names)
    assert [stopped[name].alive for name in names] == [False] * len(names)


@asynccontextmanager
async def hosting(bus: Bus, settings: Settings, names: Sequence[str]) -> AsyncIterator[None]:
    """A process that hosts one world, from when its agents have snapshots and have said all they had to."""
    host = Host(worlds=1, pace=None)
    serving = asyncio.create_task(worker(settings, host).serve(0))
    async with asyncio.timeout(SECONDS):
        while None in [await Snapshots(bus).newest(name) for name in names] or not host.is_ready():
            await asyncio.sleep(0.1)
    yield
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def taken(episode: int, agent_id: str = "policy-0", before: int | None = None) -> Taken:
    return Taken(agent_id, episode, step=episode * 32, version=2, data=b"weights %d" % episode, before=before)


@pytest.mark.anyio
async def test_what_a_rollout_may_go_back_to_outlives_the_snapshots_that_come_after_it(bus: Bus) -> None:
    keeper, snapshots = Keeper(bus), Snapshots(bus)
    outs = [await keeper.store("run-0", taken(episode, before=episode + 2)) for episode in range(1, KEPT_RELOADS + 2)]
    for episode in range(9, 9 + KEPT + 2):
        await keeper.store("run-0", taken(episode))
    kept = [ref for ref in outs if ref is not None]
    assert [ref.name for ref in kept] == [f"policy-0.run-0.v{version}" for version in (3, 4, 5, 6, 7)]
    with pytest.raises(NoSnapshot):
        await snapshots.get(kept[0])
    assert [await snapshots.get(ref) for ref in kept[1:]] == [b"weights %d" % episode for episode in (2, 3, 4, 5)]


async def at_least(snapshots: Snapshots, episode: int) -> SnapshotRef:
    """Wait for a snapshot of this episode, or a later one."""
    async with asyncio.timeout(SECONDS):
        while (newest := await snapshots.newest("policy-0")) is None or newest.episode < episode:
            await asyncio.sleep(0.01)
    return newest


@pytest.mark.anyio
async def test_the_last_eight_are_kept_and_of_a_burst_the_newest(bus: Bus) -> None:
    keeper, snapshots = Keeper(bus), Snapshots(bus)
    for episode in range(3):
        keeper.keep("run-0", taken(episode))
    running = asyncio.create_task(keeper.run())
    for episode in range(2, KEPT + 4):
        await asyncio.to_thread(keeper.keep, "run-1", taken(episode))
        await at_least(snapshots, episode)
    newest = await at_least(snapshots, KEPT + 3)
    assert newest.name == f"policy-0.run-1.{KEPT + 3}"
    assert await snapshots.get(newest) == b"weights %d" % (KEPT + 3)
    running.cancel()
    info = await bus.jetstream.stream_info("OBJ_SNAPSHOTS", subjects_filter="$O.SNAPSHOTS.M.>")
    assert len(info.state.subjects or {}) in {KEPT, KEPT + 1}  # the last prune may be cut off


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_store_that_is_away_is_told_once_and_the_next_snapshot_is_kept(
    nats_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = await connect_bus(nats_server.url, "test", patience=5)
    await provision(own.jetstream, ack_wait=2)
    keeper = Keeper(own)
    running = asyncio.create_task(keeper.run())
    nats_server.stop()
    with caplog.at_level(logging.WARNING, "tars.agents.keeper"):
        for episode in range(1, 4):
            keeper.keep("run-1", taken(episode))
            await asyncio.sleep(0.2)
        again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
        async with asyncio.timeout(SECONDS):
            while not own.client.is_connected:
                await asyncio.sleep(0.05)
        keeper.keep("run-1", taken(9))
        assert (await at_least(Snapshots(own), 1)).episode == 9
    said = [record.message for record in caplog.records if record.name == "tars.agents.keeper"]
    assert said == ["snapshots are not stored"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await own.close()
    again.stop()
