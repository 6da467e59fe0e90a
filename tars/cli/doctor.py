"""`tars doctor`: looks at everything that TARS needs, and says of each what to do."""

import asyncio
from typing import Final

import typer
from rich.markup import escape
from rich.table import Table

from tars.cli.finding import Finding, State
from tars.cli.output import AsJson, out, quiet, show_json
from tars.runtime.settings import Settings, load_settings

MARKS: Final[dict[State, str]] = {"ok": "[green]ok[/]", "look": "[yellow]look[/]", "wrong": "[bold red]wrong[/]"}


def doctor(*, as_json: AsJson = False) -> None:
    """Look at servers, streams, rights, clocks, versions, keys and disk, and say what to do.

    The exit code is 1 where something is wrong.
    """
    with quiet():
        findings = asyncio.run(_examine(load_settings()))
    show_json(findings) if as_json else _show(findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


async def _examine(settings: Settings) -> list[Finding]:
    from tars.cli.local_checks import local_findings  # noqa: PLC0415 - help must be quick
    from tars.cli.server_checks import nats_findings, redis_finding  # noqa: PLC0415

    return [*local_findings(settings), *await nats_findings(settings), await redis_finding(settings)]


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        todo = f"\n[bold]→[/] {escape(finding.todo)}" if finding.todo else ""
        table.add_row(MARKS[finding.state], escape(finding.about), escape(finding.found) + todo)
    out.print(table, highlight=False)
    bad = sum(finding.state == "wrong" for finding in findings)
    odd = sum(finding.state == "look" for finding in findings)
    out.print(f"{bad} wrong, {odd} to look at, {len(findings) - bad - odd} ok", highlight=False)
