"""People with keys, for tests: who proposes, who approves, and what they sign."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.signing import (
    KEY_HEADER,
    LOGIN_HEADER,
    SIGNATURE_HEADER,
    TOKEN_HEADER,
    Signer,
    Signs,
    TrustFile,
    add_trust,
    key_path,
    new_signer,
    write_key,
)
from tars.schemas.message import Answer, Command, Role, Signed
from tars.schemas.update import UpdateCommandRefused, UpdateEvent

ADA, GRACE, MALLORY = (new_signer(name) for name in ("ada", "grace", "mallory"))
"""A proposer; an approver, who may propose too; somebody whom nobody trusts."""
PAGE = new_signer("page")
"""A page at which people log in."""
MAY: dict[str, tuple[Role, ...]] = {"ada": ("proposer",), "grace": ("proposer", "approver"), "page": ("gateway",)}

C = TypeVar("C", bound=Command)


def trusted(folder: Path, *signers: Signer) -> TrustFile:
    """A data folder with the keys of these, ADA and GRACE unless given, and a trust file that lists them."""
    for signer in signers or (ADA, GRACE):
        write_key(key_path(folder, signer.name), signer)
        add_trust(folder / "trust.toml", signer.trusted(frozenset(MAY.get(signer.name, ("approver",)))))
    return TrustFile(folder / "trust.toml")


def soon(command: C, seconds: float = 60.0) -> C:
    """The command with a deadline."""
    return command.model_copy(update={"deadline": datetime.now(UTC) + timedelta(seconds=seconds)})


def signed(signer: Signs, command: Command, command_id: str) -> Signed:
    """A command as this person signs it."""
    body = command.model_dump_json()
    headers = signer.sign(command_id, command.subject, body.encode())
    key, signature = headers[KEY_HEADER], headers[SIGNATURE_HEADER]
    login = headers.get(LOGIN_HEADER)
    return Signed(key=key, id=command_id, subject=command.subject, body=body, signature=signature, on_behalf=login)


async def deliver(
    bus: Bus, sent: Signed, *, as_id: str | None = None, body: str | None = None, token: str = ""
) -> Answer:
    """Send a signed command's bytes as anybody on the bus could: as they are, under another id, or altered."""
    command_id = as_id or sent.id
    reply = f"tars.reply.test.{command_id}"
    replies = await bus.client.subscribe(reply)
    headers = {"Nats-Msg-Id": command_id, "Tars-Reply": reply, "Tars-By": "grace"}
    headers |= {KEY_HEADER: sent.key, SIGNATURE_HEADER: sent.signature}
    headers |= {LOGIN_HEADER: sent.on_behalf} if sent.on_behalf else {}
    headers |= {TOKEN_HEADER: token} if token else {}
    await bus.jetstream.publish(sent.subject, (body or sent.body).encode(), stream="COMMANDS", headers=headers)
    return Answer.model_validate_json((await replies.next_msg(timeout=10)).data)


async def events_of(bus: Bus) -> tuple[UpdateEvent, ...]:
    """What stands in the history of the update u."""
    history: History[UpdateEvent] = await Journal(bus).read("update", "u")
    return history.events


async def refused(bus: Bus, answer: Answer, words: str) -> None:
    """Assert that it was refused with these words, and that they stand in the history."""
    last = (await events_of(bus))[-1]
    assert isinstance(last, UpdateCommandRefused), last
    assert words in "; ".join(answer.reasons), answer
    assert last.reasons == answer.reasons


async def answered(bus: Bus, answer: Answer, words: str, *, after: tuple[str, ...] = ("update.proposed.v1",)) -> None:
    """Assert that it was refused with these words, and left nothing in the history: who sent it proved no name."""
    assert words in "; ".join(answer.reasons), answer
    assert tuple(event.kind for event in await events_of(bus)) == after
