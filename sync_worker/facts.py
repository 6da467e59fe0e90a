"""What a decision about an update needs beside its journal."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated

from faststream import Context

from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.running_agents import episodes_run, running_agents
from tars.runtime.settings import Settings
from tars.runtime.signing import TrustFile, four_eyes
from tars.schemas.message import Envelope
from tars.schemas.running import RunningAgent
from tars.schemas.update import ApplyUpdate, ApproveUpdate, ProposeUpdate, UpdateCommand, UpdateEvent
from tars.sync_worker.lifecycle import Facts, replay

MINUTE = timedelta(minutes=1)
UNPROVEN = ""
"""Counts as one sender: a name that is only claimed would be a new one each time."""


class RateLimit:
    """Lets each sender's commands through up to a number in any minute of stored time; one count for each process."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._let_through: dict[str, dict[str, datetime]] = {}

    def exceeds(self, envelope: Envelope) -> bool:
        """Say whether this command is one too many; one that was let through counts once, however often it comes."""
        if self._per_minute == 0:
            return False
        sender = UNPROVEN if envelope.barred else envelope.by.principal
        earlier = self._let_through.get(sender, {})
        recent = {command_id: time for command_id, time in earlier.items() if envelope.time - time < MINUTE}
        if envelope.id not in recent and len(recent) >= self._per_minute:
            return True
        self._let_through[sender] = {**recent, envelope.id: envelope.time}
        return False


async def gather(
    command: UpdateCommand,
    envelope: Annotated[Envelope, Context()],
    bus: Annotated[Bus, Context()],
    settings: Annotated[Settings, Context()],
    rate_limit: Annotated[RateLimit, Context()],
    trust: Annotated[TrustFile, Context()],
) -> Facts:
    """Read who is concerned, and what the settings say, for a command that arrived."""
    too_many, journal = rate_limit.exceeds(envelope), Journal(bus)
    idle = too_many or envelope.barred is not None
    agents = {} if idle else await running_agents(journal, await _concerned(command, journal))
    episodes = await episodes_run(bus, agents.values()) if isinstance(command, ProposeUpdate) else {}
    facts = facts_of(envelope, settings, agents, too_many=too_many, episodes=episodes)
    return replace(facts, four_eyes=four_eyes(settings, trust))


async def _concerned(command: UpdateCommand, journal: Journal) -> Iterable[str]:
    """The agents that the decision asks about: a rejection and a request to roll back ask about none."""
    match command:
        case ProposeUpdate():
            return command.agents
        case ApproveUpdate() | ApplyUpdate():
            history: History[UpdateEvent] = await journal.read("update", command.update_id)
            proposal = replay(history.events).proposal
            return proposal.base if proposal else ()
        case _:
            return ()


def facts_of(
    envelope: Envelope,
    settings: Settings,
    agents: dict[str, RunningAgent],
    *,
    episodes: Mapping[str, int],
    too_many: bool = False,
) -> Facts:
    """Put together what was gathered."""
    return Facts(
        id=envelope.id,
        time=envelope.time,
        by=envelope.by,
        signed=envelope.signed,
        barred=envelope.barred,
        late=envelope.late,
        too_many=too_many,
        mode=settings.approval_mode,
        threshold=settings.autonomous_threshold,
        strictness=settings.validation_strictness,
        agents=agents,
        episodes=episodes,
    )
