"""`tars keys`: who may do what, and the keys that prove it."""

from pathlib import Path
from typing import Annotated, Any, Final, get_args

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from tars.cli import completion
from tars.cli.output import AsJson, err, out, show_json, show_rows
from tars.runtime.settings import load_settings
from tars.schemas.message import Id, Role
from tars.schemas.trust import TrustedKey

keys = typer.Typer(help="Keys that sign commands, and the trust file that says what each may do.", no_args_is_help=True)
NAME: Final = TypeAdapter(Id)
NO_KEY: Final = "A" * 43 + "="


class KeyRow(BaseModel):
    """One principal of the trust file."""

    name: str
    key: str
    """Its id, as histories have it."""
    roles: tuple[Role, ...]
    public: str
    private: str | None
    """The file of its private key, where that is here."""


@keys.command()
def new(
    name: Annotated[str, typer.Argument(help="Who: up to 64 letters, digits, - and _.")],
    *,
    role: Annotated[
        list[str],
        typer.Option(
            "--role",
            metavar="ROLE",
            help=f"{', '.join(get_args(Role))}; repeatable.",
            autocompletion=completion.trust_roles,
        ),
    ],
    public: Annotated[
        str, typer.Option("--public", metavar="KEY", help="Somebody else's public key: it is only trusted.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a key, or take somebody's public one, and trust it with these roles."""
    from tars.runtime import signing  # noqa: PLC0415 - help must be quick

    settings = load_settings()
    line = _line(name, role, public or NO_KEY)
    path = None
    if not public:
        signer, path = signing.new_signer(name), signing.key_path(settings.tars_data, name)
        signing.write_key(path, signer)
        line = signer.trusted(line.roles)
    signing.add_trust(settings.trust, line)
    row = KeyRow(
        name=name, key=line.id, roles=tuple(sorted(line.roles)), public=line.key, private=str(path) if path else None
    )
    if as_json:
        show_json(row)
        return
    out.print(f"{name} is trusted as {', '.join(row.roles)} in {settings.trust}", highlight=False)
    if path is not None:
        err.print(f"the private key is {path}: keep it secret; it signs with TARS_KEY={path}", highlight=False)


@keys.command(name="list")
def list_(*, as_json: AsJson = False) -> None:
    """Show who is trusted with what, and whose private keys are here."""
    from tars.runtime import signing  # noqa: PLC0415 - help must be quick

    settings = load_settings()
    here, trust = signing.private_keys(settings.tars_data), signing.TrustFile(settings.trust).current()
    rows = [
        KeyRow(name=one.name, key=one.id, roles=tuple(sorted(one.roles)), public=one.key, private=here.get(one.id))
        for one in (trust.principal if trust else ())
    ]
    show_rows("trusted keys", rows, COLUMNS, as_json=as_json)


class SeedRow(BaseModel):
    """The key by which a secured NATS knows a role."""

    role: str
    public: str
    private: str
    """The file of its seed."""


@keys.command()
def nats(
    folder: Annotated[Path | None, typer.Argument(help="Where the seeds go; default nats-keys in TARS_DATA.")] = None,
    *,
    certificate: Annotated[
        list[str], typer.Option("--certificate", metavar="NAME", help="And one for a server of this name; repeatable.")
    ] = [],  # noqa: B006 - typer copies it
    permissions: Annotated[
        bool, typer.Option("--permissions", help="Only print the server's side: what each role may do.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make the keys by which a secured NATS knows each role; those that are there stay."""
    from tars.runtime import access, certificates  # noqa: PLC0415 - help must be quick
    from tars.schemas.permissions import accounts  # noqa: PLC0415

    if permissions:
        out.print(accounts(), end="", highlight=False, markup=False, soft_wrap=True)
        return
    place = folder or load_settings().tars_data / access.FOLDER
    public = access.ensure_seeds(place)
    rows = [SeedRow(role=role, public=key, private=str(access.seed_path(place, role))) for role, key in public.items()]
    environment = access.write_public(place, public)
    if certificate:
        made = certificates.ensure_server_certificate(place, certificate)
        err.print(f"the server shows {made.public}; clients need {place / access.AUTHORITY}", highlight=False)
    show_rows("keys of roles", rows, SEED_COLUMNS, as_json=as_json)
    err.print(f"the server's environment is {environment}; each process needs its own seed alone", highlight=False)


SEED_COLUMNS: Final[dict[str, Any]] = {
    "role": lambda row: row.role,
    "public key": lambda row: row.public,
    "seed": lambda row: row.private,
}
COLUMNS: Final[dict[str, Any]] = {
    "name": lambda row: row.name,
    "key": lambda row: row.key,
    "roles": lambda row: ", ".join(row.roles),
    "private key": lambda row: row.private or "-",
}


def _line(name: str, roles: list[str], public: str) -> TrustedKey:
    """Check what was typed, before any file is written."""
    try:
        return TrustedKey.model_validate({"name": NAME.validate_python(name), "key": public, "roles": roles})
    except ValidationError as error:
        wrong = "; ".join(f"{e['input']!r}: {e['msg']}" for e in error.errors())
        raise typer.BadParameter(wrong) from error
