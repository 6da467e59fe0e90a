"""The account of what became of every message, read from the streams alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tars.runtime.bus import Bus
from tars.runtime.journal import Entry, Journal
from tars.schemas.agent import AgentReloaded
from tars.schemas.hyperparameters import same
from tars.schemas.message import Event
from tars.schemas.running import replay
from tars.schemas.trial import RunTrial

NEUTRAL: Final = frozenset({"command-refused", "resumed", "judged"})
"""What leaves an update where it stands."""
AFTER: Final[Mapping[str, frozenset[str]]] = {
    before: frozenset(after.split())
    for before, after in {
        "": "proposed refused",
        "proposed": "approved rejected superseded",
        "approved": "released rejected superseded",
        "released": "started roll-back-requested failed",
        "started": "reloaded roll-back-requested failed",
        "reloaded": "reloaded confirmed roll-back-requested failed",
        "confirmed": "roll-back-requested",
        "roll-back-requested": "rolled-back failed",
        "rolled-back": "roll-back-requested",
    }.items()
}
"""Which events of an update may follow which: written down here once more, not read from the code that decides."""
ENDS: Final = frozenset({"refused", "rejected", "superseded", "confirmed", "rolled-back", "failed"})


@dataclass
class Account:
    """What the streams say became of everything that was sent."""

    doubled_events: list[str] = field(default_factory=list)
    """Event ids that are stored more than once."""
    doubled: list[str] = field(default_factory=list)
    """Commands with more than one outcome: their events do not stand together, as one append leaves them."""
    unanswered: list[str] = field(default_factory=list)
    """Commands without any event or answer."""
    contradicted: list[str] = field(default_factory=list)
    """Commands whose sender was told something else than the ledger says."""
    illegal: list[str] = field(default_factory=list)
    """Updates whose events are in an order that no update may take."""
    unfinished: list[str] = field(default_factory=list)
    """Updates that have not ended."""
    ends: Counter[str] = field(default_factory=Counter)
    """By update, the ends that are stored: one each, and one more where it was rolled back after it was confirmed."""
    stages: dict[str, str] = field(default_factory=dict)
    """By update, the last event that moved it."""
    configurations: Counter[str] = field(default_factory=Counter)
    """By (update, agent, purpose), the configurations that are stored: one each."""
    reloads: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By (agent, version), how often it said that it was reloaded: once."""
    behind: list[str] = field(default_factory=list)
    """Agents that do not run the newest values that they were told to run."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """By trial, the outcomes that are stored: one each."""
    asked: Counter[str] = field(default_factory=Counter)
    """By trial, how often it was asked: once."""
    waiting: int = 0
    dead: int = 0
    letters: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (id of the message, reason), the dead letters: one each."""


async def account(bus: Bus, commands: Sequence[str], told: Mapping[str, bool]) -> Account:
    """Read all streams and count; told: by command, whether its sender heard that it was carried out (or refused)."""
    journal, found = Journal(bus), Account()
    events = await journal.messages("EVENTS", "tars.event.>")
    ids = Counter(entry.id for entry in events)
    found.doubled_events = [name for name, times in ids.items() if times > 1]
    caused = by_cause(events)
    found.unanswered = [command for command in commands if command not in caused and command not in told]
    found.contradicted = [command for command, done in told.items() if _was_done(caused.get(command)) is not done]
    found.doubled = [command for command in commands if not _is_one_append(caused.get(command, []))]
    _follow_updates(found, events)
    await _look_at_agents(found, journal, events)
    for entry in await journal.messages("TRIALS", "tars.>"):
        counter = found.asked if isinstance(entry.event, RunTrial) else found.outcomes
        counter[entry.event.key] += 1
    found.waiting = (await bus.stream("COMMANDS")).state.messages
    found.dead = (await bus.stream("DEAD")).state.messages
    found.letters = Counter([(m["Tars-Dead-Id"], m["Tars-Dead-Reason"]) for m in await _letters(journal)])
    return found


def by_cause(events: Iterable[Entry[Any]]) -> dict[str, list[Entry[Any]]]:
    """Events by the message that caused them."""
    found = defaultdict(list)
    for entry in events:
        found[entry.id.rpartition(":")[0]].append(entry)
    return dict(found)


def verbs(events: Iterable[Event]) -> list[str]:
    """What happened, without the noun."""
    return [event.kind.split(".")[1] for event in events]


def _was_done(entries: Sequence[Entry[Any]] | None) -> bool | None:
    """What a command's events say: carried out, refused, or nothing."""
    return None if entries is None else not any("refused" in verb for verb in verbs(entry.event for entry in entries))


def _is_one_append(entries: Sequence[Entry[Any]]) -> bool:
    """They are numbered from 0, and nothing stands between them."""
    numbers = [int(entry.id.rpartition(":")[2]) for entry in entries]
    together = not entries or entries[-1].sequence - entries[0].sequence == len(entries) - 1
    return together and numbers == list(range(len(entries)))


def _follow_updates(found: Account, events: Iterable[Entry[Any]]) -> None:
    """Walk through every update's events by AFTER."""
    for entry in events:
        if entry.event.noun != "update":
            continue
        update, verb = entry.event.update_id, entry.event.kind.split(".")[1]
        if verb in NEUTRAL:
            continue
        if verb not in AFTER.get(found.stages.get(update, ""), frozenset()):
            found.illegal.append(f"{update}: {verb} after {found.stages.get(update, 'nothing')}")
        found.stages[update] = verb
        found.ends[update] += verb in ENDS
    found.unfinished = sorted(update for update, verb in found.stages.items() if verb not in ENDS)


async def _look_at_agents(found: Account, journal: Journal, events: Iterable[Entry[Any]]) -> None:
    """Compare what agents were told with what they say that they run."""
    said: dict[str, list[Any]] = defaultdict(list)
    for entry in events:
        if entry.event.noun == "agent":
            said[entry.event.agent_id].append(entry.event)
    stored: Sequence[Entry[Any]] = await journal.messages("AGENTS", "tars.command.agent.>")
    found.configurations = Counter(entry.id for entry in stored)
    newest = {entry.event.agent_id: entry for entry in stored}
    for agent, own in said.items():
        running, told = replay(own), newest.get(agent)
        found.reloads.update((agent, event.version) for event in own if isinstance(event, AgentReloaded))
        if told and (running.applied != told.sequence or not _same_values(running.values, told.event.values)):
            found.behind.append(f"{agent} runs {running.applied}, was told {told.sequence}")


def _same_values(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)


async def _letters(journal: Journal) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    start = 1
    while page := await journal.page("DEAD", start, 256):
        found += [{key: str(value) for key, value in (message.headers or {}).items()} for message in page]
        start = int(found[-1]["Nats-Sequence"]) + 1
    return found
