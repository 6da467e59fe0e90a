"""Rows come from the first source that answers; the last good ones stay, with their age."""

from dataclasses import dataclass, field

import pytest

from tars.dashboard import reads
from tars.dashboard.reads import Look, NothingToShow, Reader, Rows, Source
from tars.runtime.view_changes import Changes
from tars.runtime.view_store import MemoryViews


class AwayError(Exception):
    """Nobody answers."""


@dataclass
class Door:
    """A way to rows that can be shut."""

    name: str
    is_open: bool = True
    knocks: int = 0
    views: MemoryViews = field(default_factory=lambda: MemoryViews(10))
    age: float = 0.0
    """Of what is behind it."""

    def __post_init__(self) -> None:
        """Behind it is one agent, of the door's name."""
        changes = Changes()
        changes.put(f"agent:{self.name}", {"role": f'"{self.name}"'})
        changes.index("agents", self.name, 1.0)
        self.views.apply(changes)

    def open(self) -> Rows:
        self.knocks += 1
        if not self.is_open:
            raise AwayError
        return self.views


@pytest.fixture
def doors() -> tuple[Door, Door]:
    return Door("redis"), Door("queries")


@pytest.fixture
def reader(doors: tuple[Door, Door], monkeypatch: pytest.MonkeyPatch) -> Reader:
    monkeypatch.setattr(reads, "PAUSE_SECONDS", 0.0)
    first, second = doors
    return Reader([Source("redis", first.open, (AwayError,)), Source("queries", second.open, (AwayError,))])


def seen(reader: Reader) -> tuple[str, str]:
    """Where a look's rows say they came from, and where they did."""
    look = Look(reader)
    (row,) = look.agents()
    return look.origin, row.role


def test_rows_come_from_the_first_that_answers(reader: Reader, doors: tuple[Door, Door]) -> None:
    assert seen(reader) == ("redis", "redis")
    doors[0].is_open = False
    assert seen(reader) == ("queries", "queries")
    doors[0].is_open = True
    assert seen(reader) == ("redis", "redis")


def test_when_nobody_answers_the_last_rows_stay(reader: Reader, doors: tuple[Door, Door]) -> None:
    seen(reader)
    doors[0].is_open = doors[1].is_open = False
    look = Look(reader)
    assert [row.role for row in look.agents()] == ["redis"]
    assert look.origin == "memory"
    assert look.age > 0
    with pytest.raises(NothingToShow):
        look.studies()


def test_what_answers_says_how_old_its_rows_are(doors: tuple[Door, Door], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "AGE_SECONDS", 0.0)
    door, _ = doors
    reader = Reader([Source("redis", door.open, (AwayError,), lambda: door.age)])
    door.age = 42.0
    look = Look(reader)
    look.agents()
    assert (look.origin, look.age) == ("redis", 42.0)
    door.is_open = False
    look = Look(reader)
    look.agents()
    assert look.origin == "memory"
    assert look.age > 42.0


def test_how_old_rows_are_is_not_asked_at_every_question(doors: tuple[Door, Door]) -> None:
    ages = iter((1.0, 2.0))
    reader = Reader([Source("redis", doors[0].open, (AwayError,), lambda: next(ages))])
    look = Look(reader)
    look.agents()
    look.updates()
    assert look.age == 1.0


def test_a_look_is_as_good_as_the_worst_of_what_it_read(reader: Reader, doors: tuple[Door, Door]) -> None:
    look = Look(reader)
    look.agents()
    doors[0].is_open = False
    look.updates()
    doors[0].is_open = True
    look.pending()
    assert look.origin == "queries"


def test_a_refresh_reads_nothing_twice(reader: Reader, doors: tuple[Door, Door]) -> None:
    look = Look(reader)
    assert look.agents() == look.agents()
    assert doors[0].knocks == 1
    look.history("policy-0")
    look.history("policy-1")
    assert doors[0].knocks == 3


def test_what_is_away_is_left_alone_for_a_while(
    reader: Reader, doors: tuple[Door, Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "PAUSE_SECONDS", 60.0)
    doors[0].is_open = False
    for _ in range(5):
        seen(reader)
    assert doors[0].knocks == 1


def test_a_mistake_is_not_taken_for_an_outage(reader: Reader) -> None:
    with pytest.raises(ZeroDivisionError):
        reader.ask("x", lambda _: 1 / 0)


def test_only_so_many_answers_are_kept(
    reader: Reader, doors: tuple[Door, Door], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "REMEMBERED", 3)
    look = Look(reader)
    for number in range(10):
        look.study(f"s-{number}")
    doors[0].is_open = doors[1].is_open = False
    assert Look(reader).study("s-9") is None
    with pytest.raises(NothingToShow):
        Look(reader).study("s-0")
