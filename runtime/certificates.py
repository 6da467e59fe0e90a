"""A certificate authority of a folder, and the certificate that it gives the server of that folder."""

import os
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tars.runtime.access import AUTHORITY
from tars.schemas.errors import TarsError

AUTHORITY_LIFE: Final = timedelta(days=3650)
SERVER_LIFE: Final = timedelta(days=365)
RENEWED_BEFORE: Final = timedelta(days=30)
ADDRESSES: Final = ("127.0.0.1", "::1")


class BadCertificate(TarsError):
    """A certificate in a data folder cannot be used; the message says which, and what to do."""


class Certificate(NamedTuple):
    """Files in PEM."""

    public: Path
    private: Path


def ensure_server_certificate(folder: Path, names: Collection[str] = (), *, now: datetime | None = None) -> Certificate:
    """Make what is missing, and what ends within RENEWED_BEFORE; clients go on believing the same authority.

    names: of the server, beside this machine's own. Raises BadCertificate when a file that is there cannot be read.
    """
    moment = now or datetime.now(UTC)
    authority = Certificate(folder / AUTHORITY, folder / "ca.key")
    server = Certificate(folder / "server.pem", folder / "server.key")
    try:
        if not _lasts(authority, moment):
            _make_authority(authority, moment)
            _make_server(server, authority, names, moment)
        elif not (_lasts(server, moment) and _names(server, names)):
            _make_server(server, authority, names, moment)
    except (OSError, ValueError) as error:
        raise BadCertificate(
            f"a certificate in {folder} cannot be used ({error}): remove its .pem and .key files"
        ) from error
    return server


def _lasts(found: Certificate, now: datetime) -> bool:
    if not (found.public.exists() and found.private.exists()):
        return False
    return x509.load_pem_x509_certificate(found.public.read_bytes()).not_valid_after_utc - now > RENEWED_BEFORE


def _names(found: Certificate, wanted: Collection[str]) -> bool:
    extensions = x509.load_pem_x509_certificate(found.public.read_bytes()).extensions
    alternative = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(wanted) <= set(alternative.get_values_for_type(x509.DNSName))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _begun(
    key: ec.EllipticCurvePrivateKey, subject: x509.Name, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # a clock that is a little behind
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _make_authority(files: Certificate, now: datetime) -> None:
    key, name = ec.generate_private_key(ec.SECP256R1()), _name("TARS")
    certificate = (
        _begun(key, name, now, AUTHORITY_LIFE)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(files, key, certificate)


def _make_server(files: Certificate, authority: Certificate, names: Collection[str], now: datetime) -> None:
    issuer = x509.load_pem_x509_certificate(authority.public.read_bytes())
    signing = load_pem_private_key(authority.private.read_bytes(), password=None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{authority.private} is of another kind")  # noqa: TRY004 - read from a file
    key = ec.generate_private_key(ec.SECP256R1())
    known = [x509.DNSName(name) for name in dict.fromkeys(("localhost", *names))]
    addresses = [*known, *(x509.IPAddress(ip_address(text)) for text in ADDRESSES)]
    certificate = (
        _begun(key, _name("TARS nats-server"), now, SERVER_LIFE)
        .issuer_name(issuer.subject)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)  # type: ignore[arg-type] # ours is elliptic
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .sign(signing, hashes.SHA256())
    )
    _write(files, key, certificate)


def _write(files: Certificate, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.private.unlink(missing_ok=True)
    with os.fdopen(os.open(files.private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    files.public.write_bytes(certificate.public_bytes(Encoding.PEM))
