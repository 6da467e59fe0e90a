"""`tars export` and `tars replay`: what the ledger says of an update, in a file; and whether it holds."""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from tars.cli.connection import connected
from tars.cli.output import AsJson, out, show_json, titled
from tars.runtime.settings import load_settings

if TYPE_CHECKING:
    from tars.runtime.export import Export
    from tars.schemas.audit import Case, Check
    from tars.schemas.trust import Trust

COLOURS: Final = {"ok": "green", "FAILED": "bold red", "not checkable": "yellow"}
NO_EPISODES: Final = "episodes are kept for a week, and no export holds them"
NO_STATISTICS: Final = "needs SciPy: pip install 'tars-rl[automl]'"


def export(
    update_id: Annotated[
        str | None, typer.Argument(metavar="UPDATE", help="Its id; without one, the whole ledger.")
    ] = None,
    *,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A new file of JSON lines.")],
    as_json: AsJson = False,
) -> None:
    """Write all that concerns an update into a file: its history, its study's trials, its agents' events and values.

    The public half of the trust file is in it, private keys are not. Sealed with the key that signs from here, if any.
    """
    settings = load_settings()
    from tars.runtime import export as exports  # noqa: PLC0415 - help must be quick
    from tars.runtime.signing import TrustFile, signer_of  # noqa: PLC0415

    first = exports.header(update_id, TrustFile(settings.trust).current())
    signer = signer_of(settings, settings.tars_user or None)

    async def write() -> int:
        async with connected(settings, "export", "person", patience=3) as bus:
            return (await exports.write_export(to, first, exports.collect(bus, update_id), signer)).messages

    count = asyncio.run(write())
    if as_json:
        show_json({"file": str(to), "messages": count, "sealed_by": signer.name if signer else None})
    else:
        by = f"sealed by {signer.name}" if signer else "nobody signed it: there is no key here"
        out.print(f"{count} messages in {to}; {by}", highlight=False)


def replay(
    update_id: Annotated[str, typer.Argument(metavar="UPDATE", help="Its id.")],
    *,
    source: Annotated[Path, typer.Option("--from", metavar="EXPORT", help="What `tars export` wrote.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="Your own trust file, instead of the export's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check one update without any server: who decided it, on what evidence, and what its agents really ran.

    Exit code 1 when a check fails.
    """
    from tars.runtime.export import read_export  # noqa: PLC0415 - help must be quick
    from tars.runtime.signing import read_trust  # noqa: PLC0415

    found = read_export(source)
    checks = audit(update_id, found, read_trust(trust) if trust else None)
    if as_json:
        show_json(checks)
    else:
        _show(update_id, checks)
    if any(check.outcome == "FAILED" for check in checks):
        raise typer.Exit(1)


def audit(update_id: str, found: "Export", own: "Trust | None") -> "list[Check]":
    """Every check of one update; own: whom the auditor trusts, None: whom the export says was trusted."""
    from tars.runtime.export import seal_faults  # noqa: PLC0415 - help must be quick
    from tars.runtime.signing import verify  # noqa: PLC0415
    from tars.schemas.audit import NotCheckable, case_of, checked  # noqa: PLC0415
    from tars.schemas.trust import Trust  # noqa: PLC0415
    from tars.sync_worker import audit as decided  # noqa: PLC0415
    from tars.sync_worker import audit_rollout as rollout  # noqa: PLC0415

    trust = own or found.header.trust
    case = case_of(update_id, found.messages)

    def watch() -> str:
        raise NotCheckable(NO_EPISODES)

    return [
        checked("file", lambda: seal_faults(found, trust)),
        checked("trust", lambda: _trust(own, trust)),
        checked("messages", partial(decided.messages, case)),
        checked("history", partial(decided.history, case)),
        checked("proposal", partial(decided.proposal, case)),
        checked("content", partial(decided.content, case)),
        checked("signatures", lambda: decided.signatures(case, lambda signed: verify(signed, trust or Trust()))),
        checked("approval", partial(decided.approval, case)),
        checked("four eyes", lambda: decided.eyes(case, trust.approvers if trust else None)),
        *_evidence(case),
        checked("configurations", partial(rollout.configurations, case)),
        checked("read-back", partial(rollout.read_backs, case)),
        checked("stages", partial(rollout.stages, case)),
        checked("watch", watch),
        checked("way back", partial(rollout.way_back, case)),
    ]


def _evidence(case: "Case") -> "list[Check]":
    """The checks that need statistics; where these are not installed, that."""
    from tars.schemas.audit import Check, checked  # noqa: PLC0415 - help must be quick

    names = ("evidence", "verdict", "study")
    try:
        from tars.automl_worker import audit as weighed  # noqa: PLC0415
    except ModuleNotFoundError:
        return [Check(name=name, outcome="not checkable", why=NO_STATISTICS) for name in names]
    looks = (weighed.evidence, weighed.verdict, weighed.study)
    return [checked(name, partial(look, case)) for name, look in zip(names, looks, strict=True)]


def _trust(own: "Trust | None", trust: "Trust | None") -> list[str] | str:
    """Whose word the signatures are held to."""
    from tars.schemas.audit import NotCheckable  # noqa: PLC0415 - help must be quick

    if own is not None:
        return f"your own: {', '.join(sorted({one.name for one in own.principal}))}"
    if trust is None:
        raise NotCheckable("there was no trust file where it was exported: nothing proves who did what")
    raise NotCheckable("the keys are the export's own; to check whose they are, give your trust file by --trust")


def _show(update_id: str, checks: "list[Check]") -> None:
    table = titled(f"update {update_id}")
    for heading in ("check", "outcome", "what was found"):
        table.add_column(heading, no_wrap=heading != "what was found")
    for check in checks:
        table.add_row(check.name, f"[{COLOURS[check.outcome]}]{check.outcome}[/]", escape(check.why))
    out.print(table)
