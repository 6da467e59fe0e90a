"""Backup of a running server and restore into an empty one, by JetStream's snapshots.

They hold a stream's messages, sequences, times, headers and consumers. Nobody has to stop meanwhile; schemas/backup.py
says what makes the streams fit together.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError
from pydantic import ValidationError

from tars import __version__
from tars.runtime.bus import Bus
from tars.runtime.journal import stored_time
from tars.runtime.provision import provision
from tars.schemas.backup import ORDER, Manifest, SavedStream
from tars.schemas.errors import TarsError
from tars.schemas.streams import DURABLES

MANIFEST: Final = "manifest.json"
CHUNK: Final = 128 * 1024
ANSWER_SECONDS: Final = 30.0
"""How long the server may take to answer, or to send the next chunk."""
LOAD_SECONDS: Final = 600.0
"""How long the server may take to make a stream of what it was sent."""
SETTLE_SECONDS: Final = 60.0
"""How long AGENTS may go on to end later than EVENTS: an agent answers a configuration within 10 s, or is given up."""
STREAM_EXISTS: Final = frozenset({10058, 10130})
"""The server's codes for a stream that is there already."""

EMPTY: Final = "restore into an empty server, for example a new data folder: `tars restore DIR --data NEW`"

Tell = Callable[[str, int, int | None], None]
"""Hears (stream, bytes so far, bytes in all; None: not known)."""


class BackupFailed(TarsError):
    """No backup was made, or nothing was restored; the message says why and what to do."""


async def back_up(bus: Bus, folder: Path, *, reports: bool, tell: Tell) -> Manifest:
    """Write every stream into `folder`, which must be empty or new; raises BackupFailed.

    reports: also the measurements, which nothing but histories of the last week and watches in progress need.
    """
    _make_folder(folder)
    names = [name for name in ORDER if reports or name != "REPORTS"]
    end, saved = asyncio.get_running_loop().time() + SETTLE_SECONDS, dict[str, SavedStream]()
    async with _answering("backed up"):
        for name in names:
            saved[name] = await _save(bus, name, folder, tell)
            while name == "AGENTS" and not _fit(saved["EVENTS"], saved["AGENTS"]):
                if asyncio.get_running_loop().time() > end:
                    raise BackupFailed("an agent was configured and nobody says what became of it: try again later")
                await asyncio.sleep(0.2)
                for again in ("EVENTS", "AGENTS"):
                    saved[again] = await _save(bus, again, folder, tell)
    manifest = Manifest(version=__version__, taken_at=datetime.now(UTC), streams=tuple(saved.values()))
    manifest = manifest.model_copy(update={"sha256": manifest.seal()})
    with _new_file(folder / MANIFEST) as write:
        write(manifest.model_dump_json(indent=1).encode())
    return manifest


def _make_folder(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise BackupFailed(f"{folder} is not empty: name a new folder for each backup")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _fit(events: SavedStream, agents: SavedStream) -> bool:
    """Whether every configuration in `agents` comes from an event in `events`."""
    if agents.last_time is None:
        return True
    return events.last_time is not None and agents.last_time <= events.last_time


async def _save(bus: Bus, stream: str, folder: Path, tell: Tell) -> SavedStream:
    floors = {}
    for durable in DURABLES.values():
        if durable.stream == stream:
            floors[durable.name] = (await bus.jetstream.consumer_info(stream, durable.name)).ack_floor.stream_seq
    path, size, digest = folder / f"{stream}.snapshot", 0, sha256()
    inbox = bus.client.new_inbox()
    chunks = await bus.client.subscribe(inbox)
    try:
        asked = {"deliver_subject": inbox, "no_consumers": False, "chunk_size": CHUNK}
        found = await _ask(bus, f"$JS.API.STREAM.SNAPSHOT.{stream}", json.dumps(asked).encode())
        with _new_file(path) as write:
            async for chunk in _received(bus, chunks.next_msg):
                write(chunk)
                digest.update(chunk)
                size += len(chunk)
                tell(stream, size, None)
    finally:
        await chunks.unsubscribe()
    tell(stream, size, size)
    state = found["state"]
    return SavedStream(
        stream=stream,
        file=path.name,
        bytes=size,
        sha256=digest.hexdigest(),
        messages=state["messages"],
        last=state["last_seq"],
        last_time=stored_time(state["last_ts"]) if state["messages"] else None,
        config=found["config"],
        state=state,
        floors=floors,
    )


async def _received(bus: Bus, next_chunk: Callable[..., Any]) -> AsyncIterator[bytes]:
    """A snapshot's chunks; each is acknowledged, or the server stops sending."""
    while True:
        message: Msg = await next_chunk(timeout=ANSWER_SECONDS)
        if not message.data:
            status = str((message.headers or {}).get("Status", ""))
            if status not in {"", "204"}:
                raise BackupFailed(f"the server broke off: {dict(message.headers or {})}")
            return
        yield message.data
        if message.reply:
            await bus.client.publish(message.reply, b"")


def read_manifest(folder: Path) -> Manifest:
    """Read a backup's manifest, and hold every file to it; raises BackupFailed for the first that differs."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise BackupFailed(f"{folder} is no backup, or one that was broken off: it has no {MANIFEST}") from error
    except (OSError, ValidationError) as error:
        raise BackupFailed(f"{folder / MANIFEST} cannot be read, so nothing was restored: it is damaged") from error
    if manifest.seal() != manifest.sha256:
        raise BackupFailed(f"{folder / MANIFEST} is damaged, so nothing was restored: take another backup")
    for saved in manifest.streams:
        path = folder / saved.file
        if not path.is_file() or _sha256(path) != saved.sha256:
            raise BackupFailed(f"{path} is damaged or missing, so nothing was restored: take another backup")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


async def restore(bus: Bus, folder: Path, *, ack_wait: float, replicas: int, tell: Tell) -> Manifest:
    """Make the streams of a backup on a server that has none of them, or only empty ones; raises BackupFailed.

    All files are checked before anything is touched. What was made is taken away again when something fails.
    """
    manifest = await asyncio.to_thread(read_manifest, folder)
    async with _answering("restored"):
        await _make_room(bus, [saved.stream for saved in manifest.streams])
        made: list[str] = []
        try:
            for saved in manifest.streams:
                await _load(bus, folder / saved.file, saved, _replicated(saved, replicas), tell)
                made.append(saved.stream)
            await provision(bus.jetstream, ack_wait=ack_wait, replicas=replicas)
            await _resume(bus, manifest.streams)
        except BaseException:
            for stream in made:
                with suppress(NatsError, TimeoutError):
                    await bus.jetstream.delete_stream(stream)
            raise
    return manifest


async def _make_room(bus: Bus, streams: Iterable[str]) -> None:
    """Take away what `tars provision` made; raises BackupFailed where there is anything in it."""
    there = {}
    for stream in streams:
        with suppress(NotFoundError):
            there[stream] = (await bus.stream(stream)).state
    if held := [f"{name} with {state.messages} messages" for name, state in there.items() if state.messages]:
        raise BackupFailed(f"the server has {', '.join(held)}: {EMPTY}")
    for stream in there:
        await bus.jetstream.delete_stream(stream)


def _replicated(saved: SavedStream, replicas: int) -> dict[str, Any]:
    """The stream's configuration, with as many copies as this cluster keeps; several cannot be asynchronous."""
    config = {key: value for key, value in saved.config.items() if key != "persist_mode" or replicas == 1}
    return config | {"num_replicas": replicas}


async def _load(bus: Bus, path: Path, saved: SavedStream, config: Mapping[str, Any], tell: Tell) -> None:
    request = json.dumps({"config": config, "state": saved.state}).encode()
    target = (await _ask(bus, f"$JS.API.STREAM.RESTORE.{saved.stream}", request))["deliver_subject"]
    sent = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            await _ask(bus, target, chunk)
            sent += len(chunk)
            tell(saved.stream, sent, saved.bytes)
    await _ask(bus, target, b"", LOAD_SECONDS)
    state = (await bus.stream(saved.stream)).state
    if (state.messages, state.last_seq) != (saved.messages, saved.last):
        raise BackupFailed(f"{saved.stream} came out with {state.messages} messages, not {saved.messages}: try again")


async def _resume(bus: Bus, streams: Iterable[SavedStream]) -> None:
    """Set durables back to what they had done before their stream was taken.

    A snapshot holds its consumers as they were a moment after its messages: what was acknowledged in that moment may
    have led to an event that the snapshot lacks. What is delivered again is found done, or is done now.
    """
    for saved in streams:
        if saved.stream != "COMMANDS":  # a work queue holds what is not done, and nothing else
            for durable, floor in saved.floors.items():
                await bus.jetstream.reset_consumer(saved.stream, durable, floor + 1)


async def _ask(bus: Bus, subject: str, body: bytes, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    """One request to the server; raises BackupFailed with its reason."""
    answer = await bus.client.request(subject, body, timeout=seconds)
    found: dict[str, Any] = json.loads(answer.data) if answer.data else {}
    if error := found.get("error"):
        what_to_do = f": {EMPTY}" if error.get("err_code") in STREAM_EXISTS else ""
        raise BackupFailed(f"{subject.removeprefix('$JS.API.STREAM.')}: {error.get('description')}{what_to_do}")
    return found


@asynccontextmanager
async def _answering(what: str) -> AsyncIterator[None]:
    """Whatever NATS does not do in time is one line for people."""
    try:
        yield
    except NotFoundError as error:
        raise BackupFailed(f"not {what}: the server lacks a stream or a durable: run `tars provision`") from error
    except (NatsError, TimeoutError) as error:
        raise BackupFailed(
            f"not {what}: NATS does not answer ({type(error).__name__}); may this user do that?"
        ) from error


@contextmanager
def _new_file(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Write a file that only its owner can read; it is on disk in the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file.write
        file.flush()
        os.fsync(file.fileno())
