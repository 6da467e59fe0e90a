"""Keys, the trust file, signing and verifying; called at the edge, while facts are gathered, never in a core.

A key file is JSON, readable by its owner alone. A trust file is TOML, written by whoever runs TARS, one table a key:

    [[principal]]
    name = "ada"
    key = "<32 bytes in base64>"
    roles = ["proposer", "approver"]
"""

import base64
import json
import os
import stat
import tomllib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from tars.runtime.settings import Settings
from tars.schemas.errors import TarsError, complaints
from tars.schemas.message import Login, Principal, Role, Signed
from tars.schemas.trust import Trust, TrustedKey, key_id

KEY_HEADER: Final = "Tars-Key"
SIGNATURE_HEADER: Final = "Tars-Signature"
LOGIN_HEADER: Final = "Tars-On-Behalf"
"""Of a gateway's command: whom it speaks for."""
TOKEN_HEADER: Final = "Tars-Id-Token"  # noqa: S105 - a header's name
"""Of a gateway's command: what proves that. Read by who decides; kept nowhere."""
TRUST: Final = "trust.toml"
"""Name of the trust file in a data folder."""
OPERATOR: Final = "operator"
"""Name of the key file of whoever runs `tars up`."""
PAGE: Final = "page"
"""Name of the key file of a page at which people log in."""
OPERATOR_ROLES: Final[tuple[Role, ...]] = ("viewer", "proposer", "approver")
HOW: Final = "set TARS_DATA to the folder of `tars up`, or TARS_KEY to a key file (`tars keys new`)"


class BadKey(TarsError):
    """A key file cannot be used; the message says which, why, and what to do."""


class BadTrust(TarsError):
    """A trust file cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class Signer:
    """A private key, and whose it is."""

    name: Principal
    private: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The public key's 32 bytes."""
        return self.private.public_key().public_bytes_raw()

    def sign(self, command_id: str, subject: str, body: bytes, on_behalf: str | None = None) -> dict[str, str]:
        """Return the headers that vouch for a command."""
        key, text = key_id(self.public), body.decode()
        signed = Signed(key=key, id=command_id, subject=subject, body=text, signature="", on_behalf=on_behalf)
        signature = base64.b64encode(self.private.sign(signed.covered)).decode()
        return {KEY_HEADER: signed.key, SIGNATURE_HEADER: signature}

    def trusted(self, roles: frozenset[Role]) -> TrustedKey:
        """Return the line of a trust file for this key."""
        return TrustedKey(name=self.name, key=base64.b64encode(self.public).decode(), roles=roles)


class Signs(Protocol):
    """Vouches for commands: a Signer, or a Gateway."""

    def sign(self, command_id: str, subject: str, body: bytes) -> dict[str, str]:
        """Return the headers that vouch for a command."""


@dataclass(frozen=True)
class Gateway:
    """A page's key, and whoever it speaks for."""

    signer: Signer
    login: Login
    token: str
    """The id token that says so."""

    def sign(self, command_id: str, subject: str, body: bytes) -> dict[str, str]:
        """Return the headers that vouch for a command of who logged in."""
        said = self.login.canonical().decode()
        return self.signer.sign(command_id, subject, body, said) | {LOGIN_HEADER: said, TOKEN_HEADER: self.token}


def new_signer(name: str) -> Signer:
    """Draw a key."""
    return Signer(name, Ed25519PrivateKey.generate())


def write_key(path: Path, signer: Signer) -> None:
    """Write a key file that nobody else can read; raises BadKey where there is a file already."""
    secret = base64.b64encode(signer.private.private_bytes_raw()).decode()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise BadKey(f"{path} is there already: choose another name, or remove it first") from error
    with os.fdopen(descriptor, "w") as file:
        json.dump({"name": signer.name, "private": secret}, file)


def read_key(path: Path) -> Signer:
    """Read a key file; raises BadKey, also when others can read it."""
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise BadKey(f"{path} can be read by others: chmod 600 {path}, and make a new key if they may have")
        found = json.loads(path.read_text())
        return Signer(str(found["name"]), Ed25519PrivateKey.from_private_bytes(base64.b64decode(found["private"])))
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadKey(f"{path} is no key file: make one with `tars keys new`") from error


def read_trust(path: Path) -> Trust:
    """Read a trust file; raises BadTrust, also when anybody may write to it."""
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise BadTrust(f"{path} can be written by anybody: chmod o-w {path}, and read what it says")
        return Trust.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise BadTrust(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise BadTrust(f"{path}: {'; '.join(complaints(error)[:5])}") from error
    except ValueError as error:
        raise BadTrust(f"{path} is no TOML: {error}") from error


def add_trust(path: Path, line: TrustedKey) -> None:
    """Add a key to a trust file, and make the file where there is none; raises BadTrust for a key that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else "# Who may do what; docs/security.md says how it is used.\n"
    roles = ", ".join(f'"{role}"' for role in sorted(line.roles))
    name = json.dumps(line.name, ensure_ascii=False)  # a TOML string, too
    table = f'\n[[principal]]\nname = {name}\nkey = "{line.key}"\nroles = [{roles}]\n'
    if path.exists() and read_trust(path).of(line.id) is not None:
        raise BadTrust(f"{path} has this key already")
    draft = path.with_name(f"{path.name}.new")
    draft.write_text(before + table)
    draft.chmod(0o644)
    read_trust(draft)  # what it cannot say is refused before it counts
    draft.replace(path)


class TrustFile:
    """A trust file as it stands, read again when it has changed; without one every command counts, as unsigned.

    One that was there and has gone, or cannot be used, lets nobody through: an error never lets more through.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = path.exists()
        self._read: tuple[tuple[int, int, int], Trust] | None = None

    def current(self) -> Trust | None:
        """Who is trusted now; None: there is no trust file. Raises BadTrust, also when one has gone."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            if not self._seen:
                return None
            raise BadTrust(f"{self.path} has gone: put it back, or start again without it") from None
        self._seen = True
        stamp = (found.st_mtime_ns, found.st_size, found.st_mode)
        if self._read is None or self._read[0] != stamp:
            self._read = (stamp, read_trust(self.path))
        return self._read[1]


def four_eyes(settings: Settings, file: TrustFile) -> bool:
    """Whether who proposed may not approve; auto: once signatures or logins tell two approvers apart."""
    if settings.four_eyes != "auto" or settings.oidc_issuer is not None:
        return settings.four_eyes != "off"
    try:
        trust = file.current()
    except BadTrust:
        return True
    return trust is not None and (len(trust.approvers) > 1 or trust.has_gateway)


def verify(signed: Signed, trust: Trust) -> TrustedKey | str:
    """Say whose signature this is, or why it is nobody's."""
    by = trust.of(signed.key)
    if by is None:
        return f"its key {signed.key} is nobody's in the trust file"
    try:
        signature = base64.b64decode(signed.signature, validate=True)
        Ed25519PublicKey.from_public_bytes(by.public).verify(signature, signed.covered)
    except (InvalidSignature, ValueError):
        return f"its signature is not {by.name}'s: it is forged, or the command was altered"
    # The last letter has bits that decode to nothing: one signature is to have one spelling.
    return by if base64.b64encode(signature).decode() == signed.signature else "its signature is not in plain base64"


def ensure_operator(folder: Path, name: str) -> None:
    """Make and trust the key of whoever runs `tars up` in a data folder; a trust file that is there stays as it is."""
    key = key_path(folder, OPERATOR)
    if (folder / TRUST).exists():
        return
    if not key.exists():
        write_key(key, new_signer(name))
    add_trust(folder / TRUST, read_key(key).trusted(frozenset(OPERATOR_ROLES)))


def ensure_page(folder: Path) -> None:
    """Make and trust the key of a page at which people log in, where a data folder has none."""
    key = key_path(folder, PAGE)
    if not key.exists():
        write_key(key, new_signer(PAGE))
    line = read_key(key).trusted(frozenset({"gateway"}))
    if read_trust(folder / TRUST).of(line.id) is None:
        add_trust(folder / TRUST, line)


def page_key(settings: Settings) -> Path:
    """Where the key is that the page signs with when people log in there."""
    return settings.tars_key or key_path(settings.tars_data, PAGE)


def signer_of(settings: Settings, user: str | None = None, key: Path | None = None) -> Signer | None:
    """Who signs from here: `key`, else TARS_KEY; else the data folder's key of `user`, or its operator's; None: nobody.

    Raises BadKey when the key that is meant cannot be used.
    """
    if chosen := key or settings.tars_key:
        return read_key(chosen)
    own, operator = (key_path(settings.tars_data, name) for name in (user or OPERATOR, OPERATOR))
    if own.is_file():
        return read_key(own)
    found = read_key(operator) if operator.is_file() else None
    return found if user is None or (found is not None and found.name == user) else None


def private_keys(folder: Path) -> dict[str, str]:
    """Which keys a data folder keeps: key id -> file; those that cannot be read are left out."""
    found = {}
    for path in sorted((folder / "keys").glob("*.key")):
        with suppress(BadKey):
            found[key_id(read_key(path).public)] = str(path)
    return found


def key_path(folder: Path, name: str) -> Path:
    """Where a data folder keeps a key."""
    return folder / "keys" / f"{name}.key"
