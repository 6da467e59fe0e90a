"""What a NATS server refuses a role: said in the log, and to whoever waits for an answer that will never come.

The server tells the connection, not the request: that alone would only time out.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError

from tars.schemas.errors import TarsError
from tars.schemas.permissions import inbox_of
from tars.schemas.streams import ROLES

log = logging.getLogger(__name__)

TOLD: Final = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)
VERBS: Final = {"publish": "publish to", "subscription": "subscribe to"}
SAY_AGAIN: Final = 60.0
"""Seconds until the log names the same refusal once more."""
NAMING_TOKENS: Final = 5
"""Tokens of a subject that say what it is; ids come after."""


class NotPermitted(TarsError, PermissionError):
    """A secured server lets this role not use a subject; the message says which, and which role."""


@dataclass(eq=False)
class _Waiting:
    """Somebody who waits for an answer."""

    timeout: asyncio.Timeout
    subjects: tuple[str, ...]
    refusal: str | None = None

    def refuse(self, refusal: str) -> None:
        """End the waiting, with the reason."""
        if self.refusal is None:
            self.refusal = refusal
            self.timeout.reschedule(asyncio.get_running_loop().time())


class Refusals:
    """Those of one connection. nats-py writes the subjects of refusals in lower case."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._inbox = f"{inbox_of(role).lower()}." if role in ROLES else None
        self._waiting: set[_Waiting] = set()
        self._said: dict[str, float] = {}
        self.deaf: str | None = None
        """Why no answer can come over this connection; None: they can."""

    @asynccontextmanager
    async def watched(self, *subjects: str) -> AsyncIterator[None]:
        """Raise NotPermitted as soon as one of these subjects is refused while the block waits for an answer."""
        if self.deaf is not None:
            raise NotPermitted(self.deaf)
        waiting = _Waiting(asyncio.timeout(None), subjects)
        self._waiting.add(waiting)
        try:
            async with waiting.timeout:
                yield
        except TimeoutError:
            if waiting.refusal is None:
                raise
            raise NotPermitted(waiting.refusal) from None
        finally:
            self._waiting.discard(waiting)

    def hear(self, error: Exception) -> bool:
        """Take what the server told the connection; say whether it is a refusal."""
        found = TOLD.search(str(error))
        if found is None:
            return False
        verb, subject = VERBS[found[1].lower()], found[2].lower()
        concerned = {each: name for each in self._waiting for name in each.subjects if name.lower() == subject}
        refusal = self._refusal(verb, next(iter(concerned.values()), found[2]))
        if self._inbox is not None and verb == VERBS["subscription"] and subject.startswith(self._inbox):
            self.deaf = refusal = f"{refusal}: is NATS_NKEY_FILE the seed of another role?"
            concerned = dict.fromkeys(self._waiting, subject)
        self._say(refusal, verb, next(iter(concerned.values()), found[2]))
        for each in concerned:
            each.refuse(refusal)
        return True

    def _refusal(self, verb: str, subject: str) -> str:
        return f"NATS does not let the role {self._role} {verb} {subject} (docs/security.md says who may)"

    def _say(self, refusal: str, verb: str, subject: str) -> None:
        what, now = f"{verb} {'.'.join(subject.split('.')[:NAMING_TOKENS])}", asyncio.get_running_loop().time()
        if now - self._said.get(what, -SAY_AGAIN) >= SAY_AGAIN:  # it may be asked for many times in a second
            self._said[what] = now
            log.error(refusal, extra={"role": self._role, "what": verb, "subject": subject})


class Unencrypted(NatsError):
    """A server whose address asks for TLS speaks in the clear: it has none, or somebody in between took it away."""


_process_info = Client._process_info  # noqa: SLF001


async def _encrypted(client: Client, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
    """Take what a server says of itself; raises Unencrypted before anything is sent to one that should speak TLS."""
    server, transport = client._current_server, client._transport  # noqa: SLF001
    scheme = server.uri.scheme if server else ""
    wanted = initial_connection and (scheme == "tls" or (scheme == "nats" and "tls" in client.options))
    if wanted and not info.get("tls_required"):
        if transport is not None:
            transport.close()  # type: ignore[no-untyped-call]
        raise Unencrypted("the server speaks no TLS, and its address asks for it")
    await _process_info(client, info, initial_connection)


# nats-py speaks TLS only where the server's first line, which comes in the clear, asks for it. Here for every client:
# the bus's and FastStream's, at their first connection and at all later ones.
Client._process_info = _encrypted  # type: ignore[method-assign,assignment] # noqa: SLF001


class PromptClient(Client):
    """nats-py's client, whose requests end at once when they are refused, and whose silent connections do too."""

    def __init__(self, refusals: Refusals) -> None:
        super().__init__()
        self.refusals = refusals

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 - nats-py's signature
        old_style: bool = False,  # noqa: FBT001, FBT002
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Publish and wait for the answer; raises NotPermitted beside what nats-py raises."""
        async with self.refusals.watched(subject):
            return await super().request(subject, payload, timeout, old_style, headers)

    async def _process_op_err(self, e: Exception) -> None:
        """Lose the connection; a peer that says nothing takes nothing: nats-py would wait until all is sent."""
        writer = getattr(self._transport, "_io_writer", None)
        if isinstance(e, StaleConnectionError) and writer is not None:
            writer.transport.abort()
        await super()._process_op_err(e)
