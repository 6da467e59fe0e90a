"""Pictures of evidence in plain text: gains with their intervals around 0, and the scores of each seed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.text import Text

from tars.schemas.evidence import PairedScore

WIDTH: Final = 41
"""Cells of a line that gains are drawn on."""
HEIGHT: Final = 9
"""Lines of a picture of paired scores."""
EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
APART: Final = 32
"""Seeds up to which a column is kept free between two."""


@dataclass(frozen=True)
class Whisker:
    """A gain with the ends of its interval; in normalised score."""

    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """From the lowest to the highest gain that is drawn, in WIDTH cells; it holds 0 and the threshold."""

    low: float
    high: float
    threshold: float | None = None

    @classmethod
    def over(cls, whiskers: Sequence[Whisker], threshold: float | None = None) -> "Line":
        """The one that all of them fit on."""
        marks = [0.0, threshold or 0.0, *(end for w in whiskers for end in (w.low, w.high, w.gain))]
        low, high = min(marks), max(marks)
        margin = 0.04 * (high - low) or 0.01
        return cls(low - margin, high + margin, threshold)

    def cell(self, gain: float) -> int:
        """Where on it a gain lies."""
        return round((gain - self.low) / (self.high - self.low) * (WIDTH - 1))

    def ends(self) -> str:
        """Its ends and 0 in percentage points, above the cells that they belong to."""
        low, high = f"{100 * self.low:+.1f}", f"{100 * self.high:+.1f} pp"
        marks = f"{low:<{WIDTH - len(high)}}{high}"
        zero = self.cell(0)
        return f"{marks[:zero]}0{marks[zero + 1 :]}" if marks[zero - 1 : zero + 2].isspace() else marks

    def draw(self, whisker: Whisker) -> str:
        """One gain: `├──●──┤` from end to end of its interval, `│` at 0, `┊` at the threshold."""
        cells = [" "] * WIDTH
        left, right = self.cell(whisker.low), self.cell(whisker.high)
        cells[left : right + 1] = "─" * (right - left + 1)
        cells[left], cells[right] = "├", "┤"
        marks = [(0.0, "│", "┼")] + ([(self.threshold, "┊", "╂")] if self.threshold else [])
        for at, alone, crossed in marks:
            under = cells[self.cell(at)]
            cells[self.cell(at)] = {" ": alone, "─": crossed}.get(under, under)
        cells[self.cell(whisker.gain)] = "●"
        return "".join(cells)


def paired_dots(scores: Sequence[PairedScore]) -> list[Text]:
    """Each seed is a column, the largest loss first: `○` the incumbent's score, `●` the candidate's, `◉` both.

    Columns are green where the candidate is at least as good. The highest and the lowest score stand at the left.
    """
    if not scores:
        return []
    ordered = sorted(scores, key=lambda pair: pair.candidate - pair.incumbent)
    values = [score for pair in ordered for score in (pair.incumbent, pair.candidate)]
    low, high = min(values), max(values)
    columns = [(_column(pair, low, high), _colour(pair)) for pair in ordered]
    gap = " " if len(scores) <= APART else ""
    labels = {0: f"{high:7.3f} ┤", HEIGHT - 1: f"{low:7.3f} ┤"}
    return [
        Text.assemble(labels.get(row, f"{'│':>9}"), *((f"{gap}{cells[row]}", colour) for cells, colour in columns))
        for row in range(HEIGHT)
    ]


def _colour(pair: PairedScore) -> str:
    return "green" if pair.candidate >= pair.incumbent else "red"


def _column(pair: PairedScore, low: float, high: float) -> str:
    """HEIGHT cells from the highest score down."""

    def row(score: float) -> int:
        return round((high - score) / (high - low) * (HEIGHT - 1)) if high > low else HEIGHT // 2

    old, new = row(pair.incumbent), row(pair.candidate)
    cells = ["│" if min(old, new) < at < max(old, new) else " " for at in range(HEIGHT)]
    cells[old], cells[new] = "○", "●"
    if old == new:
        cells[new] = "◉"
    return "".join(cells)


def bar(share: float, width: int) -> str:
    """A share of 1 as a bar, to an eighth of a cell."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8)
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8]
