"""What a decision about an update needs beside its journal."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated

from faststream import Context

from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.running_agents import episodes_run, running_agents
from tars.runtime.settings import Settings
from tars.runtime.signing import TrustFile, four_eyes
from tars.schemas.errors import Poison
from tars.schemas.message import Envelope
from tars.schemas.running import RunningAgent
from tars.schemas.study import StudyEvent
from tars.schemas.update import ApplyUpdate, ApproveUpdate, ProposeUpdate, UpdateCommand, UpdateEvent
from tars.sync_worker.findings import Findings, findings
from tars.sync_worker.lifecycle import Facts, replay


async def gather(
    command: UpdateCommand,
    envelope: Annotated[Envelope, Context()],
    bus: Annotated[Bus, Context()],
    settings: Annotated[Settings, Context()],
    trust: Annotated[TrustFile, Context()],
) -> Facts:
    """Read who is concerned, and what the settings say, for a command that arrived."""
    journal = Journal(bus)
    agents = {} if envelope.barred is not None else await running_agents(journal, await _concerned(command, journal))
    episodes = await episodes_run(bus, agents.values()) if isinstance(command, ProposeUpdate) else {}
    study = await _findings(command, journal) if envelope.barred is None else None
    facts = facts_of(envelope, settings, agents, episodes=episodes, study=study)
    return replace(facts, four_eyes=four_eyes(settings, trust))


async def _findings(command: UpdateCommand, journal: Journal) -> Findings | None:
    """What the study that a proposal names has found; None also where nobody can read its history."""
    if not isinstance(command, ProposeUpdate) or command.study_id is None:
        return None
    try:
        history: History[StudyEvent] = await journal.current("study", command.study_id)
    except Poison:
        return None
    return findings(history.events)


async def _concerned(command: UpdateCommand, journal: Journal) -> Iterable[str]:
    """The agents that the decision asks about: a rejection and a request to roll back ask about none."""
    match command:
        case ProposeUpdate():
            return command.agents
        case ApproveUpdate() | ApplyUpdate():
            history: History[UpdateEvent] = await journal.current("update", command.update_id)
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
    study: Findings | None,
) -> Facts:
    """Put together what was gathered."""
    return Facts(
        id=envelope.id,
        time=envelope.time,
        by=envelope.by,
        signed=envelope.signed,
        barred=envelope.barred,
        late=envelope.late,
        mode=settings.approval_mode,
        threshold=settings.autonomous_threshold,
        strictness=settings.validation_strictness,
        agents=agents,
        episodes=episodes,
        study=study,
    )
