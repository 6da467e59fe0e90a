"""`tars fork`: is a change better for a running agent than going on as it is? Asked of copies, never of the agent."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

import tars
from tars.cli import completion
from tars.cli.output import AsJson, err, gain_text, out, show_json, values_text
from tars.cli.study_options import StudyId
from tars.cli.study_report import change_of, show_candidates, show_seeds
from tars.cli.updates import parse_value
from tars.cli.watching import watch
from tars.dashboard.wording import span
from tars.producers.commands import CommandRefused
from tars.schemas.counting import counted
from tars.schemas.evidence import Evidence, Verdict
from tars.schemas.hyperparameters import Value
from tars.schemas.message import Frozen
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import MOST_CANDIDATES, StudyFinished, StudyStarted
from tars.schemas.views import AgentPoint, AgentRow
from tars.sync_worker.findings import update_id_of

if TYPE_CHECKING:
    from tars.producers.client import Client

PROPOSED_SECONDS: Final = 15.0
"""How long to wait until a sync worker has proposed the best candidate."""
LOOK_SECONDS: Final = 0.2


class From(Frozen):
    """The snapshot that a fork went on from."""

    agent_id: str
    snapshot: str
    episode: int
    episodes_ago: int | None
    """How many the agent had finished since when the fork began; None: nobody says."""
    seconds_ago: float | None


def fork(
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", help="As `tars agents` shows it.", autocompletion=completion.agents)
    ],
    *,
    tries: Annotated[
        list[str],
        typer.Option(
            "--try",
            metavar="KEY=VALUE[,KEY=VALUE]",
            help="A candidate; up to three of them.",
            autocompletion=completion.hyperparameters,
        ),
    ],
    propose: Annotated[bool, typer.Option("--propose", help="Propose the best one, if it is BETTER.")] = False,
    study_id: StudyId = None,
    as_json: AsJson = False,
) -> None:
    """Ask copies of a running agent whether a change is better for it than going on as it is."""
    candidates = candidates_of(tries)
    with tars.connect() as bus:
        handle = bus.fork(agent, candidates, study_id=study_id, propose=propose)
        origin = _origin(bus, handle.study_id)
        if origin is not None:
            err.print(told_of(origin), highlight=False, markup=False, soft_wrap=True)
        finished = watch(bus, handle.study_id)
        best = best_of(finished.weighed)
        update_id = _proposed(bus, finished.study_id) if propose and best else None
    if not finished.weighed:
        raise CommandRefused(f"fork {finished.study_id}: no candidate could be weighed: its trials failed")
    if as_json:
        show_json(answer(finished, origin, update_id))
    else:
        _show(finished, best, update_id, asked=propose)


def candidates_of(tries: Sequence[str]) -> list[dict[str, Value]]:
    """Read each `key=value,key=value` as one candidate; raises typer.BadParameter."""
    if len(tries) > MOST_CANDIDATES:
        raise typer.BadParameter(f"{len(tries)} candidates are too many for one fork: at most {MOST_CANDIDATES}")
    found: list[dict[str, Value]] = []
    for text in tries:
        pairs = [parse_value(part) for part in text.split(",")]
        candidate = dict(pairs)
        if len(candidate) < len(pairs):
            raise typer.BadParameter(f"{text!r} sets a key twice")
        if candidate in found:
            raise typer.BadParameter(f"{text!r} is asked twice")
        found.append(candidate)
    return found


def _origin(bus: "Client", study_id: str) -> From | None:
    """Where the fork goes on from; None: it has not been told of."""
    from tars.producers.async_client import NobodyAnswers  # noqa: PLC0415 - help must be quick

    started = next((event for event in bus.events("study", study_id) if isinstance(event, StudyStarted)), None)
    if started is None or not started.snapshots:
        return None
    snapshot = started.snapshots[0]
    try:
        agent = next((row for row in bus.agents() if row.agent_id == snapshot.agent_id), None)
        return origin_of(snapshot, agent, bus.history(snapshot.agent_id))
    except NobodyAnswers:
        return origin_of(snapshot, None, ())


def origin_of(snapshot: SnapshotRef, agent: AgentRow | None, history: Iterable[AgentPoint]) -> From:
    """How old a snapshot is, by the episodes that its agent has told of; `history`: newest first."""
    points = list(history)
    then = next((point.at for point in points if point.episode == snapshot.episode), None)
    return From(
        agent_id=snapshot.agent_id,
        snapshot=snapshot.name,
        episode=snapshot.episode,
        episodes_ago=max(0, agent.episode - snapshot.episode) if agent else None,
        seconds_ago=(points[0].at - then).total_seconds() if then else None,
    )


def told_of(origin: From) -> str:
    """Where a fork goes on from, in one line."""
    episodes = [] if origin.episodes_ago is None else [counted(origin.episodes_ago, "episode")]
    seconds = [] if origin.seconds_ago is None else [span(origin.seconds_ago)]
    age = " or ".join([*episodes, *seconds])
    return f"{origin.agent_id}: copies go on from its snapshot of episode {origin.episode}" + (
        f", which is {age} old; the agent itself runs on" if age else "; the agent itself runs on"
    )


def best_of(weighed: Iterable[Evidence]) -> Evidence | None:
    """The BETTER one with the highest gain; None: none is."""
    better = [found for found in weighed if found.verdict is Verdict.BETTER]
    return max(better, key=lambda found: found.gain, default=None)


def answer(finished: StudyFinished, origin: From | None, update_id: str | None) -> dict[str, object]:
    """What a fork has found, for programs."""
    kept = ("verdict", "gain", "gain_low", "gain_high", "threshold", "p_value", "conflict_gain", "latency_gain")
    return {
        "study_id": finished.study_id,
        "from": origin.model_dump(mode="json") if origin else None,
        "candidates": [
            {
                "change": change_of(found),
                **found.model_dump(mode="json", include=set(kept)),
                "seeds": len(found.scores),
                "scores": [[pair.incumbent, pair.candidate] for pair in found.scores],
            }
            for found in finished.weighed
        ],
        "update_id": update_id,
    }


def _show(finished: StudyFinished, best: Evidence | None, update_id: str | None, *, asked: bool) -> None:
    show_candidates(finished.weighed)
    for found in finished.weighed:
        out.print(f"\n{values_text(change_of(found))}: {found.verdict}", style="bold", highlight=False, markup=False)
        out.print(gain_text(found), highlight=False, markup=False)
        show_seeds(found)
    if best is None:
        out.print("\nnone is better than going on as it is" + ("; nothing is proposed" if asked else ""))
    elif update_id is not None:
        out.print(
            f"\n{update_id}: proposed; `tars approve {update_id}` lets it through", highlight=False, soft_wrap=True
        )
    elif asked:
        out.print("\nnot proposed yet: does a sync worker run, with HYPERPARAM_SYNC_ENABLED?", soft_wrap=True)


def _proposed(bus: "Client", study_id: str) -> str | None:
    """The id of the update that the fork's champion became; None: nobody has proposed it in time."""
    update_id, end = update_id_of(study_id), time.monotonic() + PROPOSED_SECONDS
    while time.monotonic() < end:
        if bus.events("update", update_id):
            return update_id
        time.sleep(LOOK_SECONDS)
    return None
