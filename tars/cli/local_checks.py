"""What `tars doctor` looks at on this machine: versions, keys and trust file, ports, disk."""

import platform
import shutil
import socket
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from packaging.requirements import Requirement

from tars import __version__
from tars.cli.finding import Finding, look, ok, wrong
from tars.producers.commands import endpoints
from tars.runtime import signing
from tars.runtime.settings import Settings
from tars.runtime.stack import PORTS
from tars.schemas.trust import RIGHTS, Trust

PACKAGE: Final = "tars-rl"
ENOUGH: Final = 1 << 30
PLENTY: Final = 5 << 30
"""Bytes: with less than ENOUGH free, servers stop storing soon."""


def local_findings(settings: Settings) -> list[Finding]:
    """Everything that needs no server."""
    return [*versions(), *keys(settings), *trust(settings), *ports(settings), disk(settings)]


def versions() -> Iterator[Finding]:
    """TARS, Python, and whether the libraries fit."""
    yield ok("TARS", f"{__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    try:
        needs = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        yield look("libraries", f"{PACKAGE} is not installed here", f"pip install {PACKAGE}, so that versions are kept")
        return
    own = [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    bad = [told for need in own if (told := _unfit(need))]
    if bad:
        yield wrong("libraries", "; ".join(bad), f"pip install --upgrade {PACKAGE}")
    else:
        have = ", ".join(f"{need.name} {metadata.version(need.name)}" for need in own)
        yield ok("libraries", have)
    yield ok("extras", _extras(needs))


def _unfit(need: Requirement) -> str:
    """Why what is installed does not do; empty: it does."""
    try:
        have = metadata.version(need.name)
    except metadata.PackageNotFoundError:
        return f"{need.name} is missing"
    return "" if need.specifier.contains(have, prereleases=True) else f"{need.name} {have} is not {need.specifier}"


def _extras(needs: list[Requirement]) -> str:
    """Which optional parts run here, by what they need beside the rest."""
    parts: dict[str, list[Requirement]] = {}
    for extra in metadata.metadata(PACKAGE).get_all("Provides-Extra") or ():
        of_it = [n for n in needs if n.marker and n.marker.evaluate({"extra": extra}) and n.name != PACKAGE]
        if of_it and extra not in {"all", "dev"}:
            parts[extra] = of_it
    here = [extra for extra, wanted in parts.items() if not any(map(_unfit, wanted))]
    absent = [extra for extra in parts if extra not in here]
    return f"{', '.join(here) or 'none'}" + (f"; not installed: {', '.join(absent)}" if absent else "")


def keys(settings: Settings) -> Iterator[Finding]:
    """Whether key files can be used, and whose key signs from here."""
    for path in sorted((settings.tars_data / "keys").glob("*.key")):
        try:
            signing.read_key(path)
        except signing.BadKey as error:
            yield wrong(f"key {path.stem}", *_told(error))
    try:
        signer = signing.signer_of(settings)
    except signing.BadKey as error:
        yield wrong("key", *_told(error))
        return
    trusted = _trust(settings)
    if signer is None:
        yield _unsigned(trusted)
    elif trusted is None:
        yield ok("key", f"{signer.name} signs what is sent from here; without a trust file nobody checks it")
    else:
        yield _may(signer, trusted)


def _unsigned(trusted: Trust | None) -> Finding:
    if trusted is None:
        return look("key", "what is sent from here is not signed", "`tars up` makes a key, or `tars keys new`")
    return wrong("key", "there is a trust file, and nothing signs from here: every command is refused", signing.HOW)


def _may(signer: signing.Signer, trusted: Trust) -> Finding:
    own = signer.trusted(frozenset({"viewer"}))
    line = trusted.of(own.id)
    if line is None:
        add = f"who keeps the trust file runs: tars keys new {signer.name} --role ROLE --public {own.key}"
        return wrong("key", f"{signer.name}'s key is not in the trust file: its commands are refused", add)
    roles = ", ".join(sorted(line.roles))
    if any(not line.roles.isdisjoint(needed) for needed in RIGHTS.values()):
        return ok("key", f"{signer.name} signs what is sent from here: {roles}")
    return look("key", f"{signer.name} is only {roles}: every command is refused", "ask for proposer or approver")


def trust(settings: Settings) -> Iterator[Finding]:
    """Whether the trust file can be used."""
    if not settings.trust.exists():
        if settings.tars_trust is not None:
            todo = "make it with `tars keys new`, or unset TARS_TRUST"
            yield wrong("trust file", f"{settings.trust} is not there", todo)
            return
        yield look("trust file", "none: every command counts, as unsigned", "`tars up` makes one, or `tars keys new`")
        return
    try:
        found = signing.read_trust(settings.trust)
    except signing.BadTrust as error:
        yield wrong("trust file", *_told(error))
        return
    eyes = "four eyes" if signing.four_eyes(settings, signing.TrustFile(settings.trust)) else "no four eyes"
    yield ok("trust file", f"{settings.trust}: keys: {len(found.principal)}, approvers: {len(found.approvers)}, {eyes}")


def _trust(settings: Settings) -> Trust | None:
    try:
        return signing.TrustFile(settings.trust).current()
    except signing.BadTrust:
        return Trust()


def _told(error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do: errors of ours have both in a line."""
    found, _, todo = str(error).rpartition(": ")
    return (found, todo) if found else (str(error), "see docs/troubleshooting.md")


def ports(settings: Settings) -> Iterator[Finding]:
    """Whether documented ports are free, unless our own `tars up` has them."""
    running = endpoints(settings.tars_data)
    if running:
        told = f"runs in {settings.tars_data}: page {running.get('dashboard')}, NATS {running.get('nats')}"
        yield ok("tars up", told)
        return
    wanted = {**PORTS, "sync": settings.hyperparam_sync_port}
    taken = [f"{name} {port}" for name, port in sorted(wanted.items()) if port and not _is_free(settings, port)]
    if taken:
        todo = "`tars up` takes free ones instead; give `tars run` another --port"
        yield look("ports", f"taken: {', '.join(taken)}", todo)
    else:
        yield ok("ports", f"free: {', '.join(f'{name} {port}' for name, port in sorted(wanted.items()))}")


def _is_free(settings: Settings, port: int) -> bool:
    family = socket.AF_INET6 if ":" in settings.listen_address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.listen_address, port))
        except OSError:
            return False
    return True


def disk(settings: Settings) -> Finding:
    """How much room the data folder has."""
    folder = settings.tars_data.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB free for {folder}"
    if free < ENOUGH:
        return wrong("disk", found, "make room, or set TARS_DATA to another disk: servers stop storing when it is full")
    return ok("disk", found) if free >= PLENTY else look("disk", found, "make room soon")
