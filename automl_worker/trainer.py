"""The trainer's messaging: pull trials, train them together, write each outcome once, give back what is unfinished."""

import asyncio
import logging
import math
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import anyio
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from tars.automl_worker.training import Result, group_of, run_group
from tars.producers.agent_reports import Reporter
from tars.runtime import metrics
from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.delivery import AWAY, DELIVERIES, keep_in_progress, settle
from tars.runtime.leases import holder_name
from tars.runtime.snapshots import NoSnapshot, Snapshots
from tars.runtime.telemetry import span
from tars.schemas.errors import Conflict, Malformed, Poison
from tars.schemas.streams import decode, history_subject
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned, TrialReported

log = logging.getLogger(__name__)

LANES: Final = 32
"""Trials of one population: more lanes a process buy almost nothing."""
LINGER_SECONDS: Final = 0.05
"""How long the first trial waits for others to share its population."""
HANDFUL: Final = 4
"""Trials taken at once, then others' turn: trainers that are idle together share a batch."""
TURN_SECONDS: Final = 0.005
DURABLE: Final = "run-trial"
ALONE_AFTER: Final = 3
"""Deliveries after which a trial is trained by itself: it may be what kills its trainers."""
REFILL_SECONDS: Final = 5.0
"""How long training waits, at most, to hear whether there are trials to fill its empty lanes."""
REFILL_LINGER_SECONDS: Final = 0.01
"""How long it waits for one to come: after its next episode it asks again."""
AGAIN_SECONDS: Final = 0.5
"""Before an outcome that was not stored is sent again."""
REPORT_EVERY: Final = 5
"""Episodes between two reports of a trial."""


Outcome = TrialCompleted | TrialPruned | TrialFailed
Groups = dict[object, list[tuple[Msg, RunTrial]]]
"""Trials by what they must share to be lanes of one population."""


class Trainer:
    """Trains what it pulls, one population after the other."""

    def __init__(self, bus: Bus, ack_wait: float, allowed: Collection[str] = ()) -> None:
        self._bus, self._ack_wait, self._holder = bus, ack_wait, holder_name()
        self._allowed, self._snapshots = allowed, Snapshots(bus)
        self._loop = asyncio.get_running_loop()
        self._reporter = Reporter(bus)
        self._stopping = False

    async def run(self) -> None:
        """Work until cancelled; then give back what is not finished."""
        self._trials = await self._bus.jetstream.pull_subscribe_bind(consumer=DURABLE, stream="TRIALS")
        reporting = asyncio.create_task(self._reporter.run())
        try:
            while True:
                if messages := await self._pull():
                    await self._work(messages)
                end_if_cancelled()
        finally:
            self._stopping = True
            reporting.cancel()

    async def _pull(self) -> list[Msg]:
        """Fetch a first trial, then those that come with it, up to LANES."""
        messages = await _fetch(self._trials, 1, 1.0)
        new, wait = messages, LINGER_SECONDS
        while new and len(messages) < LANES:
            await asyncio.sleep(wait)
            new, wait = await _fetch(self._trials, min(HANDFUL, LANES - len(messages)), LINGER_SECONDS), TURN_SECONDS
            messages += new
        return messages

    async def _work(self, messages: Sequence[Msg]) -> None:
        """Train all, group by group. What is not settled when this ends goes back at once."""
        hand = Hand(self._bus, self._ack_wait)
        new = hand.take(messages)
        try:
            end_if_cancelled()
            groups = await self._readable(new, hand)
            while groups:
                key = next(iter(groups))
                group = groups.pop(key)
                try:
                    snapshot = await self._start_of(group)
                except NoSnapshot as error:
                    await self._fail(group, str(error), hand)
                else:
                    await self._train(key, group, groups, hand, snapshot)
        except AWAY as error:  # outcomes are stored or will be asked for again: back when NATS is
            log.warning("not settled", extra={"error": repr(error)})
        finally:
            with anyio.CancelScope(shield=True):
                await hand.give_back()

    async def _readable(self, messages: Sequence[Msg], hand: "Hand") -> Groups:
        """Group what can share a population; put aside what cannot be read, and skip what is already counted."""
        groups: Groups = {}
        for message in messages:
            try:
                trial = decode(message.subject, message.data)
                if not isinstance(trial, RunTrial):
                    raise Malformed(f"{trial.kind} is no trial to run")
            except Poison as error:
                await settle(self._bus, message, DURABLE, error)
                hand.drop(message)
                continue
            if await self._is_over(message, trial):
                await hand.settle(message)
                continue
            suspect = message.metadata.num_delivered > ALONE_AFTER
            groups.setdefault(trial.key if suspect else group_of(trial), []).append((message, trial))
        return groups

    async def _is_over(self, message: Msg, trial: RunTrial) -> bool:
        """Whether it is counted, or no trainer lives to count it: then it fails here."""
        if await self._bus.last("TRIALS", history_subject("trial", trial.key)) is not None:
            return True
        if message.metadata.num_delivered <= DELIVERIES:
            return False
        await self._count(Result(trial, None, None, 0.0, "no trainer that trained it lived to say what became of it"))
        return True

    async def _start_of(self, group: list[tuple[Msg, RunTrial]]) -> bytes | None:
        """What all of a group go on from, later ones too; None: fresh weights. Raises NoSnapshot."""
        ref = group[0][1].snapshot
        return None if ref is None else await self._snapshots.get(ref)

    async def _fail(self, group: list[tuple[Msg, RunTrial]], error: str, hand: "Hand") -> None:
        """Count trials that cannot begin."""
        for message, trial in group:
            await self._count(Result(trial, None, None, 0.0, error))
            await hand.settle(message)

    async def _train(
        self,
        key: object,
        group: list[tuple[Msg, RunTrial]],
        groups: Groups,
        hand: "Hand",
        snapshot: bytes | None,
    ) -> None:
        """Train a group in a thread of its own; count each outcome as it comes."""
        messages = {trial.key: message for message, trial in group}

        async def fetched(count: int) -> list[RunTrial]:
            """Trials that wait for a lane; those of another kind are trained after this group."""
            new = hand.take(await _fetch(self._trials, count, REFILL_LINGER_SECONDS))
            alike = Groups()
            for other, members in (await self._readable(new, hand)).items():
                (alike if other == key else groups).setdefault(other, []).extend(members)
            found = alike.get(key, [])
            messages.update({trial.key: message for message, trial in found})
            return [trial for _, trial in found]

        def more(like: RunTrial, count: int) -> Sequence[RunTrial]:
            """Called from the training thread: nothing that goes wrong here may end the trials that train."""
            del like  # of this group
            if self._stopping:
                return []
            asked = asyncio.run_coroutine_threadsafe(fetched(count), self._loop)
            try:
                return asked.result(timeout=REFILL_SECONDS)
            except (TimeoutError, NatsError, OSError) as error:  # what came too late is given back with the rest
                log.warning("no lane refilled", extra={"error": repr(error)})
                return []

        results = run_group([trial for _, trial in group], self._progress, more, self._allowed, snapshot)
        thread = ThreadPoolExecutor(1, "training")  # one for all of a group: what a thread sets for itself holds
        try:
            asked = [message.headers for message, _ in group]
            with span("train trials", asked[0], beside=asked[1:]):
                while (result := await self._loop.run_in_executor(thread, next, results, None)) is not None:
                    await self._count(result)
                    await hand.settle(messages.pop(result.trial.key))
        except asyncio.CancelledError:
            self._stopping = True  # seen by the training thread after its episode; nobody waits for it here
            raise
        finally:
            thread.shutdown(wait=False, cancel_futures=True)

    def _progress(self, trial: RunTrial, episode: int, score: float) -> None:
        """Report now and then; called from the training thread, which ends here when this worker stops."""
        if self._stopping:
            raise asyncio.CancelledError
        if episode % REPORT_EVERY == 0 and math.isfinite(score):
            self._reporter.report(
                TrialReported(study_id=trial.study_id, number=trial.number, episode=episode, score=score)
            )

    async def _count(self, result: Result) -> None:
        """Write the outcome, if nobody has: a trial counts once, however often it was trained."""
        trial = result.trial
        event: Outcome
        if result.pruned_at is not None and result.score is not None:
            event = TrialPruned(
                study_id=trial.study_id,
                number=trial.number,
                score=result.score,
                episode=result.pruned_at,
                cpu_seconds=result.cpu_seconds,
                holder=self._holder,
            )
        elif result.score is None:
            event = TrialFailed(
                study_id=trial.study_id, number=trial.number, error=result.error or "no score", holder=self._holder
            )
        else:
            event = TrialCompleted(
                study_id=trial.study_id,
                number=trial.number,
                score=result.score,
                exact_score=result.exact_score,
                conflict=result.conflict,
                latency=result.latency,
                cpu_seconds=result.cpu_seconds,
                holder=self._holder,
            )
        while True:
            if await self._stored(event):
                outcome = event.kind.split(".")[1]
                metrics.TRIAL_CPU.labels(trial.algorithm, outcome).observe(result.cpu_seconds)
                return
            await asyncio.sleep(AGAIN_SECONDS)  # training it again would cost more than waiting for NATS

    async def _stored(self, event: Outcome) -> bool:
        try:
            await self._bus.publish(event, id=f"{event.key}.outcome", after=(history_subject("trial", event.key), 0))
        except Conflict:
            log.info("counted already", extra={"trial": event.key})
        except AWAY as error:
            log.warning("outcome not stored yet", extra={"trial": event.key, "error": repr(error)})
            return False
        return True


class Hand:
    """Messages that this trainer holds, kept in progress until they are settled."""

    def __init__(self, bus: Bus, ack_wait: float) -> None:
        self._bus, self._ack_wait = bus, ack_wait
        self._held: dict[int, tuple[Msg, asyncio.Task[None]]] = {}
        """By their places in the stream."""

    def take(self, messages: Sequence[Msg]) -> list[Msg]:
        """Hold these too, and return those that were not held yet: the others train, or wait to be, already.

        Of one that is delivered again (it was not kept in progress in time) the newer delivery is held and settled.
        """
        new = []
        for message in messages:
            place = message.metadata.sequence.stream
            if place in self._held:
                self.drop(message)
            else:
                new.append(message)
            beat = asyncio.create_task(keep_in_progress(message, self._ack_wait / 3))
            self._held[place] = message, beat
            metrics.TRIALS_HELD.inc()
        return new

    async def settle(self, message: Msg) -> None:
        """Acknowledge a trial: its effect is stored."""
        newest, _ = self._held[message.metadata.sequence.stream]
        await settle(self._bus, newest, DURABLE, None)
        self.drop(message)

    def drop(self, message: Msg) -> None:
        """Hold a trial no longer."""
        _, beat = self._held.pop(message.metadata.sequence.stream)
        metrics.TRIALS_HELD.dec()
        beat.cancel()

    async def give_back(self) -> None:
        """Let others have what is not settled."""
        for message, _ in list(self._held.values()):
            self.drop(message)
            try:
                await message.nak()
            except (NatsError, OSError) as error:
                log.warning("not given back", extra={"subject": message.subject, "error": repr(error)})


async def _fetch(trials: JetStreamContext.PullSubscription, count: int, seconds: float) -> list[Msg]:
    try:
        return list(await trials.fetch(count, timeout=seconds))
    except TimeoutError:
        return []
    except (NatsError, OSError) as error:
        log.warning("cannot fetch", extra={"error": repr(error)})
        await asyncio.sleep(0.5)
        return []
