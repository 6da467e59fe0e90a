"""`tars`: every command, and how errors end: one line on standard error, and an exit code that is not 0."""

import sys
from typing import Annotated, Final, NoReturn

import typer
from pydantic import ValidationError

from tars import __version__
from tars.cli import audit, backups, fleet, processes, updates
from tars.cli.check import check
from tars.cli.demo import demo
from tars.cli.doctor import doctor
from tars.cli.fork import fork
from tars.cli.keys import keys
from tars.cli.output import err
from tars.cli.overview import watch
from tars.cli.pipeline import dead, pipeline
from tars.cli.studies import study
from tars.cli.sync import sync
from tars.runtime.settings import BadSetting
from tars.schemas.errors import PREFIX, TarsError, complaints

MISCONFIGURED: Final = 2
"""Exit code for a wrong setting or a wrong command line: a supervisor need not start it again."""

app = typer.Typer(
    help="Release hyperparameters to reinforcement-learning agents that are already running.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(study, name="study")
app.add_typer(keys, name="keys")
app.add_typer(dead, name="dead")
for command in (
    processes.up, processes.run, processes.provision, demo, doctor, watch, fork, check, fleet.agents,
    fleet.conflicts, fleet.equilibria, fleet.stats, pipeline,
    updates.updates, updates.propose, updates.approve, updates.reject, updates.apply, updates.rollback, updates.history,
    sync, audit.export, audit.replay, backups.backup, backups.restore,
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
    """Run a command; an error of ours, or of whoever typed it, is one line; a bug is a traceback."""
    try:
        code = app(prog_name="tars", standalone_mode=False)  # it raises usage errors instead of drawing boxes
    except BadSetting as error:
        _end(error, MISCONFIGURED)
    except TarsError as error:
        _end(error, 1)
    except ExceptionGroup as group:  # a worker's tasks end together
        ours, others = group.split(TarsError)
        if others is not None or ours is None:
            raise
        _end(ours.exceptions[0], 1)
    except ValidationError as error:  # what was typed fits into no message
        _end("; ".join(complaints(error)), 1)
    except typer.Abort:
        _end("aborted", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        told = error.format_message()  # a usage error; typer has no public name for all of them
        _end(told.replace(PREFIX, ""), MISCONFIGURED)
    sys.exit(code if isinstance(code, int) else 0)


def _end(error: BaseException | str, code: int) -> NoReturn:
    """Say why on one line; an empty reason has been said (help was shown)."""
    if told := " ".join(str(error).split()):
        err.print(f"tars: {told}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
