"""What `tars doctor` asks servers: NATS, JetStream, streams, clock, rights, who works, dead letters; and Redis."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import redis.asyncio
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js.api import StreamInfo
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError
from redis.exceptions import RedisError

from tars.cli.finding import Finding, look, ok, wrong
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.producers.commands import endpoints, nats_address
from tars.runtime.access import BadSeed, access_of
from tars.runtime.bus import Bus, NotAdmitted, Unreachable, connect_bus, copies_away
from tars.runtime.journal import Journal
from tars.runtime.provision import differences
from tars.runtime.refusals import NotPermitted
from tars.runtime.settings import Settings, bare
from tars.schemas.counting import counted
from tars.schemas.errors import Transient
from tars.schemas.message import By
from tars.schemas.streams import BUCKETS, DURABLES, ROLES, STREAMS

PATIENCE: Final = 3.0
ASK_SECONDS: Final = 2.0
LOOKS: Final = 5
"""Times, 0.4 s apart, that a durable is looked at: workers ask for a second at a time, with gaps."""
OLDEST: Final = (2, 14)
"""NATS: first with what streams and consumers are made with."""
SKEW: Final = 2.0
TOO_MUCH_SKEW: Final = 20.0
"""Seconds: a person's command has a deadline of 60."""
ELSEWHERE: Final = "TARS-DOCTOR"
"""A stream that there is not: a message for it is refused by whoever may take it, and stored by nobody."""
Check = Callable[[Bus, Settings], AsyncIterator[Finding]]


async def nats_findings(settings: Settings) -> list[Finding]:
    """Everything that NATS is asked; one finding alone where it does not answer."""
    url = nats_address(settings)
    try:
        bus = await connect_bus(url, "doctor", access=access_of(settings, "person"), patience=PATIENCE)
    except (NotAdmitted, BadSeed) as error:
        return [wrong("NATS", *str(error).split(": ", 1))]
    except Unreachable:
        return [wrong("NATS", f"no server answers at {bare(url)}", "start one with `tars up`, or set NATS_URL")]
    try:
        return [finding for check in CHECKS async for finding in _safely(check, bus, settings)]
    finally:
        await bus.close()


async def _safely(check: Check, bus: Bus, settings: Settings) -> AsyncIterator[Finding]:
    """What a check finds; where the server does not answer it, that."""
    about = check.__name__.replace("_", " ")
    try:
        async for finding in check(bus, settings):
            yield finding
    except (NatsError, Transient, TimeoutError, OSError) as error:
        why = f"not answered ({type(error).__name__}: {error})".replace(": )", ")")
        yield wrong(about, why, "may this user ask it? See the server's log, and its permissions")


async def server(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """Version and distance."""
    began = time.perf_counter()
    await bus.client.flush()
    distance = 1000 * (time.perf_counter() - began)
    version = bus.client.connected_server_version
    url = bus.client.connected_url
    number = f"{version.major}.{version.minor}.{version.patch}"
    told = f"{url.netloc.rpartition('@')[2] if url else '-'}, version {number}, {distance:.1f} ms away"
    if (version.major, version.minor) < OLDEST:
        yield wrong("NATS", told, f"TARS needs {OLDEST[0]}.{OLDEST[1]} or newer: upgrade the server")
    else:
        yield ok("NATS", told)


async def jetstream(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """Whether it is on, and how full."""
    try:
        info = await bus.jetstream.account_info()
    except (ServiceUnavailableError, NoRespondersError):
        yield wrong("JetStream", "it is off", "start nats-server with -js, or deploy/nats/server.conf")
        return
    limit = info.limits.max_storage
    told = f"{info.streams} streams, {info.storage / (1 << 20):.0f} MiB stored"
    if limit > 0 and info.storage > 0.9 * limit:
        yield wrong("JetStream", f"{told}, of {limit / (1 << 20):.0f} MiB", "give the account more storage")
    else:
        yield ok("JetStream", told)


async def streams(bus: Bus, settings: Settings) -> AsyncIterator[Finding]:
    """Streams and durables against the declaration."""
    wanted, replicas = settings.ack_wait_seconds, settings.stream_replicas
    found = await differences(bus.jetstream, ack_wait=wanted, replicas=replicas)
    missing = [name for name, what in found.items() if what == "missing"]
    differ = [f"{name} ({what})" for name, what in found.items() if what != "missing"]
    if missing:
        yield wrong("streams", f"missing: {', '.join(missing)}", "run `tars provision`")
    if differ:
        todo = "run `tars provision`, where the settings here are those that are meant"
        yield look("streams", f"not as declared: {', '.join(differ)}", todo)
    if not found:
        yield ok("streams", "all streams and durables are as declared")
    if replicas > 1 and "REPORTS" not in missing and (await bus.stream("REPORTS")).config.num_replicas == 1:
        todo = "docs/operations.md, Capacity: how to make it anew"
        yield look("REPORTS", "it has one copy, as when it was made: without its server, rollouts wait", todo)


async def copies(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """Whether a server is away that should have copies: the next one that goes takes the ledger with it."""
    infos: dict[str, StreamInfo] = {}
    for name in (*STREAMS, *(bucket.stream for bucket in BUCKETS.values())):
        with suppress(NotFoundError):  # it is missing: `streams` says so
            infos[name] = await bus.stream(name)
    if all(info.config.num_replicas == 1 for info in infos.values()):
        return
    away = {name: copies_away(info) for name, info in infos.items()}
    if servers := sorted({server for found in away.values() for server in found}):
        lacking = ", ".join(name for name, found in away.items() if found)
        todo = "start it again, or docs/operations.md, TarsCopiesAway"
        yield look("copies", f"{', '.join(servers)} has not all of {lacking}", todo)
    else:
        yield ok("copies", "all are on servers that keep up")


async def clock(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """The server's clock against ours: deadlines are made by one and judged by another."""
    before = datetime.now(UTC)
    answer = await bus.client.request("$JS.API.STREAM.INFO.EVENTS", b"", timeout=ASK_SECONDS)
    after = datetime.now(UTC)
    stamp = json.loads(answer.data).get("ts")
    if stamp is None:
        return
    at = datetime.fromisoformat(stamp)
    yield skewed((at - (before + (after - before) / 2)).total_seconds())


def skewed(skew: float) -> Finding:
    """What it means that the server's clock is so many seconds ahead of ours."""
    told = f"{abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the server's"
    if abs(skew) >= TOO_MUCH_SKEW:
        return wrong("clock", told, "set this machine's clock, by NTP: commands from here are late, or count too long")
    if abs(skew) >= SKEW:
        return look("clock", told, "set this machine's clock, by NTP")
    return ok("clock", f"within {max(abs(skew), 0.1):.1f} s of the server's")


async def rights(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """Whether this connection may do what a person does; nothing is stored by asking."""
    lacking = [p for p in ROLES["person"].publishes if p.startswith("tars.command.") and not await _may_send(bus, p)]
    try:
        await Journal(bus).read("update", "doctor")
    except (NatsError, Transient, TimeoutError, NotPermitted):
        lacking.append("reading EVENTS")
    if lacking:
        todo = "use another user in NATS_URL, or give this one the rights of the role person (schemas/streams.py)"
        yield wrong("rights", f"this connection may not: {', '.join(lacking)}", todo)
    else:
        yield ok("rights", "this connection may send commands and read the ledger")


async def _may_send(bus: Bus, pattern: str) -> bool:
    subject = pattern.replace(">", "doctor.v1.doctor")
    try:
        await bus.jetstream.publish(subject, b"", stream=ELSEWHERE, timeout=ASK_SECONDS)
    except APIError:
        return True  # it came to the server, which would not store it
    except (NatsError, TimeoutError, NotPermitted):
        return False
    return True


async def workers(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """Whether somebody works on each durable, and answers queries."""
    busy = await asyncio.gather(*(_is_worked_on(bus, durable.stream, name) for name, durable in DURABLES.items()))
    idle_ones = [name for name, worked_on in zip(DURABLES, busy, strict=True) if not worked_on]
    absent = {name: next(r for r, rights in ROLES.items() if name in rights.durables) for name in idle_ones}
    for role in dict.fromkeys(absent.values()):
        idle = ", ".join(name for name, of in absent.items() if of == role)
        yield look(role, f"nobody works on {idle}", f"start one, or one more: `tars run {role}`")
    try:
        agents = await AsyncClient(bus, By(principal="doctor")).query("agents")
    except NobodyAnswers as error:
        yield wrong("consumers", *str(error).split(": ", 1))
    else:
        working = [role for role, rights in ROLES.items() if rights.durables and role not in absent.values()]
        running = sum(agent.state == "running" for agent in agents)
        yield ok("workers", f"{', '.join((*working, 'consumers'))} at work; {running} live agents")


async def _is_worked_on(bus: Bus, stream: str, name: str) -> bool:
    for _ in range(LOOKS):
        info = await bus.jetstream.consumer_info(stream, name)
        if info.num_waiting or info.num_ack_pending:
            return True
        await asyncio.sleep(0.4)
    return False


async def dead_letters(bus: Bus, _: Settings) -> AsyncIterator[Finding]:
    """Whether something was put aside."""
    count = (await bus.stream("DEAD")).state.messages
    if count:
        todo = "docs/operations.md, TarsDeadLetters: reasons, and how to send one again"
        yield look("dead letters", f"{counted(count, 'message')} could not be handled", todo)
    else:
        yield ok("dead letters", "none")


CHECKS: Final[tuple[Check, ...]] = (server, jetstream, streams, copies, clock, rights, workers, dead_letters)


async def redis_finding(settings: Settings) -> Finding:
    """Whether Redis answers; the page does without it."""
    if not settings.use_redis:
        return ok("Redis", "not used: USE_REDIS=false")
    url = settings.redis_url or str(endpoints(settings.tars_data).get("redis") or settings.redis)
    where = bare(url)
    client = redis.asyncio.Redis.from_url(url, socket_timeout=ASK_SECONDS, socket_connect_timeout=ASK_SECONDS)
    try:
        info: dict[str, Any] = await client.info("server")
    except (RedisError, OSError) as error:
        told = f"{where} does not answer ({type(error).__name__}); the page asks the consumers meanwhile"
        return look("Redis", told, "start it, or set REDIS_URL or USE_REDIS=false")
    finally:
        await client.aclose()
    valkey = info.get("valkey_version")
    version = f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version')}"
    return ok("Redis", f"{where}, {version}")
