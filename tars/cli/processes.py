"""Commands that run something: provision, run, up."""

import asyncio
import importlib
import json
import signal
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tars import __version__
from tars.cli.connection import connected
from tars.cli.output import AsJson, err, out, show_json
from tars.runtime.settings import Settings, bare, load_settings
from tars.schemas.errors import TarsError

if TYPE_CHECKING:
    from tars.runtime.stack import Endpoints

ROLES: Final = {
    "coordinator": ("tars.automl_worker.app", "automl", 8097),
    "trainer": ("tars.automl_worker.trainer_app", "automl", 0),
    "sync": ("tars.sync_worker.app", "", None),
    "consumers": ("tars.consumers.app", "", 3001),
    "mlflow": ("tars.consumers.mlflow_app", "mlflow", 0),
    "agents": ("tars.agents.app", "agents", 8094),
    "dashboard": ("tars.dashboard.serve", "dashboard", 3000),
}
"""Role -> module, the extra it needs, documented port (None: a setting)."""
LOGGED: Final = frozenset({"time", "level", "service", "logger", "event", "trace_id", "span_id"})
"""Fields of a log line that are not its facts."""
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data folder; default .tars.")]


class MissingExtra(TarsError):
    """A role needs packages that are not installed."""


def provision(
    *,
    patience: Annotated[float, typer.Option("--wait", min=0.1, help="Seconds to wait for the server.")] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Make streams and consumers on the server, or change what differs."""
    from tars.runtime import provision as streams  # noqa: PLC0415 - help must be quick

    settings = load_settings()

    async def make() -> dict[str, str]:
        async with connected(settings, "provision", "admin", patience=patience) as bus:
            replicas, ack_wait = settings.stream_replicas, settings.ack_wait_seconds
            return await streams.provision_in_time(bus.jetstream, patience, ack_wait=ack_wait, replicas=replicas)

    done = asyncio.run(make())
    if as_json:
        show_json(done)
        return
    for name, what in done.items():
        out.print(f"{what:10} {name}", highlight=False)


def run(
    role: Annotated[str, typer.Argument(help=", ".join(ROLES), autocompletion=lambda: list(ROLES))],
    *,
    port: Annotated[int | None, typer.Option("--port", min=0, max=65_535, help="HTTP; 0: any free one.")] = None,
) -> None:
    """Run one worker, against NATS_URL and REDIS_URL."""
    if role not in ROLES:
        raise typer.BadParameter(f"there is no role {role}; there are {', '.join(ROLES)}")
    settings = load_settings()
    module, extra, documented = ROLES[role]
    chosen = port if port is not None else settings.hyperparam_sync_port if documented is None else documented
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{role} needs {error.name}: pip install 'tars-rl[{extra or 'all'}]'") from error
    from tars.runtime.telemetry import start_telemetry  # noqa: PLC0415 - help must be quick

    collector = settings.otel_exporter_otlp_endpoint
    start_telemetry(role, settings.log_level, version=__version__, collector=collector)
    if role == "dashboard":
        found.serve(settings, chosen)
        return
    from tars.runtime.app import run_worker  # noqa: PLC0415

    run_worker(found.worker(settings), chosen)


def up(
    *,
    data: Data = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Do not open the page.")] = False,
    secure: Annotated[
        bool, typer.Option("--secure", help="NATS with TLS, and a key and rights of its own for each role; stays so.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Where everything listens, as one line of JSON.")] = False,
) -> None:
    """Run everything on this machine until Ctrl-C."""
    settings = load_settings()
    folder = (data or settings.tars_data).resolve()
    asyncio.run(run_up(settings, folder, open_page=not no_browser, secure=secure, as_json=as_json))


async def run_up(
    settings: Settings, folder: Path, *, open_page: bool, secure: bool = False, as_json: bool = False
) -> None:
    """Run the stack until a signal; print where everything is."""
    from tars.runtime.stack import stack  # noqa: PLC0415 - help must be quick

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    err.print(f"starting in {folder} ...")
    async with stack(settings, folder, sink=prefixed(), secure=secure) as (endpoints, _):
        _show_endpoints(endpoints, as_json=as_json)
        if open_page:
            webbrowser.open(endpoints.dashboard)
        await stop.wait()
        err.print("stopping ...")


def _show_endpoints(endpoints: "Endpoints", *, as_json: bool) -> None:
    if as_json:
        show_json(asdict(endpoints))
        sys.stdout.flush()  # whoever reads a pipe waits for it
        return
    out.print(
        f"page   {endpoints.dashboard}\nnats   {bare(endpoints.nats)}\nredis  {bare(endpoints.redis or '-')}",
        highlight=False,
    )
    if endpoints.keys:
        out.print(f"keys   {endpoints.keys}: NATS lets in only who has one", highlight=False)
    out.print("Ctrl-C stops everything; the data stays.", highlight=False)


def prefixed() -> Callable[[str, str], None]:
    """Print the lines of programs with their name, a colour for each on a terminal."""
    colours = ("cyan", "green", "yellow", "magenta", "blue", "red", "white")
    seen: dict[str, str] = {}

    def show(name: str, line: str) -> None:
        colour = seen.setdefault(name, colours[len(seen) % len(colours)])
        err.print(f"{name:>12} | ", style=colour, end="", highlight=False)
        err.print(readable(line), markup=False, highlight=False, soft_wrap=True)

    return show


def readable(line: str) -> str:
    """Turn a worker's JSON log line into words; any other line stays as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict) or "event" not in record:
        return line
    facts = " ".join(f"{key}={value}" for key, value in record.items() if key not in LOGGED)
    return f"{record.get('level', ''):7} {record['event']}  {facts}".rstrip()
