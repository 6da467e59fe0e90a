"""Answers to `tars.query.<name>.v1`, from the views in memory."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from pydantic import ValidationError

from tars.runtime import metrics
from tars.runtime.bus import Bus
from tars.runtime.view_store import Views
from tars.schemas.errors import complaints
from tars.schemas.message import Frozen
from tars.schemas.queries import QUERIES, WITH_ID, Ask, Reply

log = logging.getLogger(__name__)

GROUP: Final = "consumers"
"""Of several processes one answers."""

Find = Callable[[Views, Ask], Sequence[Frozen | None]]

FIND: Final[Mapping[str, Find]] = {
    "agents": lambda views, _: views.agents(),
    "history": lambda views, ask: views.history(ask.id or "", ask.offset, ask.limit),
    "pending": lambda views, _: views.pending(),
    "update": lambda views, ask: [views.update(ask.id or "")],
    "updates": lambda views, ask: views.updates(ask.offset, ask.limit),
    "study": lambda views, ask: [views.study(ask.id or "")],
    "studies": lambda views, ask: views.studies(ask.offset, ask.limit),
    "trials": lambda views, ask: views.trials(ask.id or "", ask.offset, ask.limit),
    "conflicts": lambda views, ask: views.conflicts(ask.offset, ask.limit),
    "equilibria": lambda views, ask: views.equilibria(ask.offset, ask.limit),
    "pipeline": lambda views, _: views.pipeline(),
    "dead": lambda views, ask: views.dead(ask.offset, ask.limit),
    "stats": lambda views, _: [views.stats()],
}


def answer(views: Views, subject: str, body: bytes) -> Reply:
    """Answer one question; a question that makes no sense gets the reason."""
    name = subject.split(".")[2]
    if name not in FIND:
        return Reply(error=f"there is no query {name}; there are {', '.join(sorted(QUERIES))}")
    try:
        ask = Ask.model_validate_json(body or b"{}")
    except ValidationError as error:
        return Reply(error="; ".join(complaints(error)))
    if name in WITH_ID and not ask.id:
        return Reply(error=f"the query {name} needs an id")
    try:
        return _found(name, views, ask)
    except ValidationError as error:
        return Reply(error=f"the rows of {name} cannot be read: {error.error_count()} errors")


def _found(name: str, views: Views, ask: Ask) -> Reply:
    rows: list[dict[str, Any]] = [row.model_dump(mode="json") for row in FIND[name](views, ask) if row is not None]
    return Reply(rows=tuple(rows))


async def serve_queries(bus: Bus, views: Views) -> None:
    """Answer questions for as long as the connection lives."""

    async def on_question(message: Msg) -> None:
        began, name = time.perf_counter(), message.subject.split(".")[2]
        body = answer(views, message.subject, message.data).model_dump_json().encode()
        metrics.ANSWERING.labels(name if name in FIND else "unknown").observe(time.perf_counter() - began)
        if len(body) > bus.client.max_payload:
            body = Reply(error="the answer is too long for one message: ask for fewer rows").model_dump_json().encode()
        try:
            await message.respond(body)
        except (NatsError, OSError) as error:
            log.warning("not answered", extra={"subject": message.subject, "error": repr(error)})

    await bus.client.subscribe("tars.query.*.v1", queue=GROUP, cb=on_question)
