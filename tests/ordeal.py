"""The kill harness: updates flow through real processes while workers, agents, NATS and Redis are killed.

Which process is hit, and at which point of the traffic, is the seed's choice; so every blow falls into the traffic, on
any machine. Beside `kills` SIGKILLs of workers and agents there are, for every ten of them, a SIGKILL of NATS (it comes
back on its port and its data), one of Valkey (it comes back empty), a FLUSHALL, and a worker that is frozen for longer
than its lease. What became of all is then read from the streams alone (accounting.py), and the rows in Redis are
compared with an undisturbed fold. Coordinators and trainers are killed in journeys/test_study_chaos.py.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import redis
from ledgers import held

from accounting import Account, account
from folding import folded
from herd import Herd, Program
from light_agents import serve
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import start_nats, start_valkey
from tars.runtime.settings import Settings
from tars.runtime.view_store import RedisViews
from tars.schemas.errors import TarsError
from traffic import Traffic

ACK_WAIT: Final = 1.5
"""Seconds: how long a killed worker's message, or lease, waits for the next."""
FROZEN: Final = 2 * ACK_WAIT
SETTLING: Final = 90.0
"""Seconds in which all that was sent has to come to its end, once nobody is killed any more."""
WORKERS: Final[Mapping[str, int]] = {
    "sync-1": 5,
    "sync-2": 5,
    "agents-1": 2,
    "agents-2": 2,
    "consumers-1": 1,
    "consumers-2": 1,
}
"""Those that are killed, and how often in proportion."""
AGENTS: Final = 16
STAGES: Final = {"proposed": "pending", "roll-back-requested": "rolling back", "rolled-back": "rolled back"}
"""Stages whose name is not that of the event that leads to them."""


@dataclass
class Outcome:
    """What an ordeal left behind."""

    blows: Counter[str]
    """By whom they hit."""
    ended: Counter[str]
    """Workers that ended though nobody killed them."""
    sent: list[str]
    account: Account
    rows_differ: list[str]
    """Views that Redis holds otherwise than an undisturbed fold."""
    unexplained: list[str]
    """Dead letters that nobody sent as such, and messages that should be one and are not."""
    seconds: float

    @property
    def lost(self) -> int:
        """Commands without an outcome, updates that stay where they are, agents left behind."""
        found = self.account
        return len(found.unanswered) + len(found.unfinished) + len(found.behind) + found.waiting

    @property
    def doubled(self) -> int:
        """Commands and effects that count twice."""
        found = self.account
        twice = [
            n for counted in (found.configurations, found.reloads, found.letters) for n in counted.values() if n > 1
        ]
        return len(found.doubled_events) + len(found.doubled) + len(twice)

    @property
    def wrong(self) -> list[str]:
        """Everything else that is not as it has to be."""
        found = self.account
        ended = [f"{name} ended {times} times by itself" for name, times in self.ended.items()]
        return [*ended, *found.illegal, *found.contradicted, *self.rows_differ, *self.unexplained]


@dataclass
class Ordeal:
    """One run in a folder of its own."""

    folder: Path
    seed: int
    commands: int
    kills: int
    programs: Mapping[str, Program] = field(default_factory=dict)
    """Other programs in place of workers: to see that the account finds what they do wrong."""
    attempts: int = 50
    settling: float = SETTLING
    blows: Counter[str] = field(default_factory=Counter, init=False)
    """Those dealt so far, by whom they hit."""
    answered: int = field(default=0, init=False)
    """Commands whose sender has heard what became of them."""
    _busy: set[str] = field(default_factory=set)
    _freezing: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> Outcome:
        """Go through it, and give the account."""
        began = asyncio.get_running_loop().time()
        self._chance = random.Random(self.seed)
        self.nats, self.valkey = start_nats(self.folder / "nats"), start_valkey(self.folder / "valkey")
        self.bus = await connect_bus(self.nats.url, "ordeal", patience=5)
        self.herd = Herd(
            self._environment(), self.folder / "herd.log", self.seed, self._light_agents() | dict(self.programs)
        )
        try:
            await provision(self.bus.jetstream, ack_wait=ACK_WAIT)
            for name in WORKERS:
                await self.herd.start(name)
            await self._until(self._agents_run)
            supervising = asyncio.create_task(self.herd.supervise())
            traffic = Traffic(self.bus, self.seed, self.commands, self.attempts)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._strike(traffic))
                group.create_task(self._count(traffic))
                group.create_task(traffic.flow([f"a{number}" for number in range(AGENTS)]))
            with suppress(TimeoutError):  # what has not come to its end by then is in the account
                await self._until(self._is_quiet)
            supervising.cancel()
            return await self._outcome(traffic, began)
        finally:
            await self.herd.stop()
            await self.bus.close()
            self.nats.stop()
            self.valkey.stop()

    def _environment(self) -> dict[str, str]:
        return {
            "NATS_URL": self.nats.url,
            "REDIS_URL": self.valkey.url,
            "ACK_WAIT_SECONDS": str(ACK_WAIT),
            "RATE_LIMIT_PER_MINUTE": "0",
            "TARS_DATA": str(self.folder / "none"),
        }

    def _light_agents(self) -> dict[str, Program]:
        names = [f"a{number}" for number in range(AGENTS)]
        return {"agents-1": partial(serve, *names[::2]), "agents-2": partial(serve, *names[1::2])}

    async def _agents_run(self) -> bool:
        found = [await self.bus.last("EVENTS", f"tars.event.agent.started.v1.a{number}") for number in range(AGENTS)]
        return None not in found

    async def _count(self, traffic: Traffic) -> None:
        """Say how far it is, for whoever looks."""
        while not traffic.is_over:
            await asyncio.sleep(0.2)
            self.answered = len(traffic.told)

    async def _strike(self, traffic: Traffic) -> None:
        """Deal all blows, each when so many commands are decided, and a moment later."""
        tenth = self.kills // 10
        special: list[Callable[[], Awaitable[None]]] = [self._kill_nats, self._kill_valkey, self._flush, self._freeze]
        blows = [self._kill_worker] * self.kills + special * tenth
        self._chance.shuffle(blows)
        points = sorted(self._chance.choices(range(1, int(self.commands * 0.9)), k=len(blows)))
        for point, blow in zip(points, blows, strict=True):
            while len(traffic.told) < point and not traffic.is_over:
                await asyncio.sleep(0.005)
            await asyncio.sleep(self._chance.uniform(0, 0.05))
            await blow()
        await asyncio.gather(*self._freezing)

    def _choose(self) -> str:
        free = {name: weight for name, weight in WORKERS.items() if name not in self._busy}
        [name] = self._chance.choices(list(free), list(free.values()))
        return name

    async def _kill_worker(self) -> None:
        name = self._choose()
        await self.herd.kill(name)
        self.blows[name.partition("-")[0]] += 1

    async def _kill_nats(self) -> None:
        await asyncio.to_thread(self.nats.kill)
        port = int(self.nats.url.rpartition(":")[2])
        self.nats = await asyncio.to_thread(partial(start_nats, self.folder / "nats", port=port))
        self.blows["NATS"] += 1

    async def _kill_valkey(self) -> None:
        await asyncio.to_thread(self.valkey.kill)
        self.valkey = await asyncio.to_thread(start_valkey, self.folder / "valkey")
        self.blows["Valkey"] += 1

    async def _flush(self) -> None:
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()
        self.blows["FLUSHALL"] += 1

    async def _freeze(self) -> None:
        """Freeze a worker past its lease, and go on with the others."""
        name = self._choose()
        self._busy.add(name)
        self.herd.send(name, signal.SIGSTOP)
        self.blows["frozen"] += 1

        async def thaw() -> None:
            await asyncio.sleep(FROZEN)
            self.herd.send(name, signal.SIGCONT)
            self._busy.discard(name)

        self._freezing.add(asyncio.create_task(thaw()))

    async def _until(self, true: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something to hold, at most as long as all may take to settle."""
        async with asyncio.timeout(self.settling):
            while True:
                with suppress(TarsError, OSError):
                    if await true():
                        return
                await asyncio.sleep(0.1)

    async def _is_quiet(self) -> bool:
        """No command waits, no rollout runs, and the agents have said all."""
        for stream, durable in (("COMMANDS", "update-command"), ("EVENTS", "run-rollout")):
            info = await self.bus.jetstream.consumer_info(stream, durable)
            if info.num_pending or info.num_ack_pending:
                return False
        found = await account(self.bus, [], {})
        return not (found.waiting or found.unfinished or found.behind)

    async def _outcome(self, traffic: Traffic, began: float) -> Outcome:
        found = await account(self.bus, traffic.sent, traffic.told)
        letters = Counter({(name, "malformed"): 1 for name in traffic.unreadable})
        unexplained = [f"{name}: {reason}" for name, reason in (found.letters - letters) | (letters - found.letters)]
        differ = await self._rows_that_differ(found)
        seconds = asyncio.get_running_loop().time() - began
        return Outcome(self.blows, self.herd.ended, traffic.sent, found, differ, unexplained, seconds)

    async def _rows_that_differ(self, found: Account) -> list[str]:
        """Compare Redis with an undisturbed fold, once it has caught up; and stages with those of the account."""
        for name in WORKERS:
            if name.startswith("agents"):
                await self.herd.end(name)  # or their beats would go on
        settings = Settings(nats_url=self.nats.url, use_redis=True, redis_url=self.valkey.url)
        views, differ = RedisViews(self.valkey.url), ["never read"]
        wanted: dict[str, Any] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settling / 2):
                while differ:
                    wanted = await folded(self.bus, settings)
                    have = await asyncio.to_thread(held, views)
                    differ = [
                        _difference(name, have[name], wanted[name]) for name in wanted if have[name] != wanted[name]
                    ]
        rows = await asyncio.to_thread(views.updates, 0, 1_000_000)
        views.close()
        stages = {update: STAGES.get(verb, verb) for update, verb in found.stages.items()}
        return differ + [f"stages of {len(stages)} updates"] * ({row.update_id: row.stage for row in rows} != stages)


def _difference(name: str, have: object, wanted: object) -> str:
    """What of a view differs, for people."""
    return f"{name}: {have} instead of {wanted}"[:1000] if name == "stats" else name
