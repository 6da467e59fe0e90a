"""The ledger, told to MLflow: ids that have changed are read whole and written; how far it came is kept in MLflow."""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from tars.consumers.mlflow_records import Record, records, watched
from tars.consumers.mlflow_store import MlflowAway, MlflowStore, Unwritable
from tars.runtime import metrics
from tars.runtime.bell import Bell
from tars.runtime.bus import Bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.journal import Entry, Journal, sequence_of
from tars.schemas.errors import Poison, Transient
from tars.schemas.streams import history_subject

log = logging.getLogger(__name__)

BATCH: Final = 100
"""Messages after which the position is kept: so many are told again after a crash."""
IDLE_SECONDS: Final = 5.0
GATHER_SECONDS: Final = 0.2
"""How long news may gather: a trial that is asked and ends within it is one write."""
FIRST_RETRY: Final = 1.0
LONGEST_RETRY: Final = 30.0
STREAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "EVENTS": ("tars.event.study.>", "tars.event.update.>"),
    "TRIALS": ("tars.command.trial.>", "tars.event.trial.>"),
}
"""What is told, and the subjects that ring the bell."""


class MlflowSink:
    """Tells one MLflow store of one ledger. NATS keeps nothing for it: without a sink there is no trace of one."""

    def __init__(self, bus: Bus, uri: str, artefacts: Path) -> None:
        self._bus, self._journal = bus, Journal(bus)
        self._uri, self._artefacts = uri, artefacts
        self._at = dict.fromkeys(STREAMS, 1)
        """By stream, the sequence to read next."""
        self._away = False

    async def run(self) -> None:
        """Tell until cancelled, whatever goes away meanwhile."""
        delay = FIRST_RETRY
        while True:
            end_if_cancelled()
            try:
                await self._follow()
            except MlflowAway as error:
                delay = min(2 * delay, LONGEST_RETRY) if self._away else FIRST_RETRY
                self._is_away(error)
            except (NatsError, Transient, OSError, TimeoutError) as error:
                delay = FIRST_RETRY
                log.warning("NATS is away", extra={"error": str(error)})
            await asyncio.sleep(delay)

    def _is_away(self, error: MlflowAway) -> None:
        if not self._away:
            log.warning("MLflow is away: it is told later", extra={"uri": _shown(self._uri), "error": str(error)})
        self._away = True

    def _is_back(self) -> None:
        if self._away:
            log.info("MLflow is back")
        self._away = False

    async def _follow(self) -> None:
        """Tell from where MLflow says; raises MlflowAway, and Transient when NATS is away or the ledger is another."""
        subjects = [subject for subjects in STREAMS.values() for subject in subjects]
        await self._measure()
        async with Bell.on(self._bus, *subjects) as bell:
            store = await self._open(bell)
            while True:
                end_if_cancelled()
                bell.clear()
                told = [await self._batch(store, stream) for stream in STREAMS]
                self._is_back()
                await self._measure()
                if not any(told) and await bell.wait(IDLE_SECONDS):
                    await asyncio.sleep(GATHER_SECONDS)

    async def _open(self, bell: Bell) -> MlflowStore:
        """Wait for the ledger's first event, which names it for ever, and find out how far its telling came."""
        bell.clear()
        while not (first := await self._journal.page("EVENTS", 1, 1)):
            await bell.wait(IDLE_SECONDS)
            bell.clear()
        ledger = (first[0].headers or {})["Nats-Time-Stamp"]
        store = await asyncio.to_thread(MlflowStore, self._uri, self._artefacts, ledger)
        for stream in STREAMS:
            position = await asyncio.to_thread(store.position, stream)
            last = (await self._bus.stream(stream)).state.last_seq
            self._at[stream] = position + 1 if position <= last else 1  # TRIALS alone was made anew
        return store

    async def _batch(self, store: MlflowStore, stream: str) -> bool:
        """Tell of what comes next in a stream; say whether anything did."""
        page = await self._journal.page(stream, self._at[stream], BATCH)
        if not page:
            return False
        for (noun, key), sequence in _changed(page).items():
            for record in await self._records(noun, key, sequence):
                await self._tell(store, record, key)
        last = sequence_of(page[-1])
        await asyncio.to_thread(store.remember, stream, last)
        self._at[stream] = last + 1
        return True

    async def _tell(self, store: MlflowStore, record: Record, key: str) -> None:
        """One at a time: who ends this process waits for one, not for a batch."""
        end_if_cancelled()
        try:
            await asyncio.to_thread(store.take, record)
        except Unwritable as error:
            log.warning("MLflow does not take this", extra={"id": key, "error": str(error)})

    async def _records(self, noun: str, key: str, reach: int) -> tuple[Record, ...]:
        subject, stream = (
            (f"tars.*.trial.*.*.{key}", "TRIALS") if noun == "trial" else (history_subject(noun, key), "EVENTS")
        )
        try:
            history: tuple[Entry[Any], ...] = await self._journal.messages(stream, subject, reach=reach)
        except Poison as error:
            log.warning("not readable", extra={"id": key, "error": str(error)})
            return ()
        return records(noun, history)

    async def _measure(self) -> None:
        """Say how far behind MLflow is; raises Transient where a stream ends before what was read of it."""
        for stream, at in self._at.items():
            last = (await self._bus.stream(stream)).state.last_seq
            metrics.MLFLOW_WAITING.labels(stream).set(last - at + 1)
            if last < at - 1:
                raise Transient(f"{stream} ends at {last}, and was read up to {at - 1}: it is another ledger")


def _changed(page: Iterable[Msg]) -> dict[tuple[str, str], int]:
    """The ids that a page says something new of, in the order of their last words, and where these lie."""
    found: dict[tuple[str, str], int] = {}
    for message in page:
        if (id_ := watched((message.headers or {})["Nats-Subject"])) is not None:
            found.pop(id_, None)
            found[id_] = sequence_of(message)
    return found


def _shown(uri: str) -> str:
    """Without the password that it may have."""
    return re.sub(r"//[^/@]*@", "//", uri)
