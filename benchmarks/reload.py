"""How long a reload takes: from ConfigureAgent published to the values in use and read back, while the agent trains.

Beside it, in the same run and on the same server: a bare nats-py round trip of the same message over the same stream
(publish with acknowledgement -> callback on the republished subject), with no agent behind it. The servers fsync.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from fleet import reloaded_at_once, under_kills

from attached import local_apply, overhead
from report import Figure, arguments, percentile, show
from tars.agents.host import LiveAgent, Reload, last_run
from tars.agents.world import Player, World, starts
from tars.producers.async_client import AsyncClient
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import History, Journal
from tars.runtime.provision import provision
from tars.runtime.servers import start_nats
from tars.runtime.telemetry import start_telemetry
from tars.schemas.agent import AgentEvent, AgentReloaded, ConfigureAgent
from tars.schemas.hyperparameters import DQN, Value
from tars.schemas.message import By
from tars.schemas.streams import configure_subject, live_subject
from tars.schemas.update import ApproveUpdate, ProposeUpdate

BENCH = By(principal="bench")
LIVE_KEY = "learning_rate"
AGENT = "policy-0"
BARE = "bare-0"


def command(agent_id: str, base: int, values: dict[str, Value], number: int) -> ConfigureAgent:
    """One configuration after another, each with another learning rate."""
    changed = {**values, LIVE_KEY: 1e-3 + 1e-6 * (number % 100)}
    return ConfigureAgent(
        agent_id=agent_id, update_id=f"bench-{number}", purpose="update", base=base, values=changed, by=BENCH
    )


async def bare(bus: Bus, other: Bus, values: dict[str, Value], count: int) -> list[float]:
    """Milliseconds from publishing to a bare callback, one after the other."""
    heard: asyncio.Queue[float] = asyncio.Queue()

    async def hear(_: object) -> None:
        heard.put_nowait(time.perf_counter())

    subscription = await other.client.subscribe(live_subject(BARE), cb=hear)
    await other.client.flush()
    took, base = [], 0
    for number in range(count):
        message = command(BARE, base, values, number)
        began = time.perf_counter()
        base = await bus.publish(message, id=f"bare-{number}", after=(configure_subject(BARE), base))
        took.append((await heard.get() - began) * 1e3)
    await subscription.unsubscribe()
    return took


class Watched:
    """Notes when an agent's learner has applied each reload."""

    def __init__(self, player: Player) -> None:
        self._inner = player.reload
        self.applied: dict[int, float] = {}
        player.reload = self._reload  # type: ignore[method-assign] # measured at the learner's own door

    def _reload(self, reload: Reload, done: Any) -> None:
        def noted(found: Any) -> None:
            self.applied[reload.version] = time.perf_counter()
            done(found)

        self._inner(reload, noted)


def step_milliseconds(world: World, seconds: float) -> float:
    """Mean time between two moments at which a reload can take effect, while all four agents learn."""
    before, began = world.looks, time.perf_counter()
    time.sleep(seconds)
    return (time.perf_counter() - began) * 1e3 / max(world.looks - before, 1)


async def applied(bus: Bus, watched: Watched, values: dict[str, Value], base: int, count: int) -> list[float]:
    """Milliseconds from publishing a configuration to its read-back by an agent that trains at full speed."""
    took = []
    for number in range(count):
        message = command(AGENT, base, values, number)
        began = time.perf_counter()
        base = await bus.publish(message, id=f"applied-{number}", after=(configure_subject(AGENT), base))
        async with asyncio.timeout(30):
            while base not in watched.applied:
                await asyncio.sleep(0.0005)
        took.append((watched.applied[base] - began) * 1e3)
    return took


async def approved(client: AsyncClient, watched: Watched, count: int) -> list[float]:
    """Milliseconds from sending an approval to the values in use: decided, written to the ledger, rolled out."""
    took = []
    for number in range(count):
        update_id = f"bench-u{number}"
        values: dict[str, Value] = {LIVE_KEY: 2e-3 + 1e-6 * number}
        await client.send(ProposeUpdate(update_id=update_id, agents=(AGENT,), values=values))
        known, began = set(watched.applied), time.perf_counter()
        await client.send(ApproveUpdate(update_id=update_id))
        async with asyncio.timeout(30):
            while not (new := set(watched.applied) - known):
                await asyncio.sleep(0.0005)
            took.append((watched.applied[new.pop()] - began) * 1e3)
            async for event in client.follow("update", update_id, lambda e: e.kind.startswith("update.confirmed")):
                del event
    return took


async def hosted(url: str, world: World) -> None:
    """Put a world's agents on the bus; they report no episodes, so a rollout has nothing to watch and goes on."""
    bus = await connect_bus(url, "agents", patience=5)
    agents = [LiveAgent(bus, player) for player in world.players]
    world.start()
    try:
        async with asyncio.TaskGroup() as group:
            for agent in agents:
                await agent.start(await last_run(bus, agent.agent_id))
                group.create_task(agent.run())
    finally:
        await asyncio.to_thread(world.stop)
        await bus.close()


async def measure(*, quick: bool) -> list[Figure]:
    """Run everything against one server in a temporary folder."""
    reloads, approvals = (300, 30) if quick else (2000, 200)
    with tempfile.TemporaryDirectory() as folder:
        server = start_nats(Path(folder) / "nats")
        bus, other = (
            await connect_bus(server.url, "bench", patience=5),
            await connect_bus(server.url, "other", patience=5),
        )
        await provision(bus.jetstream, ack_wait=30.0)
        world = World("0", starts(), seed=0, tell=lambda *_: None, pace=None)
        agents = asyncio.create_task(hosted(server.url, world))
        environment = {"NATS_URL": server.url, "RATE_LIMIT_PER_MINUTE": "0", "LOG_LEVEL": "ERROR", "TARS_DATA": folder}
        sync = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tars", "run", "sync", "--port", "0", env=os.environ | environment
        )
        journal = Journal(bus)
        history: History[AgentEvent] = await journal.read("agent", AGENT)
        while not history.entries or world.looks < 10_000:
            await asyncio.sleep(0.1)
            history = await journal.read("agent", AGENT)
        watched = Watched(world.players[0])
        step = await asyncio.to_thread(step_milliseconds, world, 2.0)
        values = dict(DQN.demo_start())
        plain = await bare(bus, other, values, reloads)
        took = await applied(bus, watched, values, 0, reloads)
        await settled(journal, reloads)
        approvals_took = await approved(AsyncClient(bus, BENCH), watched, approvals)
        sync.terminate()
        await sync.wait()
        agents.cancel()
        await asyncio.gather(agents, return_exceptions=True)
        guest = await asyncio.to_thread(overhead, server.url, quick=quick)
        await bus.close()
        await other.close()
        server.stop()
    less = percentile(took, 0.99) - step
    note = (
        f"bare p99 {percentile(plain, 0.99):.2f} ms, p50 {percentile(plain, 0.5):.2f}; step {step:.2f} ms; n {reloads}"
    )
    return [
        Figure("reload_applied_vs_bare_p99", less / percentile(plain, 0.99), 4, 2, note=note),
        Figure("reload_applied_p99_ms", percentile(took, 0.99), 60, 20, note=f"p50 {percentile(took, 0.5):.2f}"),
        Figure(
            "approve_to_applied_p99_ms", percentile(approvals_took, 0.99), 250, 100,
            note=f"p50 {percentile(approvals_took, 0.5):.2f}; n {approvals}",
        ),
        guest,
        await asyncio.to_thread(local_apply, quick=quick),
    ]  # fmt: skip


async def settled(journal: Journal, count: int) -> None:
    """Wait until the agent has said all that it applied, so that its next base is known."""
    async with asyncio.timeout(60):
        while True:
            history: History[AgentEvent] = await journal.newest("agent", AGENT)
            if any(isinstance(e, AgentReloaded) and e.update_id == f"bench-{count - 1}" for e in history.events):
                return
            await asyncio.sleep(0.1)


def parts(*, quick: bool) -> dict[str, Callable[[], Sequence[Figure]]]:
    """What can be measured, by name; quick: what is left out there takes longer than half a minute all the same."""
    found: dict[str, Callable[[], Sequence[Figure]]] = {
        "one": lambda: asyncio.run(measure(quick=quick)),
        "fleet": lambda: asyncio.run(reloaded_at_once(5 if quick else 50)),
        "kills": lambda: asyncio.run(under_kills(1000 if quick else 10_000, seed=1)),
    }
    return found


def main() -> None:
    """Measure, show, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--part", choices=[*parts(quick=False)], action="append", help="only this; may be repeated")
    options = parser.parse_args()
    known = parts(quick=options.quick)
    chosen = options.part or [name for name in known if not (options.quick and name == "kills")]
    torch.set_num_threads(1)
    start_telemetry("bench", "ERROR")
    show("reload", [figure for name in chosen for figure in known[name]()], options.json)


if __name__ == "__main__":
    main()
