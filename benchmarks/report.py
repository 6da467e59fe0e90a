"""Printing and writing measured figures, for all benchmarks alike."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured metric beside its floor and target (docs/targets.md); smaller is better unless `more`."""

    metric: str
    value: float
    floor: float | None
    target: float | None
    more: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """How far it reaches: target, floor or below."""
        reached = [
            name
            for name, bound in (("target", self.target), ("floor", self.floor))
            if bound is not None and (self.value >= bound if self.more else self.value <= bound)
        ]
        return reached[0] if reached else ("below" if self.floor is not None else "")


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="at most 30 seconds, with fewer samples")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures there")
    return parser


def show(title: str, figures: Sequence[Figure], path: Path | None) -> None:
    """Print the figures as a table; write them to `path` as JSON."""
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("metric", "value", "floor", "target", "reached"):
        table.add_column(heading, justify="left" if heading in {"metric", "reached"} else "right", no_wrap=True)
    for figure in figures:
        bounds = ["-" if bound is None else f"{bound:g}" for bound in (figure.floor, figure.target)]
        table.add_row(figure.metric, f"{figure.value:.4g}", *bounds, figure.verdict)
    console = Console()
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"  {figure.metric}: {figure.note}", style="dim", highlight=False)
    write(figures, path)


def write(figures: Sequence[Figure], path: Path | None) -> None:
    """Write the figures to `path` as JSON; None: nowhere."""
    if path is not None:
        path.write_text(json.dumps([{**asdict(f), "reached": f.verdict} for f in figures], indent=2) + "\n")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the sorted values lie (nearest rank)."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
