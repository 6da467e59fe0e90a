"""Where commands about studies enter the coordinator."""

from collections.abc import Sequence
from typing import Annotated, Final

from faststream import AckPolicy, Context, Depends
from faststream.nats import JStream, NatsRouter, PullSub

from tars.automl_worker.facts import gather
from tars.automl_worker.study import Facts, decide, replay
from tars.runtime.delivery import decoded
from tars.runtime.journal import History, Journal
from tars.schemas.permissions import inbox_of
from tars.schemas.study import StudyCommand, StudyEvent

router = NatsRouter()
INBOX: Final = f"{inbox_of('coordinator')}.".encode()
"""A pull subscriber takes over no prefix from its broker."""


@router.subscriber(
    "tars.command.study.>",
    stream=JStream("COMMANDS", declare=False),
    durable="study-command",
    pull_sub=PullSub(batch_size=1, timeout=1),
    ack_policy=AckPolicy.MANUAL,
    inbox_prefix=INBOX,
    decoder=decoded,
    no_reply=True,
)
async def on_study_command(
    command: StudyCommand, facts: Annotated[Facts, Depends(gather)], journal: Annotated[Journal, Context()]
) -> Sequence[StudyEvent]:
    """A command about a study -> its events."""
    history: History[StudyEvent] = await journal.current("study", command.study_id)
    if done := history.caused_by(facts.id):
        return done  # delivered twice: a study refuses its own start, so it must not be asked again
    return await journal.append(decide(replay(history.events), command, facts), history, cause=facts.id, by=facts.by)
