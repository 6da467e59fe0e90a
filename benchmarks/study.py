"""What coordinating costs, and what a search finds: TARS's studies against Optuna's own on the same machine.

Coordination is measured on real processes and a real nats-server that fsyncs, in CPU time of the process in question
(the server's own beside it), trials answered at once; Optuna writes to SQLite or to its journal file in the process
that asks. Both sides sample at random, so that only the coordinating is compared. Trials are compared on the same work:
10 episodes of 32 vector steps in 16 environments with their gradient steps, then 5 of evaluation. SB3 gets the cheapest
environment it can be given (benchmarks/engine.py) and is measured on fewer trials; a trial costs it always the same.
What a search finds is in benchmarks/search.py, which this runs too.
"""

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
import psutil
import stable_baselines3
from nats.aio.msg import Msg
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from engine import NumpyGame
from report import Figure, arguments, show
from search import LONG, STUDY, batches, gain, warm
from tars.agents import training_thread
from tars.automl_worker.board import Board
from tars.automl_worker.coordinator import plan
from tars.automl_worker.pace import pace_of
from tars.automl_worker.steps import Ask
from tars.producers.async_client import AsyncClient
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats
from tars.runtime.telemetry import start_telemetry
from tars.schemas.hyperparameters import DQN, GAME_ROLES
from tars.schemas.message import By
from tars.schemas.streams import decode
from tars.schemas.study import Sampler, StartStudy, StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted

BENCH: Final = By(principal="bench")
GAINS: Final = (3, 10)
"""Floor and target."""
ACK_WAIT: Final = 30.0
EPISODE: Final = 32 * 16
"""Environment steps."""
QUICK: Final = (10, 5)
"""Episodes of training and of evaluation."""
AT_ONCE: Final = 256
"""Messages on their way."""


@dataclass
class Ground:
    """A nats-server and the workers on it."""

    server: Server
    bus: Bus
    processes: list[psutil.Popen]

    def start(self, role: str) -> psutil.Popen:
        """Start one worker."""
        environment = {"NATS_URL": self.server.url, "USE_REDIS": "false", "LOG_LEVEL": "ERROR"}
        environment |= {"QUICK_MODE_TRAIN_EPISODES": str(QUICK[0]), "QUICK_MODE_EVAL_EPISODES": str(QUICK[1])}
        process = psutil.Popen(
            [sys.executable, "-m", "tars", "run", role, "--port", "0"], env={**os.environ, **environment}
        )
        self.processes.append(process)
        return process

    async def study(self, name: str, trials: int, sampler: Sampler, *, quick: bool = True) -> None:
        """Start a study of DQN in the game."""
        command = StartStudy(study_id=name, algorithm="dqn", trials=trials, sampler=sampler, quick=quick, explain=False)
        await self.bus.publish(command, id=f"start-{name}", by=BENCH)

    async def warm_up(self) -> None:
        """Run a study of the incumbent alone: whatever the workers import or make only once is then there."""
        await self.study("warm", 1, "random")
        async for _ in AsyncClient(self.bus, BENCH).follow("study", "warm", lambda e: isinstance(e, StudyFinished)):
            pass


@asynccontextmanager
async def ground() -> AsyncIterator[Ground]:
    """A server in a temporary folder; in the end all that runs on it is killed."""
    with tempfile.TemporaryDirectory() as folder, start_nats(Path(folder) / "nats") as server:
        bus = await connect_bus(server.url, "bench", patience=5)
        await provision(bus.jetstream, ack_wait=ACK_WAIT)
        found = Ground(server, bus, [])
        try:
            yield found
        finally:
            for process in found.processes:
                process.kill()
                process.wait()
            await bus.close()


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def machine_cpu() -> float:
    """CPU seconds of everything on this machine so far."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


@asynccontextmanager
async def counted(bus: Bus, subject: str, count: int) -> AsyncIterator[asyncio.Event]:
    """An event that is set when so many messages have been seen on a subject."""
    seen, left = asyncio.Event(), count

    async def hear(_: Msg) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            seen.set()

    subscription = await bus.client.subscribe(subject, cb=hear)
    await bus.client.flush()
    yield seen
    await subscription.unsubscribe()


async def coordinated(trials: int) -> Sequence[Figure]:
    """CPU of a coordinator per trial, each answered at once, over Optuna's with SQLite."""
    async with ground() as found:
        await answer_all(found.bus)
        coordinator = found.start("coordinator")
        await found.warm_up()
        before = cpu(coordinator.pid), cpu(found.server.pid)
        async with counted(found.bus, "tars.event.trial.*.*.s.*", trials) as done:
            await found.study("s", trials, "random")
            await done.wait()
        ours, server = ((cpu(p) - b) / trials for p, b in zip((coordinator.pid, found.server.pid), before, strict=True))
    sqlite, journal = (optuna_cpu(kind, trials) for kind in ("sqlite", "journal"))
    note = (
        f"a trial: ours {ours * 1e3:.2f} ms (nats-server {server * 1e3:.2f}), SQLite {sqlite * 1e3:.2f}, "
        f"JournalFile {journal * 1e3:.2f}; {trials} trials"
    )
    return [Figure("coordinator_cpu_vs_sqlite", ours / sqlite, 1.0, 0.5, note=note)]


async def answer_all(bus: Bus) -> None:
    """Complete every trial as soon as it is asked: the incumbent is the best, so one candidate is weighed at most."""

    async def hear(message: Msg) -> None:
        trial = decode(message.subject, message.data)
        assert isinstance(trial, RunTrial)  # noqa: S101 - by its subject
        await bus.publish(completed(trial), id=f"{trial.key}.outcome")

    await bus.client.subscribe("tars.command.trial.run.>", cb=hear)


def chance(seed: int) -> random.Random:
    """Of made-up scores and values."""
    return random.Random(seed)  # noqa: S311 - so that every run has the same


def completed(trial: RunTrial) -> TrialCompleted:
    """Made-up scores."""
    score = 1.0 if trial.hyperparameters == DQN.game_defaults else chance(trial.seed).random() / 2
    return TrialCompleted(study_id=trial.study_id, number=trial.number, score=score, cpu_seconds=0, holder="bench")


def optuna_cpu(kind: str, trials: int) -> float:
    """CPU seconds that Optuna takes for a trial of the same four values, sampled at random and scored at once."""
    with tempfile.TemporaryDirectory() as folder:
        storage: BaseStorage = (
            RDBStorage(f"sqlite:///{folder}/study.db")
            if kind == "sqlite"
            else JournalStorage(JournalFileBackend(f"{folder}/study.log"))
        )
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(), direction="maximize")
        study.optimize(lambda trial: len(suggested(trial)), n_trials=1)
        began = time.process_time()
        study.optimize(lambda trial: len(suggested(trial)), n_trials=trials)
        return (time.process_time() - began) / trials


def suggested(trial: optuna.Trial) -> dict[str, float]:
    """A point of DQN's search space in the game, as a user of Optuna would write it."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "gamma": 1 - trial.suggest_float("one_minus_gamma", 0.01, 0.1, log=True),
        "tau": trial.suggest_float("tau", 0.01, 0.2, log=True),
        "exploration_final_eps": trial.suggest_float("exploration_final_eps", 0.01, 0.2),
    }


async def rebuilt(trials: int) -> Sequence[Figure]:
    """CPU of a coordinator that takes over a study when all but its last batch is done, until it has asked that."""
    took = {sampler: await taken_over(trials, sampler) for sampler in ("tpe", "random")}
    note = f"with {', '.join(f'{name} {seconds:.2f}' for name, seconds in took.items())}; {trials} trials"
    return [Figure("rebuild_3000_trials_cpu_s", max(took.values()), 3, 1.5, note=note)]


async def taken_over(trials: int, sampler: Any) -> float:
    """CPU seconds from the offer of the lease to the last batch."""
    started = StudyStarted(
        study_id="r", by=BENCH, algorithm="dqn", environment="policy", base={}, incumbent=dict(DQN.game_defaults),
        searched=tuple(DQN.game_search), trials=trials, quick=True, search_episodes=QUICK, full_episodes=(50, 10),
        sampler=sampler, seed=1, structural=False, threshold=0.03,
    )  # fmt: skip
    first = plan(started.model_copy(update={"sampler": "random"}), Board())
    assert isinstance(first, Ask)  # noqa: S101 - nothing is asked yet
    async with ground() as found:
        await answer_all(found.bus)
        coordinator = found.start("coordinator")
        await found.warm_up()
        *_, last = pace_of(trials).batches(trials)
        await store(found.bus, [asked_before(first.trials[-1], number) for number in range(last.start)])
        before = cpu(coordinator.pid)
        async with counted(found.bus, "tars.command.trial.*.*.r.*", len(last)) as done:
            await found.bus.publish(started, id="e:0")
            await done.wait()
        return cpu(coordinator.pid) - before


def asked_before(like: RunTrial, number: int) -> RunTrial:
    """Trial `number`, as some coordinator before asked it."""
    drawn = chance(number)
    values = {**like.hyperparameters, "learning_rate": 10 ** drawn.uniform(-4, -2), "tau": drawn.uniform(0.01, 0.2)}
    return like.model_copy(update={"number": number, "hyperparameters": values, "seed": number})


async def store(bus: Bus, trials: Sequence[RunTrial]) -> None:
    """Ask these; answer_all answers."""
    async with counted(bus, "tars.event.trial.*.*.r.*", len(trials)) as done:
        for first in range(0, len(trials), AT_ONCE):
            some = trials[first : first + AT_ONCE]
            await asyncio.gather(*(bus.publish(trial, id=f"{trial.key}.run") for trial in some))
        await done.wait()


@dataclass(frozen=True)
class Searched:
    """A study's search by real workers."""

    wall: float
    coordinator: float
    trainers: tuple[float, ...]
    """CPU seconds of each."""
    others: float
    """CPU seconds of everything else on the machine meanwhile, nats-server among it."""

    @property
    def cpu(self) -> float:
        """Of all workers."""
        return self.coordinator + sum(self.trainers)


async def searched(trials: int, trainers: int, *, quick: bool) -> Searched:
    """Run the search of a study of DQN; what a process does only once is not counted."""
    async with ground() as found:
        processes = [found.start("coordinator"), *(found.start("trainer") for _ in range(trainers))]
        await found.warm_up()
        while (await found.bus.jetstream.consumer_info("TRIALS", "run-trial")).num_waiting < trainers:
            await asyncio.sleep(0.05)  # the other trainers are on their way
        before, began, all_before = [cpu(process.pid) for process in processes], time.perf_counter(), machine_cpu()
        async with counted(found.bus, "tars.event.trial.*.*.s.*", trials) as done:
            await found.study("s", trials, "tpe", quick=quick)
            await done.wait()
        wall = time.perf_counter() - began
        coordinator, *rest = (cpu(p.pid) - b for p, b in zip(processes, before, strict=True))
        others = machine_cpu() - all_before - coordinator - sum(rest)
        return Searched(wall, coordinator, tuple(rest), others)


async def trained(trials: int, theirs: int, rounds: int) -> Sequence[Figure]:
    """Studies of quick trials, and Optuna with SB3, in turn."""
    runs, base = list[Searched](), list[float]()
    for _ in range(rounds):
        base.append(optuna_sb3(theirs) / theirs)
        runs.append(await searched(trials, 1, quick=True))
    ratios = [sb3 * trials / run.cpu for sb3, run in zip(base, runs, strict=True)]
    coordinator = statistics.median(run.coordinator for run in runs) / trials
    trainer = statistics.median(run.trainers[0] for run in runs) / trials
    note = (
        f"a trial: coordinator {coordinator * 1e3:.1f} ms, trainer {trainer * 1e3:.1f}; "
        f"SB3 {statistics.median(base) * 1e3:.0f}, of {theirs} trials; "
        f"{min(ratios):.1f} to {max(ratios):.1f} in {rounds} rounds"
    )
    return [Figure("trials_vs_optuna_sb3", statistics.median(ratios), 10, 18, more=True, note=note)]


async def shared(trials: int, rounds: int) -> Sequence[Figure]:
    """Studies of full trials with one trainer and with two, in turn; the best wall time of each, for others run too."""
    runs: dict[int, list[Searched]] = {1: [], 2: []}
    for _ in range(rounds):
        for count, done in runs.items():
            done.append(await searched(trials, count, quick=False))
    one, two = (min(done, key=lambda run: run.wall) for done in runs.values())
    busier = max(two.trainers)
    note = (
        f"{one.wall:.1f} s and {two.wall:.1f} s, best of {rounds}, on {os.cpu_count()} cores; "
        f"CPU {one.trainers[0]:.1f} s, and {busier:.1f} s of the busier trainer: {one.trainers[0] / busier:.2f}; "
        f"coordinator {two.coordinator:.1f} s, others on the machine {two.others:.1f} s"
    )
    return [Figure("two_trainers_vs_one", one.wall / two.wall, 1.5, 1.8, more=True, note=note)]


def optuna_sb3(trials: int) -> float:
    """CPU seconds of study.optimize over trials of SB3's DQN."""

    def objective(trial: optuna.Trial) -> float:
        values: dict[str, Any] = {**DQN.game_defaults, **suggested(trial)}
        values.pop("exploration_fraction")  # of a length that SB3 is not told; random actions cost it the same
        game = NumpyGame("policy")
        model = stable_baselines3.DQN(
            "MlpPolicy", game, policy_kwargs={"net_arch": [64, 64]}, device="cpu", seed=1, **values
        )
        model.learn(QUICK[0] * EPISODE, log_interval=None)  # type: ignore[arg-type] # None: no logging, which SB3 allows
        observation, rewards = game.reset(), []
        for _ in range(QUICK[1] * 32):
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, _, _ = game.step(action)
            rewards.append(float(reward.mean()))
        return statistics.fmean(rewards)

    study = optuna.create_study(direction="maximize")
    study.optimize(objective, n_trials=1)
    began = time.process_time()
    study.optimize(objective, n_trials=trials)
    return time.process_time() - began


Part = Callable[[], Sequence[Figure]]


def parts(*, quick: bool) -> dict[str, Part]:
    """What can be measured, by name; quick: only what is quick."""
    if quick:
        return {
            "coordinator": lambda: asyncio.run(coordinated(100)),
            "rebuild": lambda: asyncio.run(rebuilt(300)),
            "trials": lambda: asyncio.run(trained(32, 2, 1)),
            "gains": lambda: [gain("a2c", [2], GAINS)],
        }
    return {
        "coordinator": lambda: asyncio.run(coordinated(1000)),
        "rebuild": lambda: asyncio.run(rebuilt(3000)),
        "trials": lambda: asyncio.run(trained(200, 10, 5)),
        "trainers": lambda: asyncio.run(shared(200, 2)),
        "gains": lambda: [gain(algorithm, range(5), GAINS) for algorithm in GAME_ROLES.values()],
        "batches": lambda: [*batches("dqn", STUDY, 20), *batches("dqn", LONG, 10)],
        "warm": lambda: [*warm("dqn", 10), *warm("a2c", 10)],
    }


def main() -> None:
    """Measure, show, write."""
    parser = arguments(__doc__ or "")
    known = parts(quick=False)
    parser.add_argument("--part", choices=[*known], action="append", help="measure only this; may be repeated")
    options = parser.parse_args()
    training_thread.prepare()
    start_telemetry("bench", "ERROR")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = {name: part for name, part in parts(quick=options.quick).items() if name in (options.part or known)}
    show("study", [figure for part in chosen.values() for figure in part()], options.json)


if __name__ == "__main__":
    main()
