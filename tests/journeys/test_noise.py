"""Every subscriber under messages that nobody should send: no worker dies, and each message is accounted for."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from light_agents import LightHost
from noise import JSON, LARGE, SAMPLES, Noise, bodies, kinds_of, noise
from tars.automl_worker.app import worker as coordinator
from tars.automl_worker.trainer_app import worker as trainer
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient
from tars.producers.commands import CommandRefused
from tars.runtime.app import Worker
from tars.runtime.bus import Bus, TooLarge, connect_bus, fresh_id
from tars.runtime.journal import Journal
from tars.runtime.provision import provision
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.errors import TarsError
from tars.schemas.message import Answer, By
from tars.schemas.queries import QUERIES, Reply
from tars.schemas.study import StartStudy, StopStudy, StudyStarted
from tars.schemas.trial import RunTrial
from tars.schemas.update import ApproveUpdate, ProposeUpdate, UpdateStarted
from tars.sync_worker.app import worker as sync

T = TypeVar("T")
BATCH = 50
QUICK, LONG = 1000, 10_000
"""Messages."""
AGENT = "world-1-policy"
"""The agent of the samples in tests/wire."""
STEADY = "steady"
"""An agent about which nobody makes noise."""
SEED = 20261128
CLAIMS = ["0", "1", "²", "9" * 5000, "-1", "never", "2026-11-24T12:00:00Z", "tars.command.agent.configure.v1.n"]


@dataclass
class System:
    """Workers in the loop of a thread of their own, and a sender beside them."""

    workers: dict[str, Worker]
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    answers: set[str] = field(default_factory=set)
    refused: int = 0
    """Messages that the server would not take."""

    _dead: set[str] = field(default_factory=set)
    _read_up_to: int = 0

    def __post_init__(self) -> None:
        """Start the loop, and the workers in it."""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="system")
        self._thread.start()
        self.do(self._start())

    def do(self, what: Coroutine[Any, Any, T], seconds: float = 120) -> T:
        """Run something in the loop, and wait for it."""
        found: Future[T] = asyncio.run_coroutine_threadsafe(what, self.loop)
        return found.result(seconds)

    async def _start(self) -> None:
        url = next(iter(self.workers.values())).settings.nats
        self.bus = await connect_bus(url, "noise", patience=5)
        await provision(self.bus.jetstream, ack_wait=2.0)
        self.client = AsyncClient(self.bus, By(principal="ada"))
        await self.bus.client.subscribe("tars.reply.noise.*", cb=self._hear)
        self.tasks = {name: asyncio.create_task(worker.serve(0)) for name, worker in self.workers.items()}
        await self.until(lambda: self.bus.last("EVENTS", f"tars.event.agent.started.v1.{STEADY}"))

    async def _hear(self, message: Msg) -> None:
        self.answers.add(Answer.model_validate_json(message.data).command_id)

    async def until(self, true: Any, seconds: float = 60) -> None:
        """Look again until it is true."""
        async with asyncio.timeout(seconds):
            while not await true():
                await asyncio.sleep(0.02)

    async def store(self, messages: list[Noise]) -> dict[str, Noise]:
        """Send messages to their streams; return by id those that the server took."""

        async def one(message: Noise) -> tuple[str, Noise] | None:
            name = fresh_id("n")
            headers = {"Tars-Reply": f"tars.reply.noise.{name}"} | message.headers | {"Nats-Msg-Id": name}
            try:
                await self.bus.jetstream.publish(message.subject, message.body, timeout=5, headers=headers)
            except (NatsError, TimeoutError, ValueError):  # no subject, or so large that the server hangs up
                self.refused += 1
                return None
            return name, message

        return dict(filter(None, await asyncio.gather(*map(one, messages))))

    async def dead(self) -> set[str]:
        """Ids of the messages that were put aside; sequences of those of agents."""
        while page := await Journal(self.bus).page("DEAD", self._read_up_to + 1, 256):
            headers = [message.headers or {} for message in page]
            assert all(header["Tars-Dead-Reason"] and header["Tars-Dead-Error"] for header in headers)
            self._dead |= {header["Tars-Dead-Id"] or f"AGENTS-{header['Tars-Dead-Sequence']}" for header in headers}
            self._read_up_to = int(headers[-1]["Nats-Sequence"])
        return self._dead

    async def events(self) -> list[Msg]:
        """All of the ledger, as it is stored."""
        found: list[Msg] = []
        while page := await Journal(self.bus).page("EVENTS", self._next(found), 256):
            found += page
        return found

    @staticmethod
    def _next(messages: list[Msg]) -> int:
        return int((messages[-1].headers or {})["Nats-Sequence"]) + 1 if messages else 1

    async def is_settled(self, stream: str, durable: str) -> bool:
        """All that a durable was to deliver is delivered and acknowledged."""
        info = await self.bus.jetstream.consumer_info(stream, durable)
        return not info.num_pending and not info.num_ack_pending

    async def answers_questions(self) -> bool:
        """The consumers have read all there is."""
        with suppress(TarsError):
            return bool(await self.client.query("stats"))
        return False

    async def knows_the_steady_agent(self) -> bool:
        """The consumers have read that it runs: what they show follows the ledger."""
        return any(row.agent_id == STEADY for row in await self.client.query("agents"))

    def stop(self) -> None:
        """End all."""
        self.do(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)
        self.loop.close()

    async def _stop(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.bus.close()

    def is_at_work(self) -> None:
        """Every worker lives, and does what it is asked to through its front door."""
        assert [name for name, task in self.tasks.items() if task.done()] == []
        self.do(self._works())

    async def _works(self) -> None:
        with pytest.raises(CommandRefused, match="there is no study"):
            await self.client.send(StopStudy(study_id=fresh_id("s")))
        update = fresh_id("u")
        await self.until(self.knows_the_steady_agent)
        [agent] = [row for row in await self.client.query("agents") if row.agent_id == STEADY]
        rate = 1.1e-3 if agent.values["learning_rate"] != 1.1e-3 else 1.2e-3
        await self.client.send(ProposeUpdate(update_id=update, agents=(STEADY,), values={"learning_rate": rate}))
        await self.client.send(ApproveUpdate(update_id=update))
        events = [event async for event in self.client.follow("update", update, lambda e: "confirmed" in e.kind)]
        assert events


@pytest.fixture
def system(nats_server: Server) -> Iterator[System]:
    """Everything but a trainer, without Redis."""
    where = Settings(nats_url=nats_server.url, use_redis=False, ack_wait_seconds=2.0, rate_limit_per_minute=0)
    host = LightHost((AGENT, STEADY))
    agents = Worker("agents", where, tasks=(host.run,), on_reconnect=host.catch_up)
    found = System(
        {"sync": sync(where), "coordinator": coordinator(where), "consumers": consumers(where), "agents": agents}
    )
    yield found
    found.stop()


def rain(messages: st.SearchStrategy[T], count: int, check: Callable[[list[T]], None]) -> None:
    """Let `check` see `count` messages, in batches; the same at every run."""

    @seed(SEED)
    @settings(
        max_examples=count // BATCH, phases=[Phase.generate], database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(messages, min_size=BATCH, max_size=BATCH))
    def falls(batch: list[T]) -> None:
        check(batch)

    falls()


def starts_a_study(message: Noise) -> bool:
    """It is readable, and not refused as too late: a study would train for minutes."""
    meant = message.meant
    return isinstance(meant, StudyStarted) or (isinstance(meant, StartStudy) and meant.deadline is None)


def waits(message: Noise) -> bool:
    """It is not put aside at once: it can be read, or a newer release may read it."""
    return message.is_newer or message.meant is not None


def amounts(share: float) -> list[Any]:
    """How many messages of a family fall in the quick tier, and in the long one."""
    return [int(QUICK * share), pytest.param(int(LONG * share), marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", amounts(0.45))
def test_commands_are_answered_or_put_aside_with_a_reason(system: System, count: int) -> None:
    async def fall(batch: list[Noise]) -> None:
        stored = await system.store([message for message in batch if not starts_a_study(message)])
        await system.until(lambda: system.is_settled("COMMANDS", "update-command"))
        await system.until(lambda: system.is_settled("COMMANDS", "study-command"))
        dead, causes = (
            await system.dead(),
            {(m.headers or {})["Nats-Msg-Id"].rpartition(":")[0] for m in await system.events()},
        )
        for name, message in stored.items():
            if message.meant is None:
                assert name in dead, message
            elif "Tars-Reply" not in message.headers:
                await system.until(lambda name=name: asyncio.sleep(0, name in system.answers | causes))

    rain(noise("command", kinds_of("command", "update", "study")), count, lambda batch: system.do(fall(batch)))
    assert system.do(system.bus.stream("COMMANDS")).state.messages == 0
    system.is_at_work()


@pytest.mark.parametrize("count", amounts(0.1))
def test_configurations_are_applied_refused_or_put_aside(system: System, count: int) -> None:
    async def fall(batch: list[Noise]) -> None:
        await system.store(batch)
        stored = await Journal(system.bus).page("AGENTS", 1, 10_000, f"tars.command.agent.*.*.{AGENT}")
        told = {(message.headers or {})["Nats-Sequence"] for message in stored}
        await system.until(lambda: answered(told))

    async def answered(told: set[str]) -> bool:
        said = {json.loads(m.data).get("version") for m in await system.events() if m.data.startswith(b"{")}
        return {int(sequence) for sequence in told} <= said

    rain(noise("command", kinds_of("command", "agent")), count, lambda batch: system.do(fall(batch)))
    system.is_at_work()


@pytest.mark.parametrize("count", amounts(0.1))
def test_what_only_the_server_may_say_to_an_agent_is_ignored_from_anyone_else(system: System, count: int) -> None:
    claims = st.dictionaries(
        st.sampled_from(["Nats-Sequence", "Nats-Time-Stamp", "Nats-Subject"]), st.sampled_from(CLAIMS)
    )

    async def fall(batch: list[tuple[bytes, dict[str, str]]]) -> None:
        for body, headers in batch:
            about = {"Nats-Stream": "AGENTS"} | headers
            await system.bus.client.publish(f"tars.live.agent.configure.v1.{AGENT}", body, headers=about)

    rain(st.tuples(bodies("agent.configure.v1"), claims), count, lambda batch: system.do(fall(batch)))
    system.is_at_work()


@pytest.mark.parametrize("count", amounts(0.2))
def test_the_ledger_and_reports_are_folded_past_what_nobody_can_read(system: System, count: int) -> None:
    events = noise("event", kinds_of("event", "update", "study", "agent"))
    reports = noise("report", kinds_of("report", "agent", "game", "session", "trial"))
    leased = ("tars.event.study.started.", "tars.event.update.released.", "tars.event.update.roll-back-requested.")
    handled = (*leased, "tars.event.study.finished.")

    async def fall(batch: list[Noise]) -> None:
        # What is handled waits for a newer release if that may read it, or the history that it is about: not here.
        stored = await system.store([m for m in batch if not (m.subject.startswith(handled) and waits(m))])
        for durable in ("run-study", "propose-champion", "run-rollout"):
            await system.until(lambda durable=durable: system.is_settled("EVENTS", durable))
        dead = await system.dead()
        assert {n for n, m in stored.items() if m.subject.startswith(leased) and m.meant is None} <= dead
        await system.until(folded)

    async def folded() -> bool:
        [stats] = await system.client.query("stats")
        last = [(await system.bus.stream(stream)).state.last_seq for stream in ("EVENTS", "REPORTS")]
        return bool(stats.events >= last[0] and stats.reports >= last[1])

    rain(events | reports, count, lambda batch: system.do(fall(batch)))
    system.is_at_work()


@pytest.mark.parametrize("count", amounts(0.15))
def test_every_question_has_an_answer(system: System, count: int) -> None:
    names = st.sampled_from([*QUERIES, "invented", "x" * 300])
    questions = st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode())

    async def fall(batch: list[tuple[str, bytes]]) -> None:
        for name, body in batch:
            found = await system.bus.client.request(f"tars.query.{name}.v1", body, timeout=5)
            Reply.model_validate_json(found.data)

    system.do(system.until(system.answers_questions))
    rain(st.tuples(names, questions), count, lambda batch: system.do(fall(batch)))
    system.is_at_work()


@pytest.mark.slow
def test_whoever_waits_for_an_answer_hears_it_among_noise(system: System) -> None:
    async def fall(batch: list[bytes]) -> None:
        command_id = fresh_id("c")
        asking = asyncio.create_task(system.client.send(StopStudy(study_id="s"), command_id=command_id))
        for body in batch:
            await system.bus.client.publish(f"tars.reply.{system.client.name}.{command_id}", body)
        with pytest.raises(CommandRefused, match="there is no study"):
            await asking

    rain(
        st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()), 500, lambda b: system.do(fall(b))
    )
    system.is_at_work()


@pytest.mark.slow
@pytest.mark.parametrize("spare", [-1, 200, 400, 1000])
def test_a_message_as_large_as_the_server_takes_is_put_aside_or_never_sent(system: System, spare: int) -> None:
    """A dead letter says more than its message, and has to fit all the same."""

    async def fall() -> None:
        stored = await system.store([Noise("tars.event.study.started.v1.large", b"x" * (LARGE - spare), {})])

        async def is_put_aside() -> bool:
            return stored.keys() <= await system.dead()

        await system.until(is_put_aside)
        assert len(stored) + system.refused == 1

    system.do(fall())
    system.is_at_work()


@pytest.mark.anyio
async def test_what_is_too_large_with_its_headers_is_not_sent_and_costs_no_connection(bus: Bus) -> None:
    short = UpdateStarted(update_id="u", agents=())
    agents = ("x" * 61,) * ((LARGE - len(short.model_dump_json())) // 64)
    with pytest.raises(TooLarge):
        await bus.publish(short.model_copy(update={"agents": agents}), id="e")
    assert await bus.publish(short, id="e") == 1


@pytest.mark.slow
def test_trials_that_nobody_can_read_are_put_aside_and_the_next_is_trained(system: System) -> None:
    where = system.workers["sync"].settings
    trial = RunTrial.model_validate_json(SAMPLES["trial.run.v1"])
    small = trial.model_copy(update={"study_id": "small", "train_episodes": 1, "eval_episodes": 1})

    async def fall(batch: list[Noise]) -> None:
        stored = await system.store([message for message in batch if not waits(message)])
        await system.until(lambda: system.is_settled("TRIALS", "run-trial"))
        assert stored.keys() <= await system.dead()

    async def train() -> None:
        await system.bus.publish(small, id="small")
        await system.until(lambda: system.bus.last("TRIALS", "tars.event.trial.completed.v1.small.3"))

    async def start() -> None:
        system.tasks["trainer"] = asyncio.create_task(trainer(where).serve(0))

    system.do(start())
    rain(noise("command", kinds_of("command", "trial")), 500, lambda batch: system.do(fall(batch)))
    system.do(train())
    system.is_at_work()
