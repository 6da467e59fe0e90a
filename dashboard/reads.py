"""Where rows come from: Redis, else the consumers' queries, else the last good answer with its age."""

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Literal, Protocol

from tars.schemas.errors import TarsError
from tars.schemas.views import (
    AgentPoint,
    AgentRow,
    ConflictRow,
    DeadRow,
    EquilibriumRow,
    PipelineRow,
    StatsRow,
    StudyRow,
    TrialRow,
    UpdateRow,
)

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 1.0
"""How long a source that failed is left alone."""
PATIENCE: Final = 5.0
"""One that failed slowly is left alone for this many times as long as it took, so that pages seldom wait for it."""
AGE_SECONDS: Final = 1.0
"""How often a source is asked how old its rows are: once for all sessions, beside all that they read."""
REMEMBERED: Final = 500
"""Answers kept for the time when nobody answers."""

Origin = Literal["redis", "queries", "memory"]


class NothingToShow(TarsError):
    """Nobody answers, and this was never answered before."""


class Rows(Protocol):
    """What a page may read; rows come newest first."""

    def agents(self) -> list[AgentRow]:
        """Every agent, by name."""

    def history(self, agent_id: str, *, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        """Episodes of an agent."""

    def pending(self) -> list[UpdateRow]:
        """Updates that wait for approval."""

    def update(self, update_id: str) -> UpdateRow | None:
        """One update with its history; None: there is none."""

    def updates(self, *, offset: int = 0, limit: int = 100) -> list[UpdateRow]:
        """All updates."""

    def studies(self) -> list[StudyRow]:
        """All studies."""

    def study(self, study_id: str) -> StudyRow | None:
        """One study; None: there is none."""

    def trials(self, study_id: str) -> list[TrialRow]:
        """A study's trials, by number."""

    def conflicts(self, *, limit: int = 100) -> list[ConflictRow]:
        """Conflicts between the roles of the worlds."""

    def equilibria(self, *, limit: int = 100) -> list[EquilibriumRow]:
        """How far the worlds are from an equilibrium."""

    def pipeline(self) -> list[PipelineRow]:
        """What waits before each durable."""

    def dead(self, *, limit: int = 100) -> list[DeadRow]:
        """Messages that were put aside."""

    def stats(self) -> StatsRow:
        """Counts."""


@dataclass
class Source:
    """One place to read from, left alone for a while after it failed."""

    origin: Origin
    open: Callable[[], Rows]
    away: tuple[type[Exception], ...]
    """What it raises while it cannot answer."""
    age: Callable[[], float] = lambda: 0.0
    """How many seconds ago its rows were last known to be complete; inf: never."""
    _resume_at: float = 0.0
    _aged: float = 0.0
    _age_again_at: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, question: Callable[[Rows], Any]) -> tuple[float, Any] | None:
        """Return (age in seconds, the answer); None: it does not answer."""
        began = monotonic()
        with self._lock:
            if began < self._resume_at:
                return None
            if self._resume_at > 0:  # it was away: one session tries, the others go on without
                self._resume_at = began + PAUSE_SECONDS
        try:
            found = self._age(), question(self.open())
        except self.away as error:
            took = monotonic() - began
            log.warning("a source of rows is away", extra={"source": self.origin, "error": repr(error)})
            self._resume_at = monotonic() + max(PAUSE_SECONDS, PATIENCE * took)
            return None
        self._resume_at = 0.0
        return found

    def _age(self) -> float:
        with self._lock:
            is_due = monotonic() >= self._age_again_at
            if is_due:
                self._age_again_at = monotonic() + AGE_SECONDS
        if is_due:
            self._aged = self.age()
        return self._aged


class Reader:
    """Sources in the order of preference, shared by all sessions, and what they said last."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._last: OrderedDict[object, tuple[float, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, key: object, question: Callable[[Rows], Any]) -> tuple[Origin, float, Any]:
        """Return (origin, age in seconds, answer); raises NothingToShow."""
        for source in self.sources:
            found = source.ask(question)
            if found is not None:
                self._remember(key, *found)
                return source.origin, *found
        with self._lock:
            if key not in self._last:
                raise NothingToShow("neither Redis nor the consumers answer")
            at, answer = self._last[key]
        return "memory", monotonic() - at, answer

    def _remember(self, key: object, age: float, answer: object) -> None:
        with self._lock:
            self._last[key] = monotonic() - (age if math.isfinite(age) else 0.0), answer
            self._last.move_to_end(key)
            while len(self._last) > REMEMBERED:
                self._last.popitem(last=False)


class Look:
    """The rows of one refresh of one page, and where they came from."""

    _rank: Final = ("redis", "queries", "memory")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.origin: Origin = reader.sources[0].origin
        """The worst origin of what was read."""
        self.age = 0.0
        """Seconds for which the oldest of it may have been out of date; inf: nobody ever wrote it."""
        self._answers: dict[object, Any] = {}
        """What was asked already: one refresh shows one moment, and reads nothing twice."""

    def _ask(self, name: str, *args: str, **page: int) -> Any:  # noqa: ANN401 - the methods below say what it is
        key = (name, args, tuple(page.items()))
        if key in self._answers:
            return self._answers[key]
        origin, age, answer = self._reader.ask(key, lambda rows: getattr(rows, name)(*args, **page))
        self.origin = max(self.origin, origin, key=self._rank.index)
        self.age = max(self.age, age)
        self._answers[key] = answer
        return answer

    def agents(self) -> list[AgentRow]:
        """Every agent, by name."""
        found: list[AgentRow] = self._ask("agents")
        return found

    def history(self, agent_id: str, *, offset: int = 0, limit: int = 100) -> list[AgentPoint]:
        """Episodes of an agent."""
        found: list[AgentPoint] = self._ask("history", agent_id, offset=offset, limit=limit)
        return found

    def pending(self) -> list[UpdateRow]:
        """Updates that wait for approval."""
        found: list[UpdateRow] = self._ask("pending")
        return found

    def update(self, update_id: str) -> UpdateRow | None:
        """One update with its history; None: there is none."""
        found: UpdateRow | None = self._ask("update", update_id)
        return found

    def updates(self, *, offset: int = 0, limit: int = 100) -> list[UpdateRow]:
        """All updates."""
        found: list[UpdateRow] = self._ask("updates", offset=offset, limit=limit)
        return found

    def studies(self) -> list[StudyRow]:
        """All studies."""
        found: list[StudyRow] = self._ask("studies")
        return found

    def study(self, study_id: str) -> StudyRow | None:
        """One study; None: there is none."""
        found: StudyRow | None = self._ask("study", study_id)
        return found

    def trials(self, study_id: str) -> list[TrialRow]:
        """A study's trials, by number."""
        found: list[TrialRow] = self._ask("trials", study_id)
        return found

    def conflicts(self, *, limit: int = 100) -> list[ConflictRow]:
        """Conflicts between the roles of the worlds."""
        found: list[ConflictRow] = self._ask("conflicts", limit=limit)
        return found

    def equilibria(self, *, limit: int = 100) -> list[EquilibriumRow]:
        """How far the worlds are from an equilibrium."""
        found: list[EquilibriumRow] = self._ask("equilibria", limit=limit)
        return found

    def pipeline(self) -> list[PipelineRow]:
        """What waits before each durable."""
        found: list[PipelineRow] = self._ask("pipeline")
        return found

    def dead(self, *, limit: int = 100) -> list[DeadRow]:
        """Messages that were put aside."""
        found: list[DeadRow] = self._ask("dead", limit=limit)
        return found

    def stats(self) -> StatsRow:
        """Counts."""
        found: StatsRow = self._ask("stats")
        return found
