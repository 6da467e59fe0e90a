"""The command that looks at a saved model: what a naive edit of each value would do, and what TARS does."""

from pathlib import Path
from typing import Annotated

import typer

import tars
from tars.cli.output import AsJson, err, number, show_json, show_rows


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL.zip", help="What model.save() of Stable-Baselines3 wrote.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Show what can be changed while a saved model trains on. The file is read, not loaded: nothing in it is run."""
    found = tars.check(model)
    if as_json:
        show_json(found)
        return
    columns = {
        "key": lambda k: k.key,
        "value": lambda k: number(k.value),
        "a naive edit": lambda k: f"{k.naive}: {k.why}",
        "TARS": lambda k: k.tars,
        "applies": lambda k: k.applies or "never",
        "by": lambda k: k.how,
    }
    show_rows(f"{found.algorithm}, {model}", found.keys, columns, as_json=False)
    for note in found.notes:
        err.print(note, highlight=False, markup=False)
