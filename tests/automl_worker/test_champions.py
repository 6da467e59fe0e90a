"""Champions of earlier studies: found from the ledger's end, however many other events lie between."""

import asyncio

import pytest

from examples import ADA, EVIDENCE
from tars.automl_worker.champions import MOST_CHAMPIONS, PAGE, WINDOW, champions
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.schemas.evidence import Verdict
from tars.schemas.hyperparameters import Values
from tars.schemas.study import StudyFinished, StudyStopped

pytestmark = pytest.mark.anyio
BARREN: dict[str, dict[str, object]] = {
    "not better": {"verdict": Verdict.NOT_BETTER},
    "of a surrogate": {"training": "surrogate"},
    "of another algorithm": {"algorithm": "a2c"},
    "of another environment": {"environment": "consensus"},
}


async def finish(bus: Bus, number: int, **evidence: object) -> None:
    """Put the end of a study into the ledger, whose champion has its number as batch size."""
    finished = StudyFinished(
        study_id=f"s-{number}", completed=1, failed=0, champion={"batch_size": number},
        evidence=EVIDENCE.model_copy(update=evidence),
    )  # fmt: skip
    await bus.publish(finished, id=f"{finished.study_id}.end")


async def fill(bus: Bus, count: int) -> None:
    """Put other events between."""
    stopped = [StudyStopped(study_id=f"x-{number}", by=ADA, reason="") for number in range(count)]
    for start in range(0, count, 100):
        part = stopped[start : start + 100]
        await asyncio.gather(*(bus.publish(event, id=f"{event.study_id}.{count}") for event in part))


async def found(bus: Bus) -> list[Values]:
    return await champions(bus, Journal(bus), "dqn", "policy")


async def test_only_what_real_evidence_called_better_for_the_same_task_is_told_the_newest_first(bus: Bus) -> None:
    assert await found(bus) == []
    await finish(bus, 1)
    for number, changes in enumerate(BARREN.values(), 2):
        await finish(bus, number, **changes)
    await bus.publish(StudyFinished(study_id="s-0", completed=0, failed=1, champion=None, evidence=None), id="none")
    await bus.jetstream.publish("tars.event.study.finished.v1.s-bad", b"{", stream="EVENTS")
    await bus.jetstream.publish("tars.event.study.finished.v9.s-new", b"{}", stream="EVENTS")
    await finish(bus, 9)
    assert await found(bus) == [{"batch_size": 9}, {"batch_size": 1}]


async def test_the_newest_are_found_where_ends_of_studies_lie_thick_and_where_they_lie_thin(bus: Bus) -> None:
    await finish(bus, 1)
    await fill(bus, 3 * WINDOW + 7)
    for number in range(2, 5):
        await finish(bus, number)
    assert await found(bus) == [{"batch_size": number} for number in (4, 3, 2, 1)]
    for number in range(5, 3 * PAGE):
        await finish(bus, number)
    assert await found(bus) == [{"batch_size": 3 * PAGE - 1 - n} for n in range(MOST_CHAMPIONS)]
