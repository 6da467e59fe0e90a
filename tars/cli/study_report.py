"""What a study has found, for people: verdicts with pictures, what each key is worth, the Pareto front, its trials."""

from collections.abc import Mapping, Sequence
from typing import Final

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from tars.cli.output import clock, gain_text, number, out, show_rows, values_text, verdict_text
from tars.cli.pictures import Line, Whisker, bar, paired_dots
from tars.dashboard.wording import STARTED, aim, assigned, points
from tars.dashboard.wording import number as short
from tars.schemas.evidence import Evidence, KeyWorth, Verdict
from tars.schemas.hyperparameters import Value, Values, changed
from tars.schemas.study import FrontPoint, StudyFinished
from tars.schemas.views import StudyRow, TrialRow

COLOURS: Final = {Verdict.BETTER: "green", Verdict.NOT_BETTER: "red", Verdict.INCONCLUSIVE: "yellow"}
FRONT_LINES: Final = 12
BAR: Final = 20


def show_finished(finished: StudyFinished) -> None:
    """A study's result, right after it."""
    counts = f"{finished.completed} trials completed, {finished.pruned} pruned, {finished.failed} failed"
    out.print(f"{finished.study_id}: {counts}", highlight=False, markup=False)
    if finished.evidence is not None:
        _show_found(finished.evidence, finished.weighed)
        show_front(finished.front, finished.evidence.incumbent)


def show_row(row: StudyRow, trials: Sequence[TrialRow]) -> None:
    """A study as far as it has come, and its trials."""
    whom = ", ".join(row.agents) or "no agents"
    where = f"{row.stage}: {row.algorithm} in {row.environment} for {whom}"
    out.print(f"[bold]{row.study_id}[/] {escape(where)}", highlight=False)
    out.print(f"objective: {aim(row.objective, row.weights)}; trained {STARTED[row.start]}", highlight=False)
    out.print(f"started {clock(row.started_at)} by {row.by}", highlight=False, markup=False)
    counts = f"{row.completed} trials completed, {row.pruned} pruned, {row.failed} failed of {row.trials}"
    out.print(f"{counts}; {row.confirmations} on held-out seeds", highlight=False)
    if row.error:
        out.print(row.error, markup=False, highlight=False)
    show_trials(row, trials)
    show_importances(row.importances)
    if row.evidence:
        _show_found(row.evidence, row.weighed)
    show_front(row.front, row.incumbent)


def show_trials(row: StudyRow, trials: Sequence[TrialRow]) -> None:
    """Those of the search, and whatever failed on held-out seeds; the others stand in the evidence, seed by seed."""
    shown = [trial for trial in trials if trial.phase == "search" or trial.stage == "failed"]
    costs = any(trial.conflict is not None for trial in shown)
    columns = {
        "trial": lambda t: t.number,
        "stage": lambda t: t.stage if t.phase == "search" else f"{t.stage}, {t.phase}",
        "score": lambda t: number(t.score and round(t.score, 4)),
        **({"conflict": lambda t: number(t.conflict and round(t.conflict, 4))} if costs else {}),
        **({"latency": lambda t: number(t.latency and round(t.latency, 4))} if costs else {}),
        "values": lambda t: t.error or values_text({key: t.hyperparameters.get(key) for key in row.searched}),
    }
    show_rows("search trials", shown, columns, as_json=False)


def show_importances(importances: Mapping[str, float]) -> None:
    """How much of the score's spread each key explains."""
    if importances:
        grid = Table.grid(padding=(0, 2))
        for key, share in sorted(importances.items(), key=lambda pair: -pair[1]):
            grid.add_row(key, bar(share, BAR), f"{100 * share:.0f} %")
        out.print(Text("\nimportances, among the good trials", style="bold"), grid)


def _show_found(evidence: Evidence, weighed: Sequence[Evidence]) -> None:
    out.print(Text(f"\nevidence, trained {STARTED[evidence.start]}", style="bold"))
    show_candidates(weighed or (evidence,))
    out.print(f"champion {values_text(change_of(evidence))}: {gain_text(evidence)}", highlight=False, markup=False)
    show_seeds(evidence)
    show_worth(evidence.worth)


def change_of(evidence: Evidence) -> dict[str, Value]:
    """What a candidate changes."""
    return changed(evidence.incumbent, evidence.candidate)


def show_candidates(weighed: Sequence[Evidence]) -> None:
    """Each candidate's gain as a dot with its interval, and its verdict."""
    threshold = weighed[0].threshold
    whiskers = [Whisker(found.gain, found.gain_low, found.gain_high) for found in weighed]
    line = Line.over(whiskers, threshold)
    _show_line(line.ends())
    for found, whisker in zip(weighed, whiskers, strict=True):
        out.print(assigned(change_of(found)), highlight=False, markup=False)
        _show_line(line.draw(whisker), verdict_text(found), COLOURS[found.verdict])
    _show_line(f"┊ {points(threshold)}: what BETTER needs; ├─┤ 95 % to each side", style="dim")


def show_worth(worth: Sequence[KeyWorth]) -> None:
    """What is lost when one key alone is put back."""
    if not worth:
        return
    out.print(Text("\nworth of each key on held-out seeds", style="bold"))
    line = Line.over([Whisker(key.gain, key.gain_low, key.gain_high) for key in worth])
    _show_line(line.ends())
    for key in worth:
        out.print(f"{key.key} {short(key.before)} → {short(key.after)}", highlight=False, markup=False)
        told = points(key.gain) if key.kept else f"{points(key.gain)}, dropped"
        _show_line(line.draw(Whisker(key.gain, key.gain_low, key.gain_high)), told, "green" if key.kept else "dim")


def _show_line(line: str, told: str = "", style: str = "") -> None:
    """A line of a picture, and what it says."""
    out.print(Text.assemble("  ", (line, "dim" if style == "dim" else ""), "  ", (told, style)))


def show_seeds(evidence: Evidence) -> None:
    """Each held-out seed with what runs and with the change."""
    picture = paired_dots(evidence.scores)
    if picture:
        out.print(*picture, sep="\n")
        out.print(
            f"          {len(evidence.scores)} held-out seeds: ○ as it is, ● changed", style="dim", highlight=False
        )


def show_front(front: Sequence[FrontPoint], incumbent: Values) -> None:
    """Trials that no other beats in everything."""
    if not front:
        return
    columns = {
        "trial": lambda p: p.number,
        "score": lambda p: f"{p.score:.3f}",
        "conflict": lambda p: f"{p.conflict:.3f}",
        "latency": lambda p: f"{p.latency:.3f}",
        "changes": lambda p: values_text(changed(incumbent, p.hyperparameters)) or "none: the incumbent",
    }
    out.print()
    show_rows(f"Pareto front, {len(front)} trials", front[:FRONT_LINES], columns, as_json=False)
