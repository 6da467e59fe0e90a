"""A worker process: FastStream's handlers, long tasks, /health, /ready and /metrics, and a graceful end."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.nats import NatsBroker, NatsRouter
from faststream.nats.security import NatsNKey, NatsSecurity
from nats.errors import Error as NatsError
from prometheus_client import make_asgi_app

from tars import __version__
from tars.runtime import metrics
from tars.runtime.access import Access, access_of
from tars.runtime.bus import LASTING, Bus, connect_bus
from tars.runtime.cancellation import end_if_cancelled
from tars.runtime.delivery import Delivery
from tars.runtime.id_tokens import IdTokens, rules_of
from tars.runtime.journal import Journal
from tars.runtime.outages import until_possible
from tars.runtime.provision import check_provisioned
from tars.runtime.rate_limit import RateLimit
from tars.runtime.refusals import Refusals
from tars.runtime.settings import Settings
from tars.runtime.signing import TrustFile
from tars.runtime.vouching import Vouching
from tars.schemas.errors import TarsError

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds that a stopping worker gives to what it is doing."""


class CannotListen(TarsError):
    """The address is none of this machine's, or it has no free port."""


LongTask = Callable[["Worker"], Awaitable[None]]


@dataclass
class Worker:
    """One process, named for its role: what it handles, what it runs, and what others may ask it over HTTP."""

    name: str
    settings: Settings
    durables: Sequence[str] = ()
    """What it works on; missing ones stop the start."""
    buckets: Sequence[str] = ()
    """Object stores that it reads or keeps; missing ones stop the start."""
    routers: Sequence[NatsRouter] = ()
    tasks: Sequence[LongTask] = ()
    """Run until the worker stops; one that ends with an error ends the worker, which its supervisor restarts."""
    context: Mapping[str, Any] = field(default_factory=dict)
    """What handlers ask for by `Context()`, besides settings, bus and journal."""
    is_ready: Callable[[], bool] = lambda: True
    on_reconnect: Callable[[], Awaitable[None]] | None = None
    bus: Bus = field(init=False)
    _up: bool = field(init=False, default=False)

    async def serve(self, port: int, *, started: Callable[[int], None] | None = None) -> None:
        """Serve HTTP at once, connect when NATS is there, and work until SIGTERM or SIGINT.

        port: the documented one, or 0; when it is taken a free one is used. `started` hears which.
        """
        metrics.describe(self.name, __version__)
        with listen(port, self.settings.listen_address) as listening:
            if started is not None:
                started(listening.getsockname()[1])
            log.info("listening", extra={"worker": self.name, "port": listening.getsockname()[1]})
            await self._serve(listening)

    async def _serve(self, listening: socket.socket) -> None:
        broker = self._broker()
        server = uvicorn.Server(uvicorn.Config(self._app(broker), lifespan="off", log_config=None, access_log=False))
        http = asyncio.create_task(server.serve(sockets=[listening]))
        work = asyncio.create_task(self._work(broker))
        try:
            await asyncio.wait({http, work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            server.should_exit = True
            results = await asyncio.gather(work, http, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _work(self, broker: NatsBroker) -> None:
        access = access_of(self.settings, self.name)
        self.bus = await connect_bus(self.settings.nats, self.name, access=access, on_reconnect=self.on_reconnect)
        limit = RateLimit.of(self.settings)
        try:
            await until_possible(lambda: check_provisioned(self.bus.jetstream, self.durables, self.buckets))
            for key, value in (self._context() | {"rate_limit": limit}).items():
                broker.context.set_global(key, value)
            await broker.start()
            end_if_cancelled()  # connecting may have swallowed it
            self._up = True
            async with asyncio.TaskGroup() as group:
                for task in self.tasks:
                    group.create_task(task(self))  # type: ignore[arg-type] # an async function's awaitable is a coroutine
                await asyncio.Event().wait()  # handlers work until the process is stopped
        finally:
            self._up = False
            await broker.stop()
            await limit.close()
            await self.bus.close()

    def _context(self) -> dict[str, Any]:
        own = {"settings": self.settings, "bus": self.bus, "journal": Journal(self.bus)}
        own["trust"] = trust = TrustFile(self.settings.trust)
        rules = rules_of(self.settings)
        own["vouching"] = Vouching(trust, IdTokens(rules) if rules else None)
        return own | {"ack_wait": self.settings.ack_wait_seconds} | dict(self.context)

    def _broker(self) -> NatsBroker:
        access, refusals = access_of(self.settings, self.name), Refusals(self.name)

        async def failed(error: Exception) -> None:
            refusals.hear(error)

        broker = NatsBroker(
            self.settings.nats.split(","),
            name=self.name,
            security=_security(access, self.settings.nats),
            inbox_prefix=access.inbox,
            error_cb=failed,
            **LASTING,
            # It only asks for messages and acknowledges. Refused at once while NATS is away, as the bus's sending is,
            # a request would end FastStream's loop, which starts a new one at once and keeps every old one's task.
            graceful_timeout=GRACE,
            logger=None,
            # Nothing of FastStream's telemetry: it labels series and spans with whole subjects, ids included, for ever.
            middlewares=(Delivery,),  # type: ignore[arg-type] # a class is a factory of itself
        )
        broker.include_routers(*self.routers)
        return broker

    def _app(self, broker: NatsBroker) -> AsgiFastStream:
        @get
        async def health(scope: object) -> AsgiResponse:  # noqa: ARG001 - FastStream's signature
            """The event loop turns."""
            return AsgiResponse(b"ok", 200)

        @get
        async def ready(scope: object) -> AsgiResponse:  # noqa: ARG001
            """Connected, its durables answer, and it says so itself."""
            fit = await self._is_fit()
            return AsgiResponse(b"ready" if fit else b"not ready", 200 if fit else 503)

        routes = (("/health", health), ("/ready", ready), ("/metrics", make_asgi_app(metrics.REGISTRY)))
        return AsgiFastStream(broker, logger=None, asgi_routes=routes)

    async def _is_fit(self) -> bool:
        if not (self._up and self.bus.client.is_connected and self.is_ready()):
            return False
        try:
            async with asyncio.timeout(1):
                await check_provisioned(self.bus.jetstream, self.durables, self.buckets)
        except (NatsError, TarsError, TimeoutError, OSError):
            return False
        return True


def _security(access: Access, url: str) -> NatsSecurity | None:
    """What FastStream takes of it, beside the inbox."""
    seed, context = access.seed(url), access.context(url)
    if seed:
        return NatsNKey.from_seed(seed, ssl_context=context)
    return NatsSecurity(ssl_context=context) if context else None


def listen(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Listen at `port`, or on a free port where it is taken; raises CannotListen when nothing is free there."""
    why: OSError | None = None
    for candidate in (port, 0):
        try:
            return socket.create_server(
                (address, candidate), family=socket.AF_INET6 if ":" in address else socket.AF_INET
            )
        except OSError as error:
            why = error
            log.info("port is taken", extra={"port": candidate, "error": error.strerror})
    raise CannotListen(f"nothing can listen on {address} ({why}): set LISTEN_ADDRESS to an address of this machine")


def run_worker(worker: Worker, port: int) -> None:
    """Run until a signal; uvicorn hears SIGTERM and SIGINT."""
    asyncio.run(worker.serve(port))
