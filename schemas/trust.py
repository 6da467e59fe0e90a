"""Who may do what: names, keys and roles of a trust file, and the role that each command needs. Pure."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from tars.schemas.message import By, Command, Frozen, Login, Principal, Role, Signed
from tars.schemas.study import StartStudy, StopStudy
from tars.schemas.update import ApplyUpdate, ApproveUpdate, ProposeUpdate, RejectUpdate, RollBackUpdate

PUBLIC_KEY_BYTES: Final = 32

RIGHTS: Final[Mapping[type[Command], tuple[Role, ...]]] = {
    StartStudy: ("proposer",),
    StopStudy: ("proposer", "approver"),
    ProposeUpdate: ("proposer",),
    ApproveUpdate: ("approver",),
    RejectUpdate: ("proposer", "approver"),
    ApplyUpdate: ("approver",),
    RollBackUpdate: ("proposer", "approver"),
}
"""A role of which each command needs one. Ending something is no less allowed than beginning it."""


def key_id(public: bytes) -> str:
    """Name a public key."""
    return hashlib.sha256(public).hexdigest()[:32]


class TrustedKey(Frozen):
    """One line of a trust file: whose key it is, and what they may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Principal
    key: Annotated[str, StringConstraints(strip_whitespace=True)]
    """The public key, 32 bytes in base64."""
    roles: Annotated[frozenset[Role], Field(min_length=1)]

    @field_validator("key")
    @classmethod
    def _is_a_key(cls, key: str) -> str:
        try:
            public = base64.b64decode(key, validate=True)
        except binascii.Error as error:
            raise ValueError("it is no base64") from error
        if len(public) != PUBLIC_KEY_BYTES:
            raise ValueError(f"an ed25519 public key has {PUBLIC_KEY_BYTES} bytes, this one has {len(public)}")
        return key

    @property
    def public(self) -> bytes:
        """The key's bytes."""
        return base64.b64decode(self.key)

    @property
    def id(self) -> str:
        """Its name in headers and histories: half of its sha256, in hex."""
        return key_id(self.public)


class Trust(Frozen):
    """Everyone whose signature counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    principal: tuple[TrustedKey, ...] = ()
    """Several keys of one name are one person's."""

    @model_validator(mode="after")
    def _keys_differ(self) -> "Trust":
        if len({one.id for one in self.principal}) < len(self.principal):
            raise ValueError("a key is listed twice")
        return self

    def of(self, key: str) -> TrustedKey | None:
        """Whose key this is, by its id."""
        return next((one for one in self.principal if one.id == key), None)

    @property
    def approvers(self) -> frozenset[str]:
        """Names of those who may approve: two of them are four eyes."""
        return frozenset(one.name for one in self.principal if "approver" in one.roles)

    @property
    def has_gateway(self) -> bool:
        """Whether some page may speak for those who logged in."""
        return any("gateway" in one.roles for one in self.principal)


@dataclass(frozen=True)
class Sender:
    """Who sent a signed command: the owner of its key, or whoever a gateway speaks for."""

    name: Principal
    roles: frozenset[Role]
    login: Login | None = None

    @property
    def by(self) -> By:
        """The same, for histories."""
        return By(principal=self.name, signed=True, login=self.login)


def sender_of(signed: Signed, key: TrustedKey) -> Sender | str:
    """Say who sent what this key signed, or why that cannot be said; a gateway's word for who logged in is taken."""
    gateway = "gateway" in key.roles
    if signed.on_behalf is None:
        silent = f"{key.name} is a gateway: it speaks for those who logged in, and sent nobody's id token"
        return silent if gateway else Sender(key.name, key.roles)
    if not gateway:
        return f"{key.name} is no gateway: it may not speak for others"
    try:
        login = Login.model_validate_json(signed.on_behalf)
    except ValidationError:
        return f"what {key.name} says of whoever logged in cannot be read"
    return Sender(login.principal, frozenset(login.roles), login)


def lacks_right(kind: type[Command], roles: frozenset[Role]) -> str | None:
    """Say which role commands of this kind need that is none of these; None: one of them will do."""
    needed = RIGHTS.get(kind, ())
    return None if not roles.isdisjoint(needed) else " or ".join(needed)


def lacking_right(command: Command, by: Sender) -> str | None:
    """Why this sender may not send this command; None: it may."""
    needed = lacks_right(type(command), by.roles)
    return None if needed is None else f"{by.name} may not: {command.kind} needs the role {needed}"
