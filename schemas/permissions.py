"""What NATS lets each role publish and hear, derived from its rights in `schemas/streams.py`. Pure.

An allow list denies everything else. Three rules keep the roles apart: durables are made beforehand, so no worker may
make one; each role has an inbox of its own, so none hears another's replies; and only the inboxes of those whom workers
answer lie below `tars.reply.`, where workers may publish.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from tars.schemas.streams import BUCKETS, DURABLES, ROLES, STREAMS, Rights

REPLY_PREFIX: Final = "tars.reply."
"""Where answers of workers go."""


HEADING: Final = """\
# Who may do what, made from schemas/streams.py by `tars keys nats --permissions`: to be included in a configuration.
# What is not listed is refused.
"""


@dataclass(frozen=True)
class Permissions:
    """The subjects of a user of a NATS server; all others are refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def inbox_of(role: str) -> str:
    """Return where a role hears its replies: the beginning of their subjects, without the last dot."""
    return f"{REPLY_PREFIX}{role}" if ROLES[role].is_answered else f"_INBOX_{role}"


def permissions_of(role: str) -> Permissions:
    """Return all that a role needs for its whole work, and nothing else."""
    rights = ROLES[role]
    publish = (
        *rights.publishes,
        *(subject for name in rights.durables for subject in _working(name)),
        *(subject for name in rights.reads for subject in _reading(name)),
        *(subject for name in rights.keeps for subject in _keeping(name)),
        *(_measuring() if rights.measures else ()),
    )
    subscribe = (f"{inbox_of(role)}.>", *rights.hears, *_live(rights))
    return Permissions(tuple(dict.fromkeys(publish)), tuple(dict.fromkeys(subscribe)))


def _working(durable: str) -> tuple[str, ...]:
    """Fetch, settle, and put aside in DEAD what cannot be used."""
    stream = DURABLES[durable].stream
    return (
        f"$JS.API.CONSUMER.INFO.{stream}.{durable}",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}",
        f"$JS.ACK.{stream}.{durable}.>",
        f"tars.dead.{stream}.{durable}",
    )


def _reading(name: str) -> tuple[str, ...]:
    if name in BUCKETS:
        stream = BUCKETS[name].stream
        return f"$JS.API.STREAM.INFO.{stream}", f"$JS.API.STREAM.MSG.GET.{stream}"
    return f"$JS.API.STREAM.INFO.{name}", f"$JS.API.STREAM.MSG.GET.{name}", f"$JS.API.DIRECT.GET.{name}"


def _keeping(name: str) -> tuple[str, ...]:
    return (*BUCKETS[name].subjects, f"$JS.API.STREAM.PURGE.{BUCKETS[name].stream}")


def _measuring() -> tuple[str, ...]:
    durables = (f"$JS.API.CONSUMER.INFO.{durable.stream}.{durable.name}" for durable in DURABLES.values())
    streams = (*STREAMS, *(bucket.stream for bucket in BUCKETS.values()))
    return ("$JS.API.INFO", *(f"$JS.API.STREAM.INFO.{name}" for name in streams), *durables)


def _live(rights: Rights) -> tuple[str, ...]:
    """Who may read a stream may also hear it, and what is sent on from it."""
    streams = [STREAMS[name] for name in rights.reads if name in STREAMS]
    heard = [subject for stream in streams for subject in stream.subjects]
    return (*heard, *(stream.republish[1] for stream in streams if stream.republish))


def variable_of(role: str) -> str:
    """Name the variable in a server's environment that holds the public key of a role."""
    return f"NK_{role.upper()}"


def accounts(key_of: Callable[[str], str] = lambda role: f"${variable_of(role)}") -> str:
    """Write the part of a nats-server's configuration that says who may do what.

    key_of: role -> its public NKey; unset: the server takes them from its environment, and the text holds no key.
    """
    users = "\n".join(_user(role, key_of(role)) for role in ROLES)
    return f"{HEADING}authorization {{\n  timeout: 2\n  users: [\n{users}\n  ]\n}}\n"


def _user(role: str, key: str) -> str:
    found = permissions_of(role)
    return (
        f"    # {role}: {ROLES[role].why}\n"
        f"    {{ nkey: {key}, permissions: {{\n"
        f"        publish: {{ allow: [\n{_listed(found.publish)}\n        ] }}\n"
        f"        subscribe: {{ allow: [\n{_listed(found.subscribe)}\n        ] }} }} }}"
    )


def _listed(subjects: Iterable[str]) -> str:
    return "\n".join(f'          "{subject}"' for subject in subjects)
