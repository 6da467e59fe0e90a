"""Where messages enter and leave the sync worker."""

from collections.abc import Sequence
from typing import Annotated, Final

from faststream import AckPolicy, Context, Depends
from faststream.nats import JStream, NatsRouter, PullSub

from tars.runtime.bus import Bus
from tars.runtime.delivery import decoded
from tars.runtime.journal import History, Journal
from tars.runtime.running_agents import episodes_run, running_agents
from tars.runtime.settings import Settings
from tars.schemas.message import Envelope
from tars.schemas.permissions import inbox_of
from tars.schemas.study import StudyEvent, StudyFinished
from tars.schemas.update import UpdateCommand, UpdateEvent
from tars.sync_worker.facts import facts_of, gather
from tars.sync_worker.findings import findings, proposal_of
from tars.sync_worker.lifecycle import Facts, decide, replay

router = NatsRouter()
INBOX: Final = f"{inbox_of('sync')}.".encode()
"""A pull subscriber takes over no prefix from its broker."""
ONE_AT_A_TIME = PullSub(batch_size=1, timeout=1)


@router.subscriber(
    "tars.command.update.>",
    stream=JStream("COMMANDS", declare=False),
    durable="update-command",
    pull_sub=ONE_AT_A_TIME,
    ack_policy=AckPolicy.MANUAL,
    inbox_prefix=INBOX,
    decoder=decoded,
    no_reply=True,
)
async def on_update_command(
    command: UpdateCommand, facts: Annotated[Facts, Depends(gather)], journal: Annotated[Journal, Context()]
) -> Sequence[UpdateEvent]:
    """A command about an update -> its events."""
    history: History[UpdateEvent] = await journal.current("update", command.update_id)
    return await journal.append(decide(replay(history.events), command, facts), history, cause=facts.id, by=facts.by)


@router.subscriber(
    "tars.event.study.finished.>",
    stream=JStream("EVENTS", declare=False),
    durable="propose-champion",
    pull_sub=ONE_AT_A_TIME,
    ack_policy=AckPolicy.MANUAL,
    inbox_prefix=INBOX,
    decoder=decoded,
    no_reply=True,
)
async def on_study_finished(
    finished: StudyFinished,
    envelope: Annotated[Envelope, Context()],
    bus: Annotated[Bus, Context()],
    journal: Annotated[Journal, Context()],
    settings: Annotated[Settings, Context()],
) -> Sequence[UpdateEvent]:
    """A study's champion that is BETTER -> an update for the study's target, proposed by who started the study."""
    study: History[StudyEvent] = await journal.read("study", finished.study_id, reach=envelope.sequence)
    proposal = proposal_of(study.events) if settings.hyperparam_sync_enabled else None
    if proposal is None:
        return ()
    by, command = proposal
    history: History[UpdateEvent] = await journal.current("update", command.update_id)
    agents = await running_agents(journal, command.agents)
    episodes = await episodes_run(bus, agents.values())
    told = envelope.model_copy(update={"by": by})
    facts = facts_of(told, settings, agents, episodes=episodes, study=findings(study.events))
    return await journal.append(decide(replay(history.events), command, facts), history, cause=facts.id, by=by)
