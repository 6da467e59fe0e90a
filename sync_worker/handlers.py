"""Where messages enter and leave the sync worker."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Final

from faststream import AckPolicy, Context, Depends
from faststream.nats import JStream, NatsRouter, PullSub

from tars.runtime.bus import Bus
from tars.runtime.delivery import decoded
from tars.runtime.journal import History, Journal
from tars.runtime.running_agents import episodes_run, running_agents
from tars.runtime.settings import Settings
from tars.schemas.hyperparameters import changed
from tars.schemas.message import By, Envelope
from tars.schemas.permissions import inbox_of
from tars.schemas.study import StudyEvent, StudyFinished, StudyStarted
from tars.schemas.update import ProposeUpdate, UpdateCommand, UpdateEvent
from tars.sync_worker.facts import facts_of, gather
from tars.sync_worker.lifecycle import Facts, decide, replay

router = NatsRouter()
INBOX: Final = f"{inbox_of('sync')}.".encode()
"""A pull subscriber takes over no prefix from its broker."""
ID_LENGTH = 64
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
    champion = champion_update(study.events, finished) if settings.hyperparam_sync_enabled else None
    if champion is None:
        return ()
    by, command = champion
    history: History[UpdateEvent] = await journal.current("update", command.update_id)
    agents = await running_agents(journal, command.agents)
    episodes = await episodes_run(bus, agents.values())
    facts = facts_of(envelope.model_copy(update={"by": by}), settings, agents, episodes=episodes)
    return await journal.append(decide(replay(history.events), command, facts), history, cause=facts.id, by=by)


def champion_update(study: Sequence[StudyEvent], finished: StudyFinished) -> tuple[By, ProposeUpdate] | None:
    """Make an update of a champion, proposed by who started its study.

    None: it is not proven, it has no target, or the study was only to tell.
    """
    started = next((event for event in study if isinstance(event, StudyStarted)), None)
    evidence = finished.evidence
    if started is None or not started.propose or not started.base or finished.champion is None or evidence is None:
        return None
    change = changed(started.incumbent, finished.champion)
    if not evidence.promotable or not change:
        return None
    return started.by, ProposeUpdate(
        update_id=update_id_of(finished.study_id),
        agents=tuple(started.base),
        values=change,
        base=started.base,
        evidence=evidence,
        study_id=finished.study_id,
        reason=f"champion of study {finished.study_id}",
    )


def update_id_of(study_id: str) -> str:
    """Return the id of the update that a study's champion becomes: `u-<study>`, where that is too long its hash."""
    plain = f"u-{study_id}"
    return plain if len(plain) <= ID_LENGTH else f"{plain[:47]}-{sha256(study_id.encode()).hexdigest()[:16]}"
