"""Snapshots of learners in an object store: bytes and their sha256, whatever they mean.

An object lies there as every NATS client expects it (ADR-20): its chunks, then a message that describes them, so
`nats object get SNAPSHOTS <name>` works. A description's subject ends in the name in base64, so that no filter finds
those of one agent; the token of the chunks' subject is the writer's to choose, and begins with the name here.
"""

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from tars.runtime.bus import PUBLISH_TIMEOUT, Bus, fresh_id
from tars.runtime.cancellation import end_if_cancelled
from tars.schemas.errors import TarsError, Transient
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.streams import BUCKETS

CHUNK: Final = 128 * 1024
"""Bytes of a message; what other clients use."""
KEPT: Final = 8
"""Snapshots of an agent that stay."""
KEPT_RELOADS: Final = 4
"""Of those taken just before a reload: what the rollout in progress, or the last confirmed update, goes back to.

An agent is not told which of its updates were confirmed: with four, that one's outlives three later reloads (a rollout
that was taken back has made one, or two where its watch began anew).
"""
REFERENCE: Final = "tars-snapshot"
"""The entry of an object's metadata that holds its reference, as JSON."""


class NoSnapshot(TarsError):
    """What a reference names is gone, or is something else by now; the message says which."""


@dataclass(frozen=True)
class Stored:
    """An object as its description tells."""

    sequence: int
    """Of the description: a later one was stored later."""
    ref: SnapshotRef
    token: str
    """What its chunks' subject ends in."""
    chunks: int


class Snapshots:
    """The object store SNAPSHOTS. Every method raises Transient while NATS is away."""

    def __init__(self, bus: Bus) -> None:
        self._jetstream = bus.jetstream
        self._bucket = BUCKETS["SNAPSHOTS"].name
        self._stream = BUCKETS["SNAPSHOTS"].stream

    async def put(self, ref: SnapshotRef, data: bytes) -> SnapshotRef:
        """Store `data` under the reference's name, with the reference as metadata; what was there is replaced.

        Readers see the old object or the new one. Raises ValueError when `data` has another sha256, or is empty.
        """
        if not data or sha256(data).hexdigest() != ref.sha256:
            raise ValueError(f"{ref.name}: there are no bytes, or not those of its reference")
        token = f"{ref.name}.{fresh_id('part')}"
        chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
        before = await self._stored(ref.name)
        with _reachable(ref.name):
            for chunk in chunks:
                await self._send(self._chunks(token), chunk)
            about = json.dumps(_about(ref, self._bucket, token, len(data), len(chunks))).encode()
            await self._send(self._description(ref.name), about, {"Nats-Rollup": "sub"})
            if before is not None:  # its chunks alone: another's that are on their way may be those that count
                await self._jetstream.purge_stream(self._stream, subject=self._chunks(before.token))
        return ref

    async def newest(self, agent_id: str) -> SnapshotRef | None:
        """Name the newest snapshot of an agent; None: it has none. Reads descriptions of this agent only."""
        found = await self._of(agent_id)
        return max(found, key=lambda stored: stored.sequence).ref if found else None

    async def get(self, ref: SnapshotRef) -> bytes:
        """Read a snapshot; raises NoSnapshot when it is gone or its bytes are not those of the reference."""
        stored = await self._stored(ref.name)
        data = None if stored is None else await self._read(stored)
        if data is None:
            raise NoSnapshot(
                f"snapshot {ref.name} is gone: an agent's last {KEPT} are kept, start again from its newest"
            )
        if sha256(data).hexdigest() != ref.sha256:
            raise NoSnapshot(f"snapshot {ref.name} was altered: its sha256 is not {ref.sha256[:12]}...")
        return data

    async def copy(self, ref: SnapshotRef, name: str) -> SnapshotRef:
        """Store a snapshot under another name too, unless it lies there already; raises NoSnapshot as `get` does."""
        wanted = ref.model_copy(update={"name": name})
        there = await self._stored(name)
        if there is not None and there.ref == wanted:
            return wanted
        return await self.put(wanted, await self.get(ref))

    async def delete(self, name: str) -> None:
        """Delete a snapshot, and what an interrupted `put` left of it; one that is not there is no error."""
        with _reachable(name):
            for subject in (self._description(name), self._chunks(f"{name}.*")):  # in this order: no reader sees half
                await self._jetstream.purge_stream(self._stream, subject=subject)

    async def prune(self, agent_id: str, keep: int = KEPT, keep_reloads: int = KEPT_RELOADS) -> None:
        """Delete all but the newest snapshots of an agent, and what interrupted puts left. For who puts them alone."""
        newest = sorted(await self._of(agent_id), key=lambda stored: stored.sequence, reverse=True)
        reloads = [stored.ref.name for stored in newest if stored.ref.before_reload]
        others = [stored.ref.name for stored in newest if not stored.ref.before_reload]
        kept = {*others[:keep], *reloads[:keep_reloads]}
        for name in await self._names(agent_id):
            if name not in kept:
                await self.delete(name)

    def _chunks(self, token: str) -> str:
        return f"$O.{self._bucket}.C.{token}"

    def _description(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _send(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        await self._jetstream.publish(
            subject, body, stream=self._stream, timeout=PUBLISH_TIMEOUT, headers=dict(headers or {})
        )
        end_if_cancelled()

    async def _names(self, agent_id: str) -> set[str]:
        """What an agent's snapshots are called, whole or not."""
        with _reachable(agent_id):
            info = await self._jetstream.stream_info(self._stream, subjects_filter=self._chunks(f"{agent_id}.*.*.*"))
        return {subject.removeprefix(self._chunks("")).rpartition(".")[0] for subject in info.state.subjects or {}}

    async def _of(self, agent_id: str) -> list[Stored]:
        """An agent's snapshots that are whole."""
        found = await asyncio.gather(*(self._stored(name) for name in await self._names(agent_id)))
        return [stored for stored in found if stored is not None]

    async def _stored(self, name: str) -> Stored | None:
        """Read what describes an object; None: there is none, or none of ours."""
        with _reachable(name):
            try:
                found = await self._jetstream.get_last_msg(self._stream, self._description(name))
            except NotFoundError:
                return None
        try:
            about = json.loads(found.data or b"")
            if about.get("deleted"):  # by another client, which leaves a description behind
                return None
            ref = SnapshotRef.model_validate_json(about["metadata"][REFERENCE])
            return Stored(found.seq or 0, ref, str(about["nuid"]), int(about["chunks"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    async def _read(self, stored: Stored) -> bytes | None:
        """Its bytes, chunk by chunk, from the stream's leader: no follower that lags, no consumer left behind."""
        chunks, after = list[bytes](), 0
        with _reachable(stored.ref.name):
            for _ in range(stored.chunks):
                try:
                    chunk = await self._jetstream.get_msg(
                        self._stream, after + 1, self._chunks(stored.token), next=True
                    )
                except NotFoundError:
                    return None
                chunks.append(chunk.data or b"")
                after = chunk.seq or 0
                end_if_cancelled()
        return b"".join(chunks)


def _about(ref: SnapshotRef, bucket: str, token: str, size: int, chunks: int) -> dict[str, Any]:
    """Describe an object, in ADR-20's words."""
    return {
        "name": ref.name,
        "bucket": bucket,
        "nuid": token,
        "size": size,
        "chunks": chunks,
        "digest": f"SHA-256={base64.urlsafe_b64encode(bytes.fromhex(ref.sha256)).decode()}",
        "mtime": datetime.now(UTC).isoformat(),
        "metadata": {REFERENCE: ref.model_dump_json()},
        "options": {"max_chunk_size": CHUNK},
    }


@contextmanager
def _reachable(what: str) -> Iterator[None]:
    """Whatever keeps NATS from answering may be over soon."""
    try:
        yield
    except (NatsError, OSError, TimeoutError) as error:
        raise Transient(f"snapshot {what}: NATS does not answer ({type(error).__name__})") from error
