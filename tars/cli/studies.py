"""Commands about studies: start, stop, show."""

from collections.abc import Sequence
from typing import Annotated, cast, get_args

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import tars
from tars.cli.output import AsJson, clock, err, gain_text, number, out, show_json, show_rows, values_text
from tars.producers.async_client import NobodyAnswers
from tars.producers.client import StudyHandle
from tars.producers.commands import CommandRefused
from tars.schemas.hyperparameters import AlgorithmName
from tars.schemas.study import Sampler, StudyFinished
from tars.schemas.trial import Normalize
from tars.schemas.views import StudyRow

study = typer.Typer(help="Search for better values.", no_args_is_help=True)
POLL_SECONDS = 0.5


@study.command()
def start(
    *,
    role: Annotated[str | None, typer.Option("--role", help="All live agents of a role.")] = None,
    agent: Annotated[list[str] | None, typer.Option("--agent", help="An agent; repeat it.")] = None,
    algorithm: Annotated[str | None, typer.Option("--algorithm", help="No target: only search.")] = None,
    environment: Annotated[
        str | None, typer.Option("--environment", help="With --algorithm: what to train in.")
    ] = None,
    score_range: Annotated[
        tuple[float, float] | None, typer.Option("--score-range", help="Returns that count as 0 and 1.")
    ] = None,
    normalize: Annotated[
        list[str] | None, typer.Option("--normalize", help="observations or rewards; repeat it.")
    ] = None,
    trainer: Annotated[str, typer.Option("--trainer", help="population, sb3, or module:function.")] = "population",
    trials: Annotated[int, typer.Option("--trials", min=1, max=1000)] = 20,
    quick: Annotated[bool | None, typer.Option("--quick/--full", help="Length of search trials.")] = None,
    sampler: Annotated[str, typer.Option("--sampler", help="tpe or random.")] = "tpe",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    structural: Annotated[bool, typer.Option("--structural", help="Search the shape of training too.")] = False,
    study_id: Annotated[str | None, typer.Option("--id", help="Its id; made up unless given.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its result, with a progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a study."""
    with tars.connect() as bus:
        handle = bus.start_study(
            role=role, agents=tuple(agent or ()), algorithm=_algorithm(algorithm), study_id=study_id, trials=trials,
            quick=quick, sampler=_sampler(sampler), seed=seed, structural=structural, environment=environment,
            score_range=score_range, normalize=_normalize(normalize or ()), trainer=trainer,
        )  # fmt: skip
        if not wait:
            show_json({"study_id": handle.study_id}) if as_json else out.print(f"{handle.study_id}: started")
            return
        finished = _wait(handle, trials)
    _show_result(finished, as_json=as_json)


def _algorithm(name: str | None) -> AlgorithmName | None:
    if name is None:
        return None
    for known in get_args(AlgorithmName):
        if name == known:
            return cast("AlgorithmName", known)
    raise typer.BadParameter(f"there is no algorithm {name}; there are {', '.join(get_args(AlgorithmName))}")


def _normalize(names: Sequence[str]) -> tuple[Normalize, ...]:
    for name in names:
        if name not in get_args(Normalize):
            raise typer.BadParameter(f"{name} cannot be normalised; {' and '.join(get_args(Normalize))} can")
    return tuple(cast("Normalize", name) for name in names)


def _sampler(name: str) -> Sampler:
    if name in {"tpe", "random"}:
        return "tpe" if name == "tpe" else "random"
    raise typer.BadParameter(f"there is no sampler {name}; there are tpe and random")


def _wait(handle: StudyHandle, trials: int) -> StudyFinished:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        search = progress.add_task("search", total=trials)
        held_out = progress.add_task("held-out seeds", total=None)
        while True:
            try:
                return handle.wait(timeout=POLL_SECONDS)
            except TimeoutError:
                row = _progress(handle)
            if row is not None:
                progress.update(search, completed=row.completed + row.pruned + row.failed)
                progress.update(held_out, completed=row.confirmations)


def _progress(handle: StudyHandle) -> StudyRow | None:
    try:
        return handle.progress()
    except NobodyAnswers:
        return None  # the consumers are away: the study goes on, only its bar stands still


def _show_result(finished: StudyFinished, *, as_json: bool) -> None:
    if as_json:
        show_json(finished)
        return
    counts = f"{finished.completed} trials completed, {finished.pruned} pruned, {finished.failed} failed"
    out.print(f"{finished.study_id}: {counts}")
    found = finished.evidence
    if found is None or finished.champion is None:
        out.print("no champion could be weighed")
        return
    out.print(f"{found.verdict}: {gain_text(found)}")
    out.print(values_text({key: v for key, v in finished.champion.items() if found.incumbent.get(key) != v}))


@study.command()
def stop(
    study_id: str, *, reason: Annotated[str, typer.Option("--reason", "-r")] = "", as_json: AsJson = False
) -> None:
    """End a study at its next step."""
    with tars.connect() as bus:
        bus.stop_study(study_id, reason)
    show_json({"study_id": study_id, "outcome": "stopped"}) if as_json else out.print(f"{study_id}: stopped")


@study.command("list")
def list_studies(*, as_json: AsJson = False) -> None:
    """Show all studies, newest first."""
    with tars.connect() as bus:
        rows = bus.studies()
    columns = {
        "study": lambda r: r.study_id,
        "stage": lambda r: r.stage,
        "for": lambda r: ", ".join(r.agents) or r.algorithm,
        "trials": lambda r: f"{r.completed}+{r.pruned}+{r.failed} of {r.trials}",
        "best": lambda r: number(r.best_score),
        "evidence": lambda r: f"{r.evidence.verdict} {r.evidence.gain:+.3f}" if r.evidence else "-",
        "started": lambda r: f"{clock(r.started_at)} by {r.by}",
    }
    show_rows("studies", rows, columns, as_json=as_json)


@study.command()
def show(study_id: str, *, as_json: AsJson = False) -> None:
    """Show a study's trials."""
    with tars.connect() as bus:
        row = bus.study(study_id)
        trials = bus.trials(study_id)
    if row is None:
        raise CommandRefused(f"there is no study {study_id}")
    if as_json:
        show_json({"study": row.model_dump(mode="json"), "trials": [trial.model_dump(mode="json") for trial in trials]})
        return
    out.print(
        f"{row.study_id}: {row.stage}, {row.completed} completed, {row.pruned} pruned, {row.failed} failed, "
        f"{row.confirmations} held-out"
    )
    columns = {
        "trial": lambda t: t.number,
        "phase": lambda t: t.phase,
        "stage": lambda t: t.stage,
        "score": lambda t: number(t.score),
        "values": lambda t: values_text({key: t.hyperparameters[key] for key in row.searched}),
        "error": lambda t: t.error or "",
    }
    show_rows("trials", trials, columns, as_json=False)
