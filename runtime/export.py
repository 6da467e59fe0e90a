"""An export: messages of the ledger in a file of JSON lines, sealed, that can be judged without any server.

The first line says what it is and who was trusted, the last holds the sha256 of all lines before it, signed where
whoever exports has a key. Private keys are in no export.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from nats.aio.msg import Msg
from pydantic import ValidationError

from tars import __version__
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal, stored_time
from tars.runtime.signing import KEY_HEADER, SIGNATURE_HEADER, Signer, verify
from tars.schemas.audit import ExportHeader, Seal, StoredMessage
from tars.schemas.errors import TarsError
from tars.schemas.message import Signed
from tars.schemas.streams import configure_subject, history_subject
from tars.schemas.trust import Trust
from tars.schemas.update import UpdateEvent, UpdateProposed

SEALING: Final = "tars.export"
"""Stands for the subject of what is signed: no command travels there."""
OF_THE_READ: Final = frozenset(
    {"Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp", "Nats-Num-Pending", "Nats-Last-Sequence"}
)
"""Headers that the server adds when it hands out a message."""
LEDGER: Final = ("EVENTS", "AGENTS", "TRIALS", "DEAD")
"""Streams that an export is made of."""


class BadExport(TarsError):
    """There is nothing to export, or what was exported cannot be read; the message says which, and where."""


@dataclass(frozen=True)
class Export:
    """What an export's file says."""

    header: ExportHeader
    messages: tuple[StoredMessage, ...]
    seal: Seal | None
    """None: it was broken off."""
    sha256: str
    """Of all lines before the last."""
    faults: tuple[str, ...] = field(default=())
    """Lines that cannot be read."""


async def collect(bus: Bus, update_id: str | None) -> AsyncIterator[StoredMessage]:
    """Everything that concerns an update, None: the whole ledger; by stream and sequence. Raises BadExport."""
    journal = Journal(bus)
    if update_id is None:
        for stream in LEDGER:
            async for stored in journal.stored(stream):
                yield _stored(stored)
        return
    places = await _places(journal, update_id)
    found = [_stored(message) for place in places async for message in journal.stored(*place)]
    for message in sorted(found, key=lambda one: (LEDGER.index(one.stream), one.sequence)):
        yield message


async def _places(journal: Journal, update_id: str) -> list[tuple[str, str]]:
    """(stream, subject filter) of all that concerns an update; causes are read after what they led to."""
    history: History[UpdateEvent] = await journal.read("update", update_id)
    if not history.events:
        raise BadExport(f"there is no update {update_id}: `tars updates` shows which there are")
    proposed = next((event for event in history.events if isinstance(event, UpdateProposed)), None)
    agents = sorted(proposed.base) if proposed else []
    found = [("EVENTS", history_subject("update", update_id))]
    found += [("EVENTS", history_subject("agent", name)) for name in agents]
    found += [("AGENTS", configure_subject(name)) for name in agents]
    if proposed and proposed.study_id:
        found += [("EVENTS", history_subject("study", proposed.study_id))]
        found += [("TRIALS", f"tars.*.trial.*.*.{proposed.study_id}.*")]
    return found


def _stored(message: Msg) -> StoredMessage:
    headers = {name: str(value) for name, value in (message.headers or {}).items()}
    return StoredMessage.of(
        message.data,
        stream=headers["Nats-Stream"],
        sequence=int(headers["Nats-Sequence"]),
        subject=headers["Nats-Subject"],
        time=stored_time(headers["Nats-Time-Stamp"]),
        headers={name: value for name, value in headers.items() if name not in OF_THE_READ},
    )


def header(update_id: str | None, trust: Trust | None) -> ExportHeader:
    """The first line of an export that is made now."""
    return ExportHeader(version=__version__, taken_at=datetime.now(UTC), update_id=update_id, trust=trust)


async def write_export(
    path: Path, first: ExportHeader, messages: AsyncIterator[StoredMessage], signer: Signer | None
) -> Seal:
    """Write an export, sealed in the end; raises BadExport where there is a file already."""
    count = 0
    with _new_file(path) as (write, digest):
        write(first)
        async for message in messages:
            write(message)
            count += 1
        seal = sealed(count, digest(), signer)
        write(seal)
    return seal


@contextmanager
def _new_file(path: Path) -> Iterator[tuple[Callable[[ExportHeader | StoredMessage | Seal], None], Callable[[], str]]]:
    """(write a line, the sha256 of all lines so far); a file that is not written to its end does not stay."""
    digest = sha256()
    try:
        file = path.open("xb")
    except FileExistsError as error:
        raise BadExport(f"{path} is there already: name another file") from error
    except OSError as error:
        raise BadExport(f"{path} cannot be written: {error.strerror}") from error

    def write(value: ExportHeader | StoredMessage | Seal) -> None:
        line = value.model_dump_json().encode() + b"\n"
        file.write(line)
        digest.update(line)

    try:
        with file:
            yield write, digest.hexdigest
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def sealed(count: int, digest: str, signer: Signer | None) -> Seal:
    """The last line of an export."""
    if signer is None:
        return Seal(messages=count, sha256=digest)
    headers = signer.sign(SEALING, SEALING, digest.encode())
    key, signature = headers[KEY_HEADER], headers[SIGNATURE_HEADER]
    return Seal(
        messages=count,
        sha256=digest,
        signed=Signed(key=key, id=SEALING, subject=SEALING, body=digest, signature=signature),
    )


def read_export(path: Path) -> Export:
    """Read an export; raises BadExport where it is none. What cannot be read of it is listed in `faults`."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
        first = ExportHeader.model_validate_json(lines[0])
    except OSError as error:
        raise BadExport(f"{path} cannot be read: {error.strerror}") from error
    except (ValidationError, IndexError, ValueError) as error:
        raise BadExport(f"{path} is no export of TARS: make one with `tars export UPDATE --to FILE`") from error
    seal = _seal(lines[-1])
    rest = lines[1:] if seal is None else lines[1:-1]
    found, faults = list[StoredMessage](), list[str]()
    for number, line in enumerate(rest, start=2):
        try:
            found.append(StoredMessage.model_validate_json(line))
        except ValidationError:
            faults.append(f"line {number} cannot be read")
    whole = b"".join(lines if seal is None else lines[:-1])
    return Export(first, tuple(found), seal, sha256(whole).hexdigest(), tuple(faults))


def _seal(line: bytes) -> Seal | None:
    """Read the last line; None where it is not one, to the byte: nothing vouches for this line but its own form."""
    try:
        seal = Seal.model_validate_json(line)
    except ValidationError:
        return None
    return seal if seal.model_dump_json(exclude_unset=True).encode() + b"\n" == line else None


def seal_faults(export: Export, trust: Trust | None) -> list[str] | str:
    """Why an export is not what its seal says, or who sealed it."""
    seal = export.seal
    if seal is None:
        return [*export.faults, "its last line is missing or altered: it is not whole"]
    faults = list(export.faults)
    if (seal.sha256, seal.messages) != (export.sha256, len(export.messages) + len(export.faults)):
        faults.append("it was altered after it was made: its sha256 is not that of its last line")
    if seal.signed is None:
        return faults or "whole; nobody signed it, so whoever altered it could have sealed it again"
    by = verify(seal.signed, trust or Trust())
    if isinstance(by, str):
        faults.append(f"its seal: {by}")
    elif (seal.signed.body, seal.signed.subject) != (seal.sha256, SEALING):
        faults.append(f"its seal: {by.name} signed something else")
    return faults or f"whole, sealed by {by.name if not isinstance(by, str) else '?'}"
