"""Commands about studies: start, watch, stop, list, show."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tars
from tars.cli import completion
from tars.cli import study_options as options
from tars.cli.output import PAGE, AsJson, Limit, Offset, clock, number, out, show_json, show_page, verdict_text
from tars.cli.processes import MissingExtra
from tars.cli.study_report import show_finished, show_row
from tars.cli.watching import watch as follow
from tars.producers.commands import CommandRefused, StudyOptions
from tars.schemas.study import StudyFinished
from tars.schemas.views import StudyRow, TrialRow

if TYPE_CHECKING:
    from tars.producers.client import Client

study = typer.Typer(help="Search for better values.", no_args_is_help=True)
Name = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Its id, as `tars study list` shows it.", autocompletion=completion.studies),
]


@study.command()
def start(
    *,
    role: options.Role = None,
    agent: options.Agents = None,
    algorithm: options.Learner = None,
    environment: options.Environment = None,
    score_range: options.ScoreRange = None,
    normalize: options.Normalized = None,
    trainer: options.Trainer = "population",
    trials: options.Trials = 20,
    quick: options.Quick = None,
    sampler: options.By = "tpe",
    seed: options.Seed = 0,
    structural: options.Structural = False,
    snapshot: options.Snapshot = False,
    objective: options.Aim = "reward",
    conflict_weight: options.ConflictWeight = None,
    latency_weight: options.LatencyWeight = None,
    wall_seconds: options.WallSeconds = None,
    warm_start: options.WarmStart = True,
    explain: options.Explain = True,
    propose: options.Propose = True,
    study_id: options.StudyId = None,
    wait: options.Wait = False,
    as_json: AsJson = False,
) -> None:
    """Start a study."""
    weights = {name: w for name, w in (("conflict", conflict_weight), ("latency", latency_weight)) if w is not None}
    if weights and objective != "penalty":
        raise typer.BadParameter("weights are those of --objective penalty")
    asked = StudyOptions(
        environment=environment, score_range=score_range, normalize=options.normalized(normalize or ()),
        trainer=trainer, quick=quick, sampler=sampler, seed=seed, structural=structural,
        start="snapshot" if snapshot else "scratch", objective=objective, weights=weights, wall_seconds=wall_seconds,
        warm_start=warm_start, explain=explain, propose=propose,
    )  # fmt: skip
    with tars.connect() as bus:
        handle = bus.start_study(
            role=role, agents=tuple(agent or ()), algorithm=algorithm, study_id=study_id, trials=trials, **asked
        )
        if not wait:
            show_json({"study_id": handle.study_id}) if as_json else out.print(f"{handle.study_id}: started")
            return
        _show_result(bus, follow(bus, handle.study_id), as_json=as_json)


@study.command()
def watch(
    study_id: Name,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON at each change, the result as the last.")
    ] = False,
) -> None:
    """Follow a study to its result, from any terminal, at any time; Ctrl-C leaves it running."""
    with tars.connect() as bus:
        _show_result(bus, follow(bus, study_id, as_json=as_json), as_json=as_json)


def _show_result(bus: "Client", finished: StudyFinished, *, as_json: bool) -> None:
    """Raises CommandRefused where no trial could be weighed: what the last of those that failed said is why."""
    show_json(finished) if as_json else show_finished(finished)
    if finished.evidence is None:
        errors = _errors(bus, finished.study_id)
        raise CommandRefused(": ".join((f"{finished.study_id}: no champion could be weighed", *errors[-1:])))


def _errors(bus: "Client", study_id: str) -> list[str]:
    """Why its trials failed, as far as somebody answers."""
    from tars.producers.async_client import NobodyAnswers  # noqa: PLC0415 - help must be quick

    with suppress(NobodyAnswers):
        return [trial.error for trial in bus.trials(study_id) if trial.error]
    return []


@study.command()
def stop(
    study_id: Name, *, reason: Annotated[str, typer.Option("--reason", "-r")] = "", as_json: AsJson = False
) -> None:
    """End a study at its next step."""
    with tars.connect() as bus:
        bus.stop_study(study_id, reason)
    show_json({"study_id": study_id, "outcome": "stopped"}) if as_json else out.print(f"{study_id}: stopped")


@study.command("list")
def list_studies(*, limit: Limit = PAGE, offset: Offset = 0, as_json: AsJson = False) -> None:
    """Show studies, newest first."""
    with tars.connect() as bus:
        rows = bus.studies(offset=offset, limit=limit)
    columns = {
        "study": lambda r: r.study_id,
        "stage": lambda r: r.stage,
        "for": _target,
        "trials": lambda r: f"{r.completed + r.pruned + r.failed}/{r.trials}" if r.trials else "fork",
        "best": lambda r: number(r.best_score and round(r.best_score, 3)),
        "evidence": _evidence,
        "started": lambda r: clock(r.started_at),
        "by": lambda r: r.by,
    }
    show_page("studies", rows, columns, limit=limit, offset=offset, as_json=as_json)


def _evidence(row: StudyRow) -> str:
    if row.evidence is None:
        return "no result" if row.stage == "finished" else "-"
    return verdict_text(row.evidence)


def _target(row: StudyRow) -> str:
    """An agent by name, several by their role and number, without any what is trained."""
    if len(row.agents) > 1:
        return f"{len(row.agents)} {row.environment}"
    return row.agents[0] if row.agents else f"{row.algorithm}, {row.environment}"


@study.command()
def show(
    study_id: Name,
    *,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write Optuna's plots into one HTML file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a study has found so far: trials, importances, evidence, what each key is worth."""
    with tars.connect() as bus:
        row = bus.study(study_id)
        if row is None:
            raise CommandRefused(f"there is no study {study_id}: `tars study list` shows all")
        trials = _all_trials(bus, study_id)
    if html is not None:
        _write_plots(html, row, trials)
    if as_json:
        show_json({"study": row.model_dump(mode="json"), "trials": [trial.model_dump(mode="json") for trial in trials]})
    elif html is None:
        show_row(row, trials)
    else:
        out.print(f"{html}: Optuna's plots of {study_id}", highlight=False, soft_wrap=True)


def _all_trials(bus: "Client", study_id: str) -> list[TrialRow]:
    """Page by page: one answer holds so many."""
    found: list[TrialRow] = []
    while page := bus.trials(study_id, offset=len(found)):
        found += page
    return found


def _write_plots(file: Path, row: StudyRow, trials: list[TrialRow]) -> None:
    if not any(trial.phase == "search" and trial.stage == "completed" for trial in trials):
        raise CommandRefused(f"study {row.study_id} has no completed search trial to plot")
    try:
        from tars.automl_worker.plots import plots  # noqa: PLC0415 - an extra, and slow to load

        page = plots(row, trials)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"--html needs {error.name}: pip install 'tars-rl[plots]'") from error
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise CommandRefused(f"{file} was not written: {error.strerror}") from error
