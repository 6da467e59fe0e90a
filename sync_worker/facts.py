"""What a decision about an update needs beside its journal."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Annotated

from faststream import Context

from tars.runtime.journal import History, Journal
from tars.runtime.running_agents import running_agents
from tars.runtime.settings import Settings
from tars.schemas.message import Envelope
from tars.schemas.running import RunningAgent
from tars.schemas.update import ProposeUpdate, UpdateCommand, UpdateEvent
from tars.sync_worker.lifecycle import Facts, Update
from tars.sync_worker.lifecycle import replay as replay_update

MINUTE = timedelta(minutes=1)


class RateLimit:
    """Counts each sender's commands over the last minute, by stored times; one count for each process."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._sent: dict[str, deque[tuple[datetime, str]]] = {}

    def exceeds(self, envelope: Envelope) -> bool:
        """Count this command, once however often it is delivered, and say whether it is one too many."""
        if self._per_minute == 0:
            return False
        sent = self._sent.setdefault(envelope.by.principal, deque())
        while sent and envelope.time - sent[0][0] > MINUTE:
            sent.popleft()
        ids = [command_id for _, command_id in sent]
        if envelope.id in ids:
            return ids.index(envelope.id) >= self._per_minute
        sent.append((envelope.time, envelope.id))
        return len(sent) > self._per_minute


async def gather(
    command: UpdateCommand,
    envelope: Annotated[Envelope, Context()],
    journal: Annotated[Journal, Context()],
    settings: Annotated[Settings, Context()],
    rate_limit: Annotated[RateLimit, Context()],
) -> Facts:
    """Read who is concerned, and what the settings say, for a command that arrived."""
    if isinstance(command, ProposeUpdate):
        concerned: Iterable[str] = command.agents
    else:
        history: History[UpdateEvent] = await journal.read("update", command.update_id)
        concerned = agents_of(replay_update(history.events))
    agents = await running_agents(journal, concerned)
    return facts_of(envelope, settings, agents, too_many=rate_limit.exceeds(envelope))


def agents_of(update: Update) -> tuple[str, ...]:
    """Return the agents of an update; none of one that nobody proposed."""
    return tuple(update.proposal.base) if update.proposal else ()


def facts_of(
    envelope: Envelope, settings: Settings, agents: dict[str, RunningAgent], *, too_many: bool = False
) -> Facts:
    """Put together what was gathered. FOUR_EYES=auto is off while no signature tells people apart."""
    return Facts(
        id=envelope.id,
        time=envelope.time,
        by=envelope.by,
        late=envelope.late,
        too_many=too_many,
        mode=settings.approval_mode,
        threshold=settings.autonomous_threshold,
        strictness=settings.validation_strictness,
        four_eyes=settings.four_eyes == "on",
        agents=agents,
    )
