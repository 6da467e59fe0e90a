"""Write docs/asyncapi.json and docs/messages.md from `schemas/` and the samples in tests/wire. Run it after a change.

A test holds both files to the declarations, and sends what the page shows.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from asyncapi_document import (
    EVERY,
    OF_A_COMMAND,
    PUT_ASIDE,
    REPLY,
    address,
    document,
    first_line,
    readers,
    senders,
)

from tars.schemas.message import Message
from tars.schemas.queries import QUERIES, WITH_ID, query_subject
from tars.schemas.streams import BUCKETS, KINDS, STREAMS, Bucket, Stream, stream_of

FOLDER: Final = Path(__file__).parent
WIRE: Final = FOLDER.parent / "tests" / "wire"
CHANNELS: Final = {"command": "Commands", "event": "Events", "report": "Reports"}
ASKED: Final[Mapping[str, str]] = {"history": "policy-0", "update": "u-s-17", "study": "s-17", "trials": "s-17"}
"""An id for each query that needs one."""
OPENING: Final = """\
# Messages

Written by `python docs/reference.py` from `schemas/` and `tests/wire`; a test sends every line below to a real server.
[asyncapi.json](asyncapi.json) is the same for programs (AsyncAPI 3.0): every subject, body and header, and who sends
and reads it.

The lines are those of the [NATS command line](https://github.com/nats-io/natscli); any client in any language does the
same: a subject, a body in JSON, headers. `-s` or NATS_URL names the server; that of `tars up` stands in
`.tars/endpoints.json`.

## How to send a command

1. Make an id once, and send it as the header `Nats-Msg-Id`. Sent again with the same id, it counts once; with a new id
   it is another command. Wait for the answer before you send the next command about the same update or study: order is
   not promised.
2. Name the subject where you wait for the answer in `Tars-Reply`: `tars.reply.<you>.<command id>`, and subscribe to it
   first (`nats sub 'tars.reply.me.>'`). The answer is
   `{"command_id": "c-1", "done": true, "reasons": [], "events": ["update.approved.v1"]}`; with `"done": false`,
   `reasons` has every reason, in words. A lost answer costs nothing: the events of the id are in the ledger.
3. Give it a `deadline` (RFC 3339, with a time zone), after which it is refused: `"deadline": "2026-11-24T12:00:00Z"`.
4. A field that nobody knows makes a command malformed: it is put aside in DEAD with the reason, and gets no answer.

**Where there is a trust file (`tars up` makes one), a command that is not signed is refused**: the lines below are then
answered with "it is not signed". Any language that has ed25519 and sha256 can sign:
[security.md](security.md#signing-in-another-language) has the bytes. A signed command must have a deadline, and a
signed approval must name `content`, the field of that name in `update.proposed.v1`.

| header | |
| --- | --- |
"""


def samples() -> dict[str, Any]:
    """An example body of each kind."""
    return {kind: json.loads((WIRE / f"{kind}.json").read_text()) for kind in KINDS}


def publication(kind: str, body: Mapping[str, Any]) -> str:
    """The line that sends a command; without a deadline, which no page can know."""
    message = KINDS[kind].model_validate(body)
    sent = json.dumps({key: value for key, value in body.items() if key not in {"deadline", "evidence"}})
    name = f"c-{kind.split('.')[1]}-1"
    headers = (f"Nats-Msg-Id:{name}", f"Tars-Reply:{REPLY.format(client='me', command_id=name)}", "Tars-By:ada")
    words = ["nats", "pub", message.subject, sent, *(word for header in headers for word in ("-H", header))]
    return shlex.join(words)


def question(name: str) -> str:
    """The line that asks a query."""
    ask = {"id": ASKED[name]} if name in WITH_ID else {"limit": 10}
    return shlex.join(["nats", "request", query_subject(name), json.dumps(ask)])


def messages(bodies: Mapping[str, Any]) -> str:
    """The page for people."""
    return OPENING + "\n".join(_lines(bodies)) + "\n"


def _lines(bodies: Mapping[str, Any]) -> Iterator[str]:
    yield from _table(EVERY)
    yield from _table(OF_A_COMMAND)
    yield from (
        "",
        "A script needs `Nats-Msg-Id` and, to be answered, `Tars-Reply`; the others help whoever looks later.",
        "",
    )
    yield from _commands(bodies)
    yield from _queries()
    yield from _all(bodies)
    yield from _streams()


def _commands(bodies: Mapping[str, Any]) -> Iterator[str]:
    yield from ("## Commands that a person sends", "")
    for kind, model in KINDS.items():
        if "person" in senders(address(model)) and model.CHANNEL == "command":
            yield from (f"**{kind}**: {first_line(model)}", "", *_block("", publication(kind, bodies[kind])))
    yield "An update may carry `evidence`, as a champion does. RunTrial and ConfigureAgent are sent by workers alone."
    yield ""


def _queries() -> Iterator[str]:
    yield from ("## Queries", "")
    yield 'Answered by the consumers, by request and reply: `{"rows": [...], "error": null}`, newest first.'
    yield "`offset` and `limit` (1 to 1000) page."
    yield ""
    yield from _block("", *map(question, QUERIES))
    yield from ("| query | rows |", "| --- | --- |")
    for name, row in QUERIES.items():
        yield f"| {name}{' (of one id)' if name in WITH_ID else ''} | {row.__name__}: {first_line(row)} |"
    yield ""


def _all(bodies: Mapping[str, Any]) -> Iterator[str]:
    for channel, title in CHANNELS.items():
        yield from (f"## {title}, all of them", "")
        for kind, model in KINDS.items():
            if channel == model.CHANNEL:
                yield from _kind(kind, model, bodies[kind])


def _kind(kind: str, model: type[Message], body: object) -> Sequence[str]:
    subject = address(model)
    who = (
        f"Sent by {', '.join(senders(subject))}; read by {', '.join(readers(subject))}; stored in {stream_of(subject)}."
    )
    return (
        f"### {kind}",
        "",
        f"{first_line(model)} {who}",
        "",
        *_block("", subject),
        *_block("json", json.dumps(body)),
    )


def _streams() -> Iterator[str]:
    yield from ("## Streams", "", "| stream | subjects | what |", "| --- | --- | --- |")
    places: tuple[Stream | Bucket, ...] = (*STREAMS.values(), *BUCKETS.values())
    for place in places:
        yield f"| {place.name} | {', '.join(f'`{subject}`' for subject in place.subjects)} | {place.why} |"
    yield ""
    yield "What AGENTS has stored is sent on as `tars.live.agent.>`, where agents hear it. A message in DEAD"
    yield "(`tars.dead.<stream>.<reader>`) has its original bytes, and these headers:"
    yield from ("", "| header | |", "| --- | --- |", *_table(PUT_ASIDE))


def _table(rows: Mapping[str, str]) -> Iterator[str]:
    for name, text in rows.items():
        yield f"| `{name}` | {text} |"


def _block(language: str, *lines: str) -> tuple[str, ...]:
    return (f"```{language}", *lines, "```", "")


def files() -> dict[Path, str]:
    """Both files, as they should be."""
    bodies = samples()
    return {
        FOLDER / "asyncapi.json": json.dumps(document(bodies), indent=1) + "\n",
        FOLDER / "messages.md": messages(bodies),
    }


def main() -> None:
    """Write them."""
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
        print(f"docs/{path.name}")


if __name__ == "__main__":
    main()
