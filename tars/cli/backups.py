"""`tars backup` and `tars restore`: all that NATS holds, while it runs; and back into an empty server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tars.cli.output import AsJson, err, out, show_json
from tars.cli.processes import Data
from tars.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from tars.runtime.backup import Tell
    from tars.runtime.bus import Bus
    from tars.schemas.backup import Manifest

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The backup's own folder.")]


def backup(
    folder: Folder,
    *,
    without_reports: Annotated[
        bool, typer.Option("--without-reports", help="Leave out episodes and other measurements, kept for 7 days.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write ledger, configurations, trials, snapshots and the rest of what NATS holds into a new folder.

    Everything goes on meanwhile. Keys and the trust file are not in it.
    """
    from tars.producers.commands import nats_address  # noqa: PLC0415 - help must be quick
    from tars.runtime.backup import back_up  # noqa: PLC0415

    with _progress() as tell:
        save: Work = lambda bus: back_up(bus, folder, reports=not without_reports, tell=tell)  # noqa: E731
        manifest = asyncio.run(_connected(nats_address(load_settings()), save))
    _show(manifest, f"backup in {folder}", as_json=as_json)


def restore(folder: Folder, *, data: Data = None, as_json: AsJson = False) -> None:
    """Bring a backup back: to NATS_URL where that is set, else into the data folder, which `tars up` then starts with.

    The server must be empty, and nobody may work on it yet. Start the agents anew afterwards.
    """
    from tars.runtime import backup as backups  # noqa: PLC0415 - help must be quick

    settings = load_settings()
    replicas, ack_wait = settings.stream_replicas, settings.ack_wait_seconds
    backups.read_manifest(folder)  # before a server is started, or a folder made
    with _server(settings, data) as address, _progress() as tell:
        load: Work = lambda bus: backups.restore(bus, folder, ack_wait=ack_wait, replicas=replicas, tell=tell)  # noqa: E731
        manifest = asyncio.run(_connected(address, load))
    _show(manifest, f"restored from {folder}", as_json=as_json)


Work = Callable[["Bus"], Awaitable["Manifest"]]


@contextmanager
def _server(settings: Settings, data: Path | None) -> Iterator[str]:
    """The server to restore into: NATS_URL's, else one started on the data folder for as long as it takes."""
    if settings.nats_url and data is None:
        yield settings.nats_url
        return
    from tars.runtime.servers import start_nats  # noqa: PLC0415 - help must be quick
    from tars.runtime.stack import owned  # noqa: PLC0415

    folder = (data or settings.tars_data).resolve()
    with owned(folder), start_nats(folder / "nats") as server:
        yield server.url


async def _connected(address: str, work: Work) -> "Manifest":
    from tars.runtime.access import access_of  # noqa: PLC0415 - help must be quick
    from tars.runtime.bus import connect_bus  # noqa: PLC0415

    bus = await connect_bus(address, "backup", access=access_of(load_settings(), "admin"), patience=5)
    try:
        return await work(bus)
    finally:
        await bus.close()


@contextmanager
def _progress() -> Iterator["Tell"]:
    """A bar for each stream, on standard error."""
    columns = (TextColumn("{task.description:14}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err) as progress:
        bars: dict[str, TaskID] = {}

        def tell(stream: str, done: int, total: int | None) -> None:
            if stream not in bars:
                bars[stream] = progress.add_task(stream, total=None)
            progress.update(bars[stream], completed=done, total=total)

        yield tell


def _show(manifest: "Manifest", title: str, *, as_json: bool) -> None:
    if as_json:
        show_json(manifest)
        return
    out.print(f"{title}, taken {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
    for saved in manifest.streams:
        out.print(f"  {saved.stream:14} {saved.messages:>9} messages  {saved.bytes / 1e6:>9.2f} MB", highlight=False)
