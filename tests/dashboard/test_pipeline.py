"""What waits, who works, what died: seen and sent again from the page."""

import asyncio

import pytest
from stage import Stage, show, texts, until

from examples import AGENT
from tars.dashboard import session
from tars.dashboard.pages import pipeline
from tars.dashboard.reads import Look, Rows
from tars.runtime.bus import connect_bus
from tars.runtime.delivery import Unreadable, put_aside
from tars.schemas.errors import Poison
from tars.schemas.update import ProposeUpdate
from tars.schemas.views import PipelineRow


def die(stage: Stage, number: int, subject: str, body: bytes) -> int:
    """Put a message aside as a worker would; return its place, as soon as the page can see it."""

    async def put() -> int:
        bus = await connect_bus(stage.nats.url, "test", patience=5)
        letter = Unreadable("COMMANDS", "update-command", number, subject, body)
        await put_aside(bus, letter, "attempts-exhausted", Poison("the moon was not up"))
        last = (await bus.stream("DEAD")).state.last_seq
        await bus.close()
        return last

    sequence = asyncio.run(put())
    until(lambda: sequence in {row.sequence for row in rows().dead()})
    return sequence


def rows() -> Rows:
    return Look(session.reader())


def test_without_dead_letters_the_page_says_so(stage: Stage) -> None:
    assert "None: every message could be read and handled." in texts(show("pipeline"))


def test_a_dead_command_is_sent_again_from_the_page(stage: Stage) -> None:
    command = ProposeUpdate(update_id="u-risen", agents=(AGENT,), values={"gamma": 0.97}, reason="late")
    sequence = die(stage, 1, command.subject, command.model_dump_json().encode())
    page = show("pipeline", id=str(sequence))
    assert command.subject in texts(page)
    assert "the moon was not up" in texts(page)
    assert '"reason":"late"' in page.code[0].value
    page = page.button(key=f"replay-{sequence}").click().run()
    assert f"dead letter {sequence} is carried out." in texts(page)
    assert page.button(key=f"replay-{sequence}").disabled
    until(lambda: stage.said("u-risen"))
    assert stage.said("u-risen")[0][:2] == ("update.proposed.v1", "grace (unsigned)")


def test_what_is_no_command_cannot_be_sent_again_and_says_why(stage: Stage) -> None:
    sequence = die(stage, 2, "tars.event.study.started.v1.s-9", b"{}")
    page = show("pipeline", id=str(sequence))
    assert page.button(key=f"replay-{sequence}").disabled
    assert "It cannot be sent again: tars.event.study.started.v1.s-9 is no command that people send" in texts(page)
    page = page.button(key="all-dead").click().run()
    assert f"open-dead-{sequence}" in [button.key for button in page.button]
    assert "There is no dead letter 999" in texts(show("pipeline", id="999"))


@pytest.mark.slow
def test_lag_workers_and_redis_are_measured(stage: Stage) -> None:
    until(lambda: rows().stats().redis_keys > 0)
    until(lambda: dict(pipeline.workers(rows().pipeline()))["sync"] == ("waits for work", "green"))
    page = show("pipeline")
    assert "nobody works: start one with `tars run trainer`" in texts(page)
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown["waiting"] == "0"
    assert shown["memory"].endswith("MB")
    assert rows().stats().history_cap == 1000
    assert 0 < rows().stats().utilisation < 1


def test_a_worker_that_is_busy_does_not_count_as_away() -> None:
    busy = PipelineRow(durable="run-trial", stream="TRIALS", waiting=4, unacknowledged=2, redelivered=0)
    assert pipeline.workers([busy]) == {"trainer": ("works on 2", "blue")}


def test_a_page_that_fails_shows_a_line_and_no_traceback(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("in the page")

    page = show("pipeline")
    monkeypatch.setattr(pipeline, "lag_frame", fail)
    assert "This page cannot be drawn (ZeroDivisionError); its log says why." in texts(page.run())
    assert "in the page" not in texts(page)
    assert "ZeroDivisionError: in the page" in caplog.text
    monkeypatch.undo()
    assert "Work that waits" in texts(page.run())
