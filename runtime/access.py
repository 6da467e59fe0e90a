"""How a process shows itself to NATS: as which role, by which NKey, and whose certificates it believes.

An NKey's seed is a file of one line, as other NATS tools read it, readable by its owner alone.
"""

import logging
import os
import ssl
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nkeys

from tars.runtime.settings import Settings
from tars.schemas.errors import TarsError
from tars.schemas.permissions import inbox_of, variable_of
from tars.schemas.streams import ROLES

FOLDER: Final = "nats-keys"
"""Of a data folder: seeds of all roles, and the certificates of a secured server."""
AUTHORITY: Final = "ca.pem"
SECURE: Final = ("tls:", "wss:")
SEED_BYTES: Final = 32


class BadSeed(TarsError):
    """A seed file cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Access:
    """What a process of a role shows, and what it asks of the server."""

    role: str
    seed_file: Path | None = None
    """None: the server asks nobody who comes."""
    authority: Path | None = None
    """Certificates that vouch for the server; None: the system's."""
    system_too: bool = False
    """The system's certificates count beside `authority`."""

    @property
    def inbox(self) -> str:
        """Where replies to this role go, without the last dot."""
        return inbox_of(self.role)

    def connecting(self, url: str) -> dict[str, Any]:
        """Return what nats-py's `connect` takes for this; raises BadSeed."""
        seed, context = self.seed(url), self.context(url)
        options: dict[str, Any] = {"inbox_prefix": self.inbox.encode()}
        options |= {"nkeys_seed_str": seed} if seed else {}
        return options | ({"tls": context} if context else {})

    def seed(self, url: str) -> str | None:
        """Read the seed; None also where the address has a name and a password in it. Raises BadSeed."""
        return read_seed(self.seed_file) if self.seed_file and "@" not in url else None

    def context(self, url: str) -> ssl.SSLContext | None:
        """Say whom to believe; None: no TLS, or as nats-py does it by itself. Raises BadSeed."""
        if self.authority is None or not url.startswith(SECURE):
            return None
        try:
            context = ssl.create_default_context(cafile=None if self.system_too else str(self.authority))
            context.load_verify_locations(cafile=str(self.authority))
        except (OSError, ssl.SSLError) as error:
            raise BadSeed(f"{self.authority} is no file of certificates ({error}): set NATS_CA_FILE") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context


class _Farewell(logging.Filter):
    """asyncio warns at the end of each connection of nats-py's that speaks TLS, and nothing is wrong."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("returning true from eof_received()")


logging.getLogger("asyncio").addFilter(_Farewell())


def access_of(settings: Settings, role: str) -> Access:
    """Take NATS_NKEY_FILE and NATS_CA_FILE; where they are unset, what `tars up --secure` made in the data folder."""
    folder = settings.tars_data / FOLDER
    seed, authority = seed_path(folder, role), folder / AUTHORITY
    return Access(
        role,
        settings.nats_nkey_file or (seed if seed.is_file() else None),
        settings.nats_ca_file or (authority if authority.is_file() else None),
        system_too=settings.nats_ca_file is None,
    )


def keys_in(data: Path) -> Path | None:
    """Find what closes the NATS of a data folder; None: it was never started with `tars up --secure`."""
    return data / FOLDER if (data / FOLDER / AUTHORITY).is_file() else None


def seed_path(folder: Path, role: str) -> Path:
    """Where a folder of seeds keeps that of a role."""
    return folder / f"{role}.nk"


def read_seed(path: Path) -> str:
    """Read a seed; raises BadSeed, also when others can read it."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadSeed(f"{path} can be read by others: chmod 600 {path}, and make a new seed if they may have")
        seed = path.read_text().strip()
        nkeys.from_seed(bytearray(seed.encode())).wipe()
    except OSError as error:
        raise BadSeed(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, nkeys.NkeysError) as error:
        raise BadSeed(f"{path} is no NKey seed: make one with `tars keys nats`") from error
    return seed


def public_key(seed: str) -> str:
    """Return the public half of a seed: what a server's configuration names."""
    return str(nkeys.from_seed(bytearray(seed.encode())).public_key.decode())


def ensure_seeds(folder: Path, roles: Iterable[str] = ROLES) -> dict[str, str]:
    """Draw a seed for each role that has none in this folder; return the public keys of all, by role."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {}
    for role in roles:
        path = seed_path(folder, role)
        if not path.exists():
            _write_secret(path, nkeys.encode_seed(os.urandom(SEED_BYTES), nkeys.PREFIX_BYTE_USER))
        found[role] = public_key(read_seed(path))
    return found


def write_public(folder: Path, keys: Mapping[str, str]) -> Path:
    """Write the environment of a server whose configuration names the keys by variables; return the file."""
    file = folder / "nats.env"
    file.write_text("".join(f"{variable_of(role)}={key}\n" for role, key in keys.items()))
    return file


def _write_secret(path: Path, secret: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secret + b"\n")
    draft.replace(path)  # whole or not at all: half a seed would be refused for ever
