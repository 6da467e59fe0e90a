"""What can be changed while a model trains: key by key, what a naive edit does, and what TARS does.

A saved model is described without loading it (`adapters/sb3_archive.py`): nothing that the file contains is run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tars.agents.adapters import sb3_facts
from tars.agents.adapters.sb3_archive import archive_facts
from tars.agents.adapters.sb3_edits import Verdict, naive, remedy
from tars.agents.adapters.sb3_facts import Facts
from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Moment, Value
from tars.schemas.message import Frozen

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


class CheckedKey(Frozen):
    """One hyperparameter of a model."""

    key: str
    value: Value
    edit: str
    """What looks right."""
    naive: Verdict
    """What that does."""
    why: str
    tars: Literal["effective", "refused"]
    how: str
    """What TARS writes instead, or why it refuses."""
    applies: Moment | None
    """When it takes effect; None: never."""


class Checked(Frozen):
    """A model."""

    algorithm: AlgorithmName
    keys: tuple[CheckedKey, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """Show it as a table for a terminal."""
        rows = [(k.key, _short(k.value), k.naive, k.tars, k.applies or "never", k.how) for k in self.keys]
        widths = [max(len(str(row[place])) for row in rows) for place in range(5)]
        lines = ("  ".join((*(str(c).ljust(w) for c, w in zip(row, widths, strict=False)), row[5])) for row in rows)
        return "\n".join((*lines, *self.notes))


def check(model: "BaseAlgorithm | Path | str") -> Checked:
    """Check a Stable-Baselines3 model, in memory or as saved; raises NoModel or UnknownModel.

    A model in memory is only read. A saved one is not loaded: nothing that it contains is run.
    """
    if isinstance(model, Path | str):
        return checked(archive_facts(Path(model)))
    from tars.agents.adapters.sb3 import facts_of  # noqa: PLC0415 - SB3 is an extra
    from tars.agents.adapters.sb3_model import subject_of  # noqa: PLC0415

    return checked(facts_of(subject_of(model)))


def checked(facts: Facts) -> Checked:
    """Say of each key what an edit does."""
    return Checked(
        algorithm=facts.algorithm,
        keys=tuple(_key(facts, name) for name in ALGORITHMS[facts.algorithm].names),
        notes=tuple(note for note in sb3_facts.notes(facts) if "cannot be changed" not in note),
    )


def _key(facts: Facts, name: str) -> CheckedKey:
    tried, refused = naive(facts, name), sb3_facts.refusal(facts, name)
    return CheckedKey(
        key=name,
        value=facts.values.get(name),
        edit=tried.edit,
        naive=tried.verdict,
        why=tried.why,
        tars="refused" if refused else "effective",
        how=refused or remedy(facts, name),
        applies=None if refused else sb3_facts.takes_effect(facts.algorithm, facts.noise, name),
    )


def _short(value: Value) -> str:
    return "-" if value is None else f"{value:g}"
