"""Streams, object stores and durables on the server: made by `tars provision`, only compared by workers."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    PersistMode,
    RePublish,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from tars.schemas.errors import TarsError
from tars.schemas.streams import BUCKETS, DURABLES, STREAMS, Bucket, Durable, Stream

DUPLICATE_WINDOW = 120.0
"""Seconds in which the same message id is stored once."""


AGAIN_SECONDS = 0.5


class CannotProvision(TarsError):
    """The server would not make what is needed; the message has its reason."""


class NotProvisioned(TarsError):
    """The server lacks a stream, an object store or a durable that this process works on."""


def stream_settings(stream: Stream, replicas: int) -> dict[str, Any]:
    """Return what is set, and compared, of a stream; the rest is the server's default."""
    settings: dict[str, Any] = {
        "subjects": list(stream.subjects),
        "storage": StorageType.FILE,
        "retention": RetentionPolicy.WORK_QUEUE if stream.retention == "workqueue" else RetentionPolicy.LIMITS,
        "max_age": stream.max_age,
        "max_bytes": stream.max_bytes,
        "max_msgs_per_subject": stream.max_msgs_per_subject,
        "max_msg_size": stream.max_msg_size,
        "allow_direct": True,
        "deny_delete": stream.append_only,
        "deny_purge": stream.append_only,
        "duplicate_window": DUPLICATE_WINDOW,
        "num_replicas": replicas,
    }
    if stream.allow_atomic:
        settings["allow_atomic"] = True
    if stream.asynchronous and replicas == 1:  # the server replicates nothing that it acknowledges so early
        settings["persist_mode"] = PersistMode.ASYNC
    if stream.republish:
        settings["republish"] = RePublish(src=stream.republish[0], dest=stream.republish[1])
    return settings


def bucket_settings(bucket: Bucket, replicas: int) -> dict[str, Any]:
    """Return what is set, and compared, of the stream behind an object store; as other clients make one."""
    return {
        "subjects": list(bucket.subjects),
        "storage": StorageType.FILE,
        "discard": DiscardPolicy.NEW,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
        "num_replicas": replicas,
    }


def durable_settings(durable: Durable, ack_wait: float) -> dict[str, Any]:
    """Return what is set, and compared, of a durable consumer."""
    one = len(durable.subjects) == 1
    settings: dict[str, Any] = {"filter_subject": durable.subjects[0]} if one else {}
    if not one:
        settings["filter_subjects"] = list(durable.subjects)
    return settings | {
        "ack_policy": AckPolicy.EXPLICIT,
        "ack_wait": ack_wait,
        "max_deliver": -1,  # how often is the delivery policy's business
        "max_ack_pending": durable.max_ack_pending,
    }


async def provision(jetstream: JetStreamContext, *, ack_wait: float, replicas: int = 1) -> dict[str, str]:
    """Make or change what is missing or differs; return what was done to each: created, changed or unchanged."""
    done = {}
    for name, wanted in _wanted(replicas).items():
        done[name] = await _ensure_stream(jetstream, name, wanted)
    for durable in DURABLES.values():
        wanted = durable_settings(durable, ack_wait)
        done[f"{durable.stream}/{durable.name}"] = await _ensure_durable(jetstream, durable, wanted)
    return done


async def differences(jetstream: JetStreamContext, *, ack_wait: float, replicas: int = 1) -> dict[str, str]:
    """What `provision` would do: name -> `missing`, or the settings that differ; empty: nothing."""
    found = {}
    for name, wanted in _wanted(replicas).items():
        try:
            have = (await jetstream.stream_info(name)).config
            drift = _drift(have, _as_made(have, wanted))
        except NotFoundError:
            drift = ["missing"]
        found[name] = ", ".join(drift)
    for durable in DURABLES.values():
        try:
            have = (await jetstream.consumer_info(durable.stream, durable.name)).config
            drift = _drift(have, durable_settings(durable, ack_wait))
        except NotFoundError:
            drift = ["missing"]
        found[f"{durable.stream}/{durable.name}"] = ", ".join(drift)
    return {name: what for name, what in found.items() if what}


def _wanted(replicas: int) -> dict[str, dict[str, Any]]:
    """Every stream by name, object stores' too, and its settings."""
    streams = {stream.name: stream_settings(stream, replicas) for stream in STREAMS.values()}
    return streams | {bucket.stream: bucket_settings(bucket, replicas) for bucket in BUCKETS.values()}


def _as_made(have: StreamConfig, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The server lets nobody change whether a stream is acknowledged before it is on disk: as it was made, it stays."""
    if have.persist_mode == PersistMode.ASYNC:
        return {**wanted, "persist_mode": PersistMode.ASYNC, "num_replicas": 1}
    return {key: value for key, value in wanted.items() if key != "persist_mode"}


def _drift(have: StreamConfig | ConsumerConfig, wanted: Mapping[str, Any]) -> list[str]:
    """Names of the settings that differ."""
    return [key for key, value in wanted.items() if getattr(have, key) != value]


async def provision_in_time(
    jetstream: JetStreamContext, seconds: float, *, ack_wait: float, replicas: int
) -> dict[str, str]:
    """Provision, again and again for so long: servers that come up have no leader at first. Raises CannotProvision."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while True:
        try:
            return await provision(jetstream, ack_wait=ack_wait, replicas=replicas)
        except (NatsError, TimeoutError) as error:
            if clock() >= end:
                raise CannotProvision(f"not provisioned after {seconds:g} s: {error}") from error
        await asyncio.sleep(AGAIN_SECONDS)


async def _ensure_stream(jetstream: JetStreamContext, name: str, wanted: Mapping[str, Any]) -> str:
    try:
        have = (await jetstream.stream_info(name)).config
    except NotFoundError:
        await jetstream.add_stream(StreamConfig(name=name, **wanted))
        return "created"
    wanted = _as_made(have, wanted)
    drift = _drift(have, wanted)
    if not drift:
        return "unchanged"
    await jetstream.update_stream(
        have.evolve(**{key: wanted[key] for key in drift})
    )  # over the live configuration, never over client defaults
    return "changed"


async def _ensure_durable(jetstream: JetStreamContext, durable: Durable, wanted: Mapping[str, Any]) -> str:
    try:
        have = (await jetstream.consumer_info(durable.stream, durable.name)).config
        if not _drift(have, wanted):
            return "unchanged"
        done = "changed"
    except NotFoundError:
        done = "created"
    config = ConsumerConfig(name=durable.name, durable_name=durable.name, **wanted)
    await jetstream.add_consumer(durable.stream, config)
    return done


async def check_provisioned(jetstream: JetStreamContext, durables: Iterable[str], buckets: Iterable[str] = ()) -> None:
    """Raise NotProvisioned when a durable or an object store that this process works on is missing, or its stream."""
    missing = []
    for name in buckets:
        try:
            await jetstream.stream_info(BUCKETS[name].stream)
        except NotFoundError:
            missing.append(name)
    for name in durables:
        try:
            await jetstream.consumer_info(DURABLES[name].stream, name)
        except NotFoundError:
            missing.append(f"{DURABLES[name].stream}/{name}")
    if missing:
        raise NotProvisioned(f"the server has no {', '.join(missing)}: run `tars provision`")
