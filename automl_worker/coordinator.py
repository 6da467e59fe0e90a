"""The process of one study: ask, fold, weigh, finish. It holds nothing that its messages do not."""

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from nats.aio.msg import Msg

from tars import __version__
from tars.automl_worker.board import Board
from tars.automl_worker.explain import importances
from tars.automl_worker.pace import Pace, pace_of
from tars.automl_worker.plan import Known, next_step
from tars.automl_worker.sampler import Asked, suggest
from tars.automl_worker.steps import Ask, Wait
from tars.automl_worker.study import replay
from tars.automl_worker.study_snapshots import copy_snapshots, delete_copies
from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.journal import Entry, History, Journal, stored_time
from tars.runtime.leases import Lease, is_exhausted
from tars.schemas.errors import Conflict, Poison
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES, Value
from tars.schemas.streams import decode
from tars.schemas.study import StudyEvent, StudyFailed, StudyFinished, StudyResumed, StudyStarted
from tars.schemas.trial import RunTrial

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
"""The bell can ring before an outcome is readable, or not at all: look again this often."""


class Trials:
    """The trials of one study in the stream TRIALS."""

    def __init__(self, bus: Bus, study_id: str) -> None:
        self._bus, self._journal, self._study_id = bus, Journal(bus), study_id
        self._read_up_to = 0
        self._moves: list[Entry[Any]] = []
        self.board = Board()

    async def read(self) -> Board:
        """Fold what is new."""
        subject = f"tars.*.trial.*.*.{self._study_id}.*"
        async for message in self._journal.stored("TRIALS", subject, after=self._read_up_to):
            self._fold(message)
        return self.board

    def _fold(self, message: Msg) -> None:
        """Take in one message; the first on its subject counts, and one that cannot be read uses its number up."""
        headers = message.headers or {}
        subject, self._read_up_to = headers["Nats-Subject"], int(headers["Nats-Sequence"])
        try:
            found = decode(subject, message.data)
        except Poison as error:
            self._spoil(subject, error)
            return
        self.board.take(found)
        self.board.newest = time = stored_time(headers["Nats-Time-Stamp"])
        self._moves.append(Entry(found, headers.get("Nats-Msg-Id", ""), self._read_up_to, time, None))

    def _spoil(self, subject: str, error: Poison) -> None:
        log.warning("a trial that cannot be read counts as failed", extra={"subject": subject, "error": str(error)})
        number = subject.rpartition(".")[2]
        known = self.board.asked if subject.startswith("tars.command.") else self.board.outcomes
        if number.isdecimal() and int(number) not in known:
            self.board.unreadable.add(int(number))

    def with_steps(self, history: History[StudyEvent]) -> History[Any]:
        """The study's history with its trials' between: a study whose trials go on is not stuck."""
        entries = sorted([*history.entries, *self._moves], key=lambda entry: entry.time)
        return History(history.noun, history.key, tuple(entries))

    async def ask(self, trial: RunTrial) -> None:
        """Write a trial, if nobody has; what is stored counts, not what was computed here."""
        guard = f"tars.command.trial.*.*.{trial.key}"
        try:
            await self._bus.publish(trial, id=f"{trial.key}.run", after=(guard, 0))
        except Conflict:
            return  # asked already, by a holder before this one


@dataclass(frozen=True)
class Coordinator:
    """Runs studies."""

    bus: Bus

    async def __call__(self, lease: Lease[StudyEvent]) -> None:
        """Go on where the study's messages stand, until it has ended."""
        study = replay((await lease.follow()).events)
        if study.started is None:
            return
        if study.ended is None:
            await self._go_on(lease, study.started)
        await delete_copies(self.bus, study.started)

    async def _go_on(self, lease: Lease[StudyEvent], started: StudyStarted) -> None:
        trials = Trials(self.bus, lease.key)
        await trials.read()
        exhausted = is_exhausted(trials.with_steps(lease.history))
        resumed = StudyResumed(study_id=lease.key, holder=lease.holder, delivery=lease.delivery)
        await lease.append(lambda history: [] if replay(history.events).ended else [resumed])
        if exhausted:
            failed = StudyFailed(study_id=lease.key, error="given up: its coordinators kept dying without a step")
            await lease.append(lambda history: [] if replay(history.events).ended else [failed])
        else:
            await copy_snapshots(self.bus, lease, started)
            await self._run(lease, started, trials)

    async def _run(self, lease: Lease[StudyEvent], started: StudyStarted, trials: Trials) -> None:
        async with Bell.on(self.bus, f"tars.event.trial.*.*.{lease.key}.*") as bell:
            while replay((await lease.follow()).events).ended is None:
                bell.clear()
                await self._step(lease, started, trials, bell)

    async def _step(self, lease: Lease[StudyEvent], started: StudyStarted, trials: Trials, bell: Bell) -> None:
        board = await trials.read()
        up = time_is_up(started, lease.history, board)
        step = await asyncio.to_thread(partial(plan, started, board, time_is_up=up))
        match step:
            case Ask(asked):
                await asyncio.gather(*(trials.ask(trial) for trial in asked))
            case StudyFinished() as finished:
                await lease.append(lambda history: [] if replay(history.events).ended else [finished])
            case Wait():
                await bell.wait(POLL_SECONDS)


def time_is_up(started: StudyStarted, history: History[StudyEvent], board: Board) -> bool:
    """Whether the search has used its wall clock: by the ledger's times, so that a rebuilt study judges alike."""
    if started.wall_seconds is None or board.newest is None:
        return False
    began = next(entry.time for entry in history.entries if isinstance(entry.event, StudyStarted))
    return (board.newest - began).total_seconds() >= started.wall_seconds


def plan(
    started: StudyStarted, board: Board, *, time_is_up: bool = False, pace: Pace | None = None
) -> Ask | Wait | StudyFinished:
    """The next step, with Optuna's suggestions and importances; at its usual pace, or another."""
    algorithm = ALGORITHMS[started.algorithm]

    def points(known: Known, count: int) -> list[dict[str, Value]]:
        told = [Asked(point, values) for point, values in known]
        return suggest(
            algorithm,
            started.searched,
            told,
            in_game=started.environment in GAME_ROLES,
            sampler=started.sampler,
            seed=started.seed,
            count=count,
            objective=started.objective,
        )

    pace = pace or pace_of(started.trials)
    step = next_step(started, board, points, pace, __version__, time_is_up=time_is_up)
    if isinstance(step, StudyFinished):
        return step.model_copy(update={"importances": importances(started, board)})
    return step
