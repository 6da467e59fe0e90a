"""docs/asyncapi.json and docs/messages.md say what really travels: they are current, and what they show can be sent."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from jsonschema import Draft7Validator
from nats.errors import NoRespondersError
from working import at_work

from examples import AGENT, EXAMPLES
from people import ADA, trusted
from tars.automl_worker.app import worker as coordinator
from tars.consumers.app import worker as consumers
from tars.runtime.bus import Bus
from tars.runtime.settings import Settings
from tars.schemas.message import Answer, By
from tars.schemas.queries import QUERIES, Reply
from tars.schemas.streams import KINDS, STREAMS
from tars.sync_worker.app import worker as sync

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[1]
DOCUMENT = json.loads((ROOT / "docs" / "asyncapi.json").read_text())
PAGE = (ROOT / "docs" / "messages.md").read_text()
LINES = [shlex.split(line) for line in PAGE.splitlines() if line.startswith(("nats pub ", "nats request "))]
PUBLISHED = {line[2]: line[3:] for line in LINES if line[1] == "pub"}
ASKED = {line[2]: line[3] for line in LINES if line[1] == "request"}


def at(pointer: str) -> Any:
    """What a `$ref` of the document points to; KeyError: nothing."""
    found = DOCUMENT
    for name in pointer.removeprefix("#/").split("/"):
        found = found[name]
    return found


def refs(value: object) -> Iterator[str]:
    """Every `$ref` below."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from refs(item)
    elif isinstance(value, list):
        for item in value:
            yield from refs(item)


def whole(schema: dict[str, Any]) -> Draft7Validator:
    """A validator that finds the document's schemas."""
    return Draft7Validator(
        {**schema, "components": DOCUMENT["components"]}, format_checker=Draft7Validator.FORMAT_CHECKER
    )


def test_both_files_are_what_the_declarations_say(tmp_path: Path) -> None:
    told = "import reference; reference.FOLDER = reference.Path(sys.argv[1]); reference.main()"
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); {told}"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    for name in ("asyncapi.json", "messages.md"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text(), "run: python docs/reference.py"


def test_the_document_has_the_form_of_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    ApplicationSchema.model_validate(DOCUMENT)
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = at(operation["channel"]["$ref"])
        assert all(at(message["$ref"]) in channel["messages"].values() for message in operation["messages"])


def test_each_reference_leads_somewhere() -> None:
    found = set(refs(DOCUMENT))
    assert len(found) > len(KINDS)
    assert [pointer for pointer in found if at(pointer) is None] == []


def test_each_channel_names_the_parameters_of_its_subject() -> None:
    for channel in DOCUMENT["channels"].values():
        names = re.findall(r"{(\w+)}", channel["address"] or "")
        assert sorted(channel.get("parameters", {})) == sorted(names)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_has_its_channel_a_sender_and_a_valid_example(kind: str) -> None:
    channel, message = (
        DOCUMENT["channels"][KINDS[kind].__name__],
        DOCUMENT["components"]["messages"][KINDS[kind].__name__],
    )
    pattern = re.sub(r"{\w+}", "[^.]+", channel["address"].replace(".", r"\."))
    assert re.fullmatch(pattern, EXAMPLES[kind].subject)
    assert [name for name in DOCUMENT["operations"] if name.endswith(f"-sends-{KINDS[kind].__name__}")]
    (example,) = message["examples"]
    assert list(whole(message["payload"]).iter_errors(example["payload"])) == []
    assert f"### {kind}\n" in PAGE


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_schema_takes_what_we_send_and_refuses_what_we_refuse(kind: str) -> None:
    validator = whole(DOCUMENT["components"]["messages"][KINDS[kind].__name__]["payload"])
    body = json.loads(EXAMPLES[kind].model_dump_json())
    assert list(validator.iter_errors(body)) == []
    for name in DOCUMENT["components"]["schemas"][type(EXAMPLES[kind]).__name__]["required"]:
        assert not validator.is_valid({key: value for key, value in body.items() if key != name})
    if KINDS[kind].CHANNEL == "command":
        assert not validator.is_valid({**body, "tomorrow": 1})


def test_people_and_workers_have_their_operations() -> None:
    operations = set(DOCUMENT["operations"])
    assert {
        "person-sends-ApproveUpdate", "sync-receives-ApproveUpdate", "coordinator-sends-RunTrial",
        "trainer-receives-RunTrial", "sync-sends-ConfigureAgent", "agents-receives-HeardConfiguration",
        "person-sends-QueryAgents", "consumers-receives-QueryAgents", "sync-sends-Answers", "person-receives-Answers",
    } <= operations  # fmt: skip
    assert not {"person-sends-ConfigureAgent", "trainer-sends-UpdateApproved"} & operations


def headers_of(kind: str) -> set[str]:
    return set(DOCUMENT["components"]["messages"][KINDS[kind].__name__]["headers"]["properties"])


async def test_the_headers_that_are_stamped_are_documented(bus: Bus) -> None:
    bus.signer = ADA
    approve, approved = EXAMPLES["update.approve.v1"], EXAMPLES["update.approved.v1"]
    await bus.publish(approve, id="c-1", by=By(principal="ada"), reply="tars.reply.me.c-1")
    await bus.publish(approved, id="c-1:0", after=("tars.event.update.*.*.u-s-17", 0), batch=("b", 1, True))
    for message in (approve, approved):
        stored = await bus.jetstream.get_last_msg(
            STREAMS["COMMANDS" if message is approve else "EVENTS"].name, message.subject
        )
        assert set(stored.headers or {}) <= headers_of(message.kind)
        assert "Nats-Msg-Id" in (stored.headers or {})


def workers(settings: Settings) -> AbstractAsyncContextManager[None]:
    """The three that answer people."""
    return at_work(*(worker(settings).serve(0) for worker in (coordinator, sync, consumers)))


async def answered(bus: Bus, subject: str, body: str, headers: dict[str, str]) -> Answer:
    replies = await bus.client.subscribe(headers["Tars-Reply"])
    await bus.client.publish(subject, body.encode(), headers=headers)  # as `nats pub` does
    return Answer.model_validate_json((await replies.next_msg(timeout=20)).data)


def headers_in(words: list[str]) -> dict[str, str]:
    flags, pairs = words[::2], [pair.split(":", 1) for pair in words[1::2]]
    assert set(flags) == {"-H"}
    return dict(pairs)


async def test_each_command_on_the_page_is_answered(bus: Bus, settings: Settings) -> None:
    """Carried out or refused with a reason: never put aside, which is what a wrong line would come to."""
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
    answers = {}
    async with workers(settings):
        for subject, (body, *words) in PUBLISHED.items():
            answers[subject] = await answered(bus, subject, body, headers_in(words))
    assert {subject.split(".")[3] for subject, answer in answers.items() if answer.done} >= {"start", "stop"}
    assert all(answer.done or answer.reasons for answer in answers.values())
    assert (await bus.stream("DEAD")).state.messages == 0
    may = {kind for kind, model in KINDS.items() if f"person-sends-{model.__name__}" in DOCUMENT["operations"]}
    assert {".".join(subject.split(".")[2:5]) for subject in PUBLISHED} == may - {"session.reported.v1"}


async def told(bus: Bus, subject: str, body: str) -> Any:
    """The reply to a question, as soon as the consumers are there."""
    while True:
        with suppress(NoRespondersError):
            return json.loads((await bus.client.request(subject, body.encode(), timeout=20)).data)


async def test_each_query_on_the_page_is_answered(bus: Bus, settings: Settings) -> None:
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
    async with workers(settings):
        for subject, body in ASKED.items():
            reply = await told(bus, subject, body)
            name = subject.split(".")[2]
            assert Reply.model_validate(reply).error is None
            assert (
                list(whole(DOCUMENT["components"]["messages"][f"RowsOf{name.title()}"]["payload"]).iter_errors(reply))
                == []
            )
    assert {subject.split(".")[2] for subject in ASKED} == set(QUERIES)


def recipe() -> Any:
    """The function that docs/security.md shows."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "security.md").read_text(), re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(block, "security.md", "exec"), space)  # noqa: S102 - our own page
    return space["signature"]


async def test_what_another_language_signs_as_documented_is_accepted(
    bus: Bus, settings: Settings, tmp_path: Path
) -> None:
    trusted(tmp_path)
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
    deadline = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    subject = "tars.command.update.propose.v1.u-1"
    body = json.dumps({"update_id": "u-1", "agents": [AGENT], "values": {"gamma": 0.95}, "deadline": deadline})
    plain = {"Nats-Msg-Id": "c-1", "Tars-Reply": "tars.reply.me.c-1"}
    vouched = recipe()(str(tmp_path / "keys" / "ada.key"), "c-1", subject, body.encode())
    async with workers(settings.model_copy(update={"tars_trust": tmp_path / "trust.toml"})):
        unsigned = await answered(bus, subject, body, {"Nats-Msg-Id": "c-0", "Tars-Reply": "tars.reply.me.c-0"})
        done = await answered(bus, subject, body, plain | vouched)
    assert not unsigned.done
    assert "it is not signed" in unsigned.reasons[0]
    assert (done.done, done.events) == (True, ("update.proposed.v1",))
