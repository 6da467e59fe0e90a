"""`tars`: every command, and how errors end: one line on standard error, and an exit code that is not 0."""

import sys
from typing import Annotated, Final

import typer

from tars import __version__
from tars.cli import fleet, processes, updates
from tars.cli.demo import demo
from tars.cli.output import err
from tars.cli.studies import study
from tars.runtime.settings import BadSetting
from tars.schemas.errors import TarsError

MISCONFIGURED: Final = 2
"""Exit code for a wrong setting: a supervisor need not start it again."""

app = typer.Typer(
    help="Release hyperparameters to reinforcement-learning agents that are already running.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study, name="study")
for command in (
    processes.up, processes.run, processes.provision, demo, fleet.agents, fleet.stats,
    updates.updates, updates.propose, updates.approve, updates.reject, updates.apply, updates.rollback, updates.history,
):  # fmt: skip
    app.command()(command)


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Release hyperparameters to reinforcement-learning agents that are already running."""


def main() -> None:
    """Run a command; an error of ours is one line, a bug a traceback."""
    try:
        app(prog_name="tars")
    except BadSetting as error:
        _end(error, MISCONFIGURED)
    except TarsError as error:
        _end(error, 1)
    except ExceptionGroup as group:  # a worker's tasks end together
        ours, others = group.split(TarsError)
        if others is not None or ours is None:
            raise
        _end(ours.exceptions[0], 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _end(error: BaseException, code: int) -> None:
    err.print(f"tars: {error}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
