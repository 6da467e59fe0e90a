"""`tars demo`: everything on one machine, a study on real training, a release to live agents; told while it happens."""

import asyncio
import json
import math
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final, TextIO

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

import tars
from tars.cli.output import err, gain_text, number
from tars.cli.processes import prefixed
from tars.producers.commands import CommandRefused
from tars.runtime.settings import Settings, load_settings
from tars.schemas.evidence import Verdict
from tars.schemas.hyperparameters import changed
from tars.schemas.message import Event
from tars.schemas.study import StudyFinished
from tars.schemas.update import ReadBack, UpdateConfirmed, UpdateJudged, UpdateReloaded, UpdateRolledBack
from tars.schemas.views import AgentRow, StudyRow

if TYPE_CHECKING:
    from tars.producers.client import Client

ROLE: Final = "policy"
TRIALS: Final = 20
LOOK_SECONDS: Final = 0.5
WARM_UP_EPISODES: Final = 200
"""By then the agents know one another, and each has put a snapshot into the store that is worth starting from: earlier
its partners change faster than a trial lasts, so that nothing that a study finds would hold."""
SCORED_EPISODES: Final = 20
"""Newest episodes that a score before, or after, is the mean of."""
AFTER_SECONDS: Final = 6.0
"""How long the agents learn on before the scores after are taken."""
FORK_EPISODES: Final = 20
"""What a candidate earns in so many is evidence: no longer than the watch, which minds a dip that pays back later."""
WATCH_EPISODES: Final = 45
"""Shorter than by default, so that nobody waits; it finds only large harms."""
ROLLOUT_SECONDS: Final = 180.0
DEMO_APPROVER: Final = "demo-approver"


class DemoFailed(CommandRefused):
    """The demo did not reach its end; the message says where it stopped."""


def demo(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="No person needed: end by itself, with one line of JSON.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what every process writes.")] = False,
) -> None:
    """Start everything, tune live agents, and ask for your approval."""
    mode = {"approval_mode": "autonomous_threshold"} if once else {}
    own = {
        "use_quick_mode": True, "warm_up_episodes": WARM_UP_EPISODES, "real_training_episodes": FORK_EPISODES,
        "watch_episodes": WATCH_EPISODES,
    }  # fmt: skip
    settings = load_settings().model_copy(update={**mode, **own})
    with tempfile.TemporaryDirectory(prefix="tars-demo-") as folder:
        result = asyncio.run(_run(settings, Path(folder).resolve(), once=once, verbose=verbose))
    if result is not None:
        sys.stdout.write(json.dumps(result) + "\n")


async def _run(settings: Settings, folder: Path, *, once: bool, verbose: bool) -> dict[str, Any] | None:
    from tars.runtime.signing import OPERATOR, key_path  # noqa: PLC0415 - help must be quick
    from tars.runtime.stack import stack  # noqa: PLC0415

    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    log = (folder / "demo.log").open("a")
    sink = prefixed() if verbose else _to(log)
    err.print("starting servers, workers, eight live agents and the page ...")
    try:
        async with stack(settings, folder, sink=sink) as (endpoints, _):
            err.print(f"the page: {endpoints.dashboard}")
            key = None if settings.tars_trust else key_path(folder, OPERATOR)
            story = asyncio.create_task(asyncio.to_thread(_story, endpoints.nats, key, once=once))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({story, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not story.done():
                return None
            result = story.result()
            if not once:
                err.print(f"everything stays up; the page: {endpoints.dashboard}  (Ctrl-C stops it)")
                await stopping
            stopping.cancel()
            return result if once else None
    finally:
        log.close()


def _to(log: TextIO) -> Callable[[str, str], None]:
    def write(name: str, line: str) -> None:
        log.write(f"{name} | {line}\n")
        log.flush()

    return write


def _story(nats_url: str, key: Path | None, *, once: bool) -> dict[str, Any]:
    """Tune, release, and tell; returns what `--once` prints."""
    with tars.connect(nats_url, key=key) as bus:
        agents = _learning(bus)
        before = _scores(bus, agents)
        handle = bus.start_study(role=ROLE, trials=TRIALS, quick=True, start="snapshot")
        finished = _watch_study(bus, handle.study_id, agents)
        update_id = _release(bus, finished, once=once)
        told = Rollout(bus, update_id)
        last = told.watch(time.monotonic() + (ROLLOUT_SECONDS if once else math.inf))
        if not isinstance(last, UpdateConfirmed | UpdateRolledBack):
            raise DemoFailed(f"update {update_id} ended as {last.kind}")
        result = _result(finished, update_id, told)
        _tell(result, told.read_backs, before, _after(bus, agents))
        return result


class Rollout:
    """Tells how the update fares: the canary, what its watch finds, and how it ends."""

    def __init__(self, bus: "Client", update_id: str) -> None:
        self._bus, self._update_id = bus, update_id
        self.events: list[Event] = []
        self._printed = 0

    def watch(self, until: float) -> Event:
        """Wait until it has ended, printing what its history says meanwhile; at `until` raises DemoFailed."""
        while time.monotonic() < until:
            self.events = []
            try:
                last = self._bus.wait_for_update(self._update_id, timeout=LOOK_SECONDS, heard=self.events.append)
            except TimeoutError:
                self._print()
                continue
            time.sleep(LOOK_SECONDS)  # the history that is asked for follows the ledger
            self._print()
            return last
        raise DemoFailed(f"update {self._update_id} has not ended after {ROLLOUT_SECONDS:.0f} s")

    def _print(self) -> None:
        row = self._bus.update(self._update_id)
        for entry in row.history[self._printed :] if row else ():
            err.print(f"  {entry.text}", highlight=False, markup=False)
        self._printed = len(row.history) if row else 0

    @property
    def read_backs(self) -> list[ReadBack]:
        """Of the reloads to the new values, the first of each agent."""
        found: dict[str, ReadBack] = {}
        for event in self.events:
            for back in event.read_backs if isinstance(event, UpdateReloaded) else ():
                found.setdefault(back.agent_id, back)
        return list(found.values())


def _learning(bus: "Client") -> tuple[str, ...]:
    """Wait until the live agents have played some episodes."""
    with err.status("the agents start from Stable-Baselines3's default values, and learn ..."):
        while True:
            rows = [row for row in bus.agents() if row.role == ROLE]
            if rows and all(row.episode >= WARM_UP_EPISODES for row in rows):
                return tuple(row.agent_id for row in rows)
            time.sleep(LOOK_SECONDS)


def _watch_study(bus: "Client", study_id: str, agents: tuple[str, ...]) -> StudyFinished:
    with Live(console=err, refresh_per_second=4, transient=True) as live:
        while True:
            try:
                return bus.wait_for_study(study_id, timeout=LOOK_SECONDS)
            except TimeoutError:
                live.update(_progress(bus.study(study_id), [row for row in bus.agents() if row.agent_id in agents]))


def _progress(study: StudyRow | None, agents: Iterable[AgentRow]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    if study is not None:
        done = study.completed + study.pruned + study.failed
        grid.add_row(
            "search", ProgressBar(total=study.trials, completed=done, width=30), f"{done} of {study.trials} trials"
        )
        grid.add_row("best so far", "", f"{number(study.best_score)} (the luckiest, not evidence)")
        grid.add_row("held-out", "", f"{study.confirmations} trainings on seeds that the search never saw")
    for row in agents:
        score = "-" if row.score is None else f"{row.score:+.2f}"
        grid.add_row(row.agent_id, "", f"episode {row.episode}, score {score}, still running and learning")
    return Panel(grid, title="a study on real training", title_align="left")


def _release(bus: "Client", finished: StudyFinished, *, once: bool) -> str:
    """Get the champion approved: by the mode, by a person, or, where it is not BETTER, by hand."""
    evidence = finished.evidence
    if evidence is None or finished.champion is None:
        raise DemoFailed("no trial of the study could be weighed")
    err.print(f"evidence: [bold]{evidence.verdict}[/], {gain_text(evidence)}")
    change = changed(evidence.incumbent, finished.champion)
    for key, value in change.items():
        err.print(f"  {key}: {number(evidence.incumbent.get(key))} -> {number(value)}", highlight=False)
    if evidence.verdict is Verdict.BETTER:
        update_id = f"u-{finished.study_id}"
        _await_update(bus, update_id)
    else:
        err.print("that is not BETTER, so nothing is proposed by itself; here is the way by hand")
        update_id = bus.propose(change, role=ROLE, reason="the demo's way by hand").update_id
    if once:
        if evidence.verdict is not Verdict.BETTER:
            bus.approve(update_id, f"approved by {DEMO_APPROVER}")
    else:
        _ask(bus, update_id)
    return update_id


def _await_update(bus: "Client", update_id: str) -> None:
    for _ in range(60):
        if bus.update(update_id) is not None:
            return
        time.sleep(LOOK_SECONDS)
    raise DemoFailed(f"the champion's update {update_id} was not proposed within 30 s")


def _ask(bus: "Client", update_id: str) -> None:
    """Ask in the terminal; the page may answer first."""
    err.print(f"approve [bold]{update_id}[/] on the page, or here: [y]es / [n]o ", end="")
    if not sys.stdin.isatty():
        return  # the page, or `tars approve`, answers
    answer = ""
    while not answer:
        row = bus.update(update_id)
        if row is not None and row.stage != "pending":
            err.print(f"[dim]({row.stage} on the page)[/]")
            return
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            answer = sys.stdin.readline().strip().lower() or "n"
    if answer.startswith("y"):
        bus.approve(update_id, "approved in the demo's terminal")
    else:
        bus.reject(update_id, "rejected in the demo's terminal")


def _scores(bus: "Client", agents: Iterable[str]) -> dict[str, float]:
    """Mean behaviour score of each agent's newest episodes."""
    found = {name: [p.score for p in bus.history(name, limit=SCORED_EPISODES)] for name in agents}
    return {name: sum(scores) / len(scores) for name, scores in found.items() if scores}


def _after(bus: "Client", agents: tuple[str, ...]) -> dict[str, float]:
    with err.status("the agents go on learning with the new values ..."):
        time.sleep(AFTER_SECONDS)
    return _scores(bus, agents)


def _result(finished: StudyFinished, update_id: str, told: Rollout) -> dict[str, Any]:
    read_backs, evidence = told.read_backs, finished.evidence
    times = [back.milliseconds for back in read_backs]
    judged = [event for event in told.events if isinstance(event, UpdateJudged)]
    return {
        "study_id": finished.study_id,
        "trials": finished.completed + finished.pruned + finished.failed,
        "verdict": str(evidence.verdict) if evidence else None,
        "gain": evidence.gain if evidence else None,
        "update_id": update_id,
        "outcome": told.events[-1].kind.split(".")[1],
        "judged": [event.reason for event in judged],
        "agents_reloaded": len(read_backs),
        "reload_ms_p50": median(times) if times else None,
        "reload_ms_max": max(times) if times else None,
        "effective_equals_requested": bool(read_backs) and all(back.equal for back in read_backs),
        "weights_kept": bool(read_backs) and all(back.weights_kept for back in read_backs),
        "buffer_kept": bool(read_backs) and all(back.buffer_kept for back in read_backs),
        "events": [event.kind for event in told.events],
    }


def _tell(
    result: dict[str, Any], read_backs: Iterable[ReadBack], before: dict[str, float], after: dict[str, float]
) -> None:
    table = Table(box=None, header_style="bold")
    for heading in ("agent", "reloaded in", "read back", "weights", "buffer", "score before", "now"):
        table.add_column(heading)
    for back in read_backs:
        table.add_row(
            back.agent_id,
            f"{back.milliseconds:.1f} ms",
            "as asked" if back.equal else "DIFFERS",
            "kept" if back.weights_kept else "CHANGED",
            "kept" if back.buffer_kept else "CHANGED",
            f"{before.get(back.agent_id, float('nan')):+.2f}",
            f"{after.get(back.agent_id, float('nan')):+.2f}",
        )
    note = Text("scores before and now are a picture, not evidence: the agents were learning all along", style="dim")
    err.print(Group(table, note))
    outcome, name = result["outcome"].replace("-", " "), result["update_id"]
    err.print(f"{name}: {outcome}; every event: tars history {name}", highlight=False)
