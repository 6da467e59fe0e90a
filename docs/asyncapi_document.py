"""The AsyncAPI 3.0 document of everything that travels: channels are subjects, operations say which role does what.

Derived from `schemas/`: kinds, streams, durables, roles and queries; only the words are written here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tars import __version__
from tars.runtime.signing import KEY_HEADER, SIGNATURE_HEADER
from tars.schemas.message import Answer, Message
from tars.schemas.permissions import permissions_of
from tars.schemas.queries import QUERIES, WITH_ID, Ask, Reply, query_subject
from tars.schemas.streams import DURABLES, KINDS, ROLES, STREAMS, covers, stream_of

Json = dict[str, Any]
HEARD: Final[Mapping[str, tuple[str, ...]]] = {
    "tars.live.>": ("agents", "attached"),
    "tars.query.>": ("consumers",),
    "tars.reply.>": ("person", "dashboard"),
}
"""Who hears what no stream stores."""
REPLY: Final = "tars.reply.{client}.{command_id}"
DEAD: Final = "tars.dead.{stream}.{reader}"
EVERY: Final[Mapping[str, str]] = {
    "Nats-Msg-Id": "Made once by the sender and kept over retries: stored once in 120 s, and its effect counts once.",
    "content-type": "application/json",
    "ce-specversion": "1.0, as CloudEvents has it.",
    "ce-id": "The same as Nats-Msg-Id.",
    "ce-type": "`tars.<kind>`.",
    "ce-source": "`tars/<process>`: who sent it.",
    "ce-time": "When it was sent, by the sender's clock; what counts is the time that the server stored it at.",
    "traceparent": "W3C trace context.",
    "Nats-Expected-Stream": "Where it is to be stored.",
    "Tars-By": "Who caused it; a claim, which proves nothing.",
}
OF_A_COMMAND: Final[Mapping[str, str]] = {
    "Tars-Reply": "`tars.reply.<client>.<command id>`: where its sender waits for an Answer; others are ignored.",
    KEY_HEADER: "The key that signs it: the first 32 hex digits of the sha256 of its 32 public bytes.",
    SIGNATURE_HEADER: "ed25519, in base64, over id, subject and body (docs/security.md).",
}
GUARDED: Final[Mapping[str, str]] = {
    "Nats-Expected-Last-Subject-Sequence": "The sequence that its sender read last; another one there is a conflict.",
    "Nats-Expected-Last-Subject-Sequence-Subject": "The filter that this is about: all messages of the id.",
}
BATCHED: Final[Mapping[str, str]] = {
    "Nats-Batch-Id": "Events of one decision are stored as one batch: all, or none.",
    "Nats-Batch-Sequence": "Its place in the batch, from 1.",
    "Nats-Batch-Commit": "1: it is the last.",
}
PUT_ASIDE: Final[Mapping[str, str]] = {
    "Tars-Dead-Reason": "malformed, unknown-kind, newer-version, attempts-exhausted.",
    "Tars-Dead-Error": "What was wrong, in a line.",
    "Tars-Dead-Subject": "Where it had been sent.",
    "Tars-Dead-Id": "Its Nats-Msg-Id there.",
    "Tars-Dead-Sequence": "Its sequence in its stream.",
    "Tars-Dead-Attempts": "How often it was delivered.",
}
PARAMETERS: Final[Mapping[str, str]] = {
    "study_id": "A study.", "update_id": "An update.", "agent_id": "An agent.", "game_id": "A world.",
    "session_id": "An open page.", "number": "A trial of the study.", "client": "Whoever sent the command.",
    "command_id": "The command's Nats-Msg-Id.", "stream": "Where it was stored before.",
    "reader": "The durable or the agent that could not use it.",
}  # fmt: skip


def address(model: type[Message]) -> str:
    """The subject of a kind with a parameter for its id: `tars.command.update.approve.v1.{update_id}`."""
    kind = model.model_fields["kind"].default
    noun = kind.split(".")[0]
    key = "{study_id}.{number}" if noun == "trial" else f"{{{noun}_id}}"
    return f"tars.{model.CHANNEL}.{kind}.{key}"


def senders(subject: str) -> list[str]:
    """Roles that may publish there."""
    if subject == DEAD:  # each puts aside what it could not use, under its own name
        return [name for name in ROLES if any(p.startswith("tars.dead.") for p in permissions_of(name).publish)]
    return [name for name, role in ROLES.items() if any(covers(pattern, subject) for pattern in role.publishes)]


def readers(subject: str) -> list[str]:
    """Roles that get it: from a durable, by reading its stream, or by hearing the subject."""
    heard = [name for pattern, names in HEARD.items() if covers(pattern, subject) for name in names]
    try:
        stream = stream_of(subject)
    except KeyError:
        return heard
    return [
        name
        for name, role in ROLES.items()
        if stream in role.reads
        or any(covers(p, subject) for durable in role.durables for p in DURABLES[durable].subjects)
    ]


def first_line(model: type[BaseModel]) -> str:
    """What a message says, in a sentence."""
    return (model.__doc__ or "").strip().splitlines()[0]


def headers_of(model: type[Message]) -> dict[str, str]:
    """Headers that a message of this kind may have, and what each says."""
    kind, subject = model.model_fields["kind"].default, address(model)
    own = OF_A_COMMAND if model.CHANNEL == "command" and stream_of(subject) == "COMMANDS" else {}
    guarded = GUARDED if stream_of(subject) in {"EVENTS", "TRIALS", "AGENTS"} else {}
    batched = BATCHED if STREAMS[stream_of(subject)].allow_atomic else {}
    return {**EVERY, "ce-type": f"tars.{kind}", **own, **guarded, **batched}


def document(samples: Mapping[str, Any]) -> Json:
    """The whole document; samples: an example body of each kind."""
    channels, operations = dict(_channels()), dict(_operations())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "TARS",
            "version": __version__,
            "description": "Every message on NATS. Written by docs/reference.py; docs/messages.md is for people.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": dict(_messages(samples)), "schemas": _schemas()},
    }


def _ref(*path: str) -> Json:
    return {"$ref": "#/" + "/".join(path)}


def _channel(subject: str | None, messages: Sequence[str], about: str, stream: str | None = None) -> Json:
    names = re.findall(r"{(\w+)}", subject or "")
    channel: Json = {
        "address": subject,
        "messages": {name: _ref("components", "messages", name) for name in messages},
        "description": about,
    }
    if names:
        channel["parameters"] = {name: {"description": PARAMETERS[name]} for name in names}
    return channel | ({"x-stream": stream} if stream else {})


def _channels() -> Iterator[tuple[str, Json]]:
    for model in KINDS.values():
        stream = stream_of(address(model))
        about = f"{first_line(model)} Stored in {stream}: {STREAMS[stream].why}."
        yield model.__name__, _channel(address(model), (model.__name__,), about, stream)
    live = address(KINDS["agent.configure.v1"]).replace("tars.command.", "tars.live.")
    yield "HeardConfiguration", _channel(live, ("ConfigureAgent",), "Sent on by the server once it is stored.")
    yield "Answers", _channel(REPLY, ("Answer",), "What became of a command.")
    yield "Inbox", _channel(None, [_rows(name) for name in QUERIES], "Where who asks a query waits.")
    for name in QUERIES:
        about = "Asked about one id." if name in WITH_ID else "Lists."
        yield _query(name), _channel(query_subject(name), ("Ask",), about)
    yield "Dead", _channel(DEAD, ("DeadLetter",), STREAMS["DEAD"].why, "DEAD")


def _operations() -> Iterator[tuple[str, Json]]:
    for model in KINDS.values():
        answered = stream_of(address(model)) == "COMMANDS"
        yield from _acts(model.__name__, address(model), model.__name__, reply=_answer() if answered else None)
    for role in HEARD["tars.live.>"]:
        yield f"{role}-receives-HeardConfiguration", _operation("receive", "HeardConfiguration", "ConfigureAgent", role)
    for name in QUERIES:
        reply = {"channel": _ref("channels", "Inbox"), "messages": [_ref("channels", "Inbox", "messages", _rows(name))]}
        yield from _acts(_query(name), query_subject(name), "Ask", reply=reply)
    yield from _acts("Answers", REPLY, "Answer")
    yield from _acts("Dead", DEAD, "DeadLetter")


def _answer() -> Json:
    return {
        "address": {"location": "$message.header#/Tars-Reply"},
        "channel": _ref("channels", "Answers"),
        "messages": [_ref("channels", "Answers", "messages", "Answer")],
    }


def _query(name: str) -> str:
    return f"Query{name.title()}"


def _rows(name: str) -> str:
    return f"RowsOf{name.title()}"


def _acts(channel: str, subject: str, message: str, *, reply: Json | None = None) -> Iterator[tuple[str, Json]]:
    extra = {"reply": reply} if reply else {}
    for role in senders(subject):
        yield f"{role}-sends-{channel}", _operation("send", channel, message, role) | extra
    for role in readers(subject):
        yield f"{role}-receives-{channel}", _operation("receive", channel, message, role) | extra


def _operation(action: str, channel: str, message: str, role: str) -> Json:
    return {
        "action": action,
        "channel": _ref("channels", channel),
        "messages": [_ref("channels", channel, "messages", message)],
        "tags": [{"name": role}],
    }


def _message(title: str, about: str, payload: Json, headers: Mapping[str, str] | None = None) -> Json:
    told: Json = {"title": title, "summary": about, "payload": payload}
    if headers:
        properties = {name: {"type": "string", "description": text} for name, text in headers.items()}
        told["headers"] = {"type": "object", "properties": properties}
    return told


def _messages(samples: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    for kind, model in KINDS.items():
        payload = _ref("components", "schemas", model.__name__)
        message = _message(model.__name__, first_line(model), payload, headers_of(model))
        message["headers"]["required"] = ["Nats-Msg-Id"]
        yield model.__name__, {"name": kind, **message, "examples": [{"payload": samples[kind]}]}
    yield "Answer", _message("Answer", first_line(Answer), _ref("components", "schemas", "Answer"))
    yield "Ask", _message("Ask", first_line(Ask), _ref("components", "schemas", "Ask"))
    for name, row in QUERIES.items():
        rows = {"type": "array", "items": _ref("components", "schemas", row.__name__)}
        payload = {"allOf": [_ref("components", "schemas", "Reply"), {"type": "object", "properties": {"rows": rows}}]}
        yield _rows(name), _message(f"Rows of {name}", first_line(row), payload)
    about = "The original bytes, whatever they are."
    yield "DeadLetter", {**_message("Dead letter", about, {}, PUT_ASIDE), "contentType": "application/octet-stream"}


def _schemas() -> Json:
    models = dict.fromkeys((*KINDS.values(), Answer, Ask, Reply, *QUERIES.values()))
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    plain = _as_draft_7(found["$defs"])
    assert isinstance(plain, dict)  # noqa: S101 - a mapping stays one
    return plain


def _as_draft_7(schema: object) -> object:
    """AsyncAPI's own form of schemas is a superset of JSON Schema draft 7, where `items` lists a tuple's places."""
    if isinstance(schema, list):
        return [_as_draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {"items" if key == "prefixItems" else key: _as_draft_7(value) for key, value in schema.items()}
