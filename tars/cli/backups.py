"""`tars backup` and `tars restore`: all that NATS holds, while it runs; and back into an empty server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tars.cli.connection import connected
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
    from tars.runtime.backup import back_up  # noqa: PLC0415 - help must be quick

    with _progress() as tell:
        save: Work = lambda bus: back_up(bus, folder, reports=not without_reports, tell=tell)  # noqa: E731
        manifest = asyncio.run(_done(save, load_settings()))
    _show(manifest, f"backup in {folder}", as_json=as_json)


def restore(folder: Folder, *, data: Data = None, as_json: AsJson = False) -> None:
    """Bring a backup back: to NATS_URL where that is set, else into the data folder, which `tars up` then starts with.

    The server must be empty, and nobody may work on it yet. Start the agents anew afterwards.
    """
    from tars.runtime import backup as backups  # noqa: PLC0415 - help must be quick

    settings = load_settings()
    if data is not None:
        settings = settings.model_copy(update={"tars_data": data, "nats_url": None})
    replicas, ack_wait = settings.stream_replicas, settings.ack_wait_seconds
    backups.read_manifest(folder)  # before a server is started, or a folder made
    with _server(settings) as address, _progress() as tell:
        load: Work = lambda bus: backups.restore(bus, folder, ack_wait=ack_wait, replicas=replicas, tell=tell)  # noqa: E731
        manifest = asyncio.run(_done(load, settings, address))
    _show(manifest, f"restored from {folder}", as_json=as_json)


Work = Callable[["Bus"], Awaitable["Manifest"]]


@contextmanager
def _server(settings: Settings) -> Iterator[str]:
    """The server to restore into: NATS_URL's, else one started on the data folder for as long as it takes."""
    if settings.nats_url:
        yield settings.nats_url
        return
    from tars.runtime.access import keys_in  # noqa: PLC0415 - help must be quick
    from tars.runtime.servers import start_nats  # noqa: PLC0415
    from tars.runtime.stack import owned  # noqa: PLC0415

    folder = settings.tars_data.resolve()
    with owned(folder), start_nats(folder / "nats", keys=keys_in(folder)) as server:
        yield server.url


async def _done(work: Work, settings: Settings, address: str | None = None) -> "Manifest":
    async with connected(settings, "backup", "admin", patience=5, address=address) as bus:
        return await work(bus)


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
