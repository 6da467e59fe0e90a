"""What earlier studies found: where a new search begins to look."""

from collections.abc import AsyncIterator
from typing import Final

from nats.aio.msg import Msg

from tars.runtime.bus import Bus
from tars.runtime.journal import Journal, sequence_of
from tars.schemas.errors import Poison
from tars.schemas.hyperparameters import Values
from tars.schemas.streams import decode
from tars.schemas.study import StudyFinished

ENDS: Final = "tars.event.study.finished.*.*"
MOST_CHAMPIONS: Final = 10
"""Of earlier studies, that a search is told of."""
MOST_STUDIES: Final = 200
"""Ends of studies that are read in search of them."""
WINDOW: Final = 512
"""Sequences of the ledger that are looked through first."""
PAGE: Final = 32
"""Ends that are read at once."""


async def champions(bus: Bus, journal: Journal, algorithm: str, environment: str) -> list[Values]:
    """Champions that real evidence called BETTER, of this algorithm in this environment; the newest first."""
    found: list[Values] = []
    async for finished in _newest_ends(bus, journal):
        evidence, champion = finished.evidence, finished.champion
        if evidence is None or champion is None or not evidence.promotable:
            continue
        if (evidence.algorithm, evidence.environment) == (algorithm, environment):
            found.append(champion)
        if len(found) == MOST_CHAMPIONS:
            break
    return found


async def _newest_ends(bus: Bus, journal: Journal) -> AsyncIterator[StudyFinished]:
    """Studies that finished, newest first, about MOST_STUDIES of them; one that cannot be read is left out.

    A stream is read forwards only. So: window by window, back from its end, as wide as one page holds.
    """
    newest = await bus.last("EVENTS", ENDS)
    upper, width, read = (newest[0] if newest else 0), WINDOW, 0
    while upper > 0 and read < MOST_STUDIES:
        lower = max(upper - width, 0)
        page = [m for m in await journal.page("EVENTS", lower + 1, PAGE, ENDS) if sequence_of(m) <= upper]
        if len(page) == PAGE and width > PAGE:  # there may be more than these, and newer ones
            width = max(width // 2, PAGE)
            continue
        for message in reversed(page):
            if (finished := _read(message)) is not None:
                yield finished
        read, upper, width = read + len(page), lower, 2 * width


def _read(message: Msg) -> StudyFinished | None:
    try:
        event = decode((message.headers or {})["Nats-Subject"], message.data)
    except Poison:
        return None
    return event if isinstance(event, StudyFinished) else None
