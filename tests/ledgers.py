"""Random ledgers for the projection, what it has to make of them, and how to look at what it made."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tars.consumers.boards import Stored
from tars.runtime.view_store import Views
from tars.schemas.agent import (
    AgentAccepted,
    AgentBeat,
    AgentLost,
    AgentRefused,
    AgentReloaded,
    AgentReported,
    AgentRestored,
    AgentStarted,
    AgentStopped,
)
from tars.schemas.evidence import Evidence, KeyWorth, PairedScore, Verdict, Weights
from tars.schemas.game import GameReported
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By, Message
from tars.schemas.session import SessionReported
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import FrontPoint, StudyFailed, StudyFinished, StudyResumed, StudyStarted, StudyStopped
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned, TrialReported
from tars.schemas.update import (
    ReadBack,
    UpdateApproved,
    UpdateCommandRefused,
    UpdateConfirmed,
    UpdateFailed,
    UpdateJudged,
    UpdateProposed,
    UpdateRefused,
    UpdateRejected,
    UpdateReleased,
    UpdateReloaded,
    UpdateResumed,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
    UpdateSuperseded,
)

ADA = By(principal="ada")
HOLDER = "host-1-ab"
START = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
VALUES: dict[str, Value] = {"learning_rate": 0.001, "gamma": 0.99}

SNAPSHOT = SnapshotRef(name="a1.r1.50", agent_id="a1", sha256="ab" * 32, episode=50, step=900, version=3)
EVIDENCE = Evidence(
    verdict=Verdict.BETTER, algorithm="dqn", environment="policy", start="snapshot", training="real",
    code_version="0.10.0", train_episodes=50, eval_episodes=10, incumbent=VALUES, candidate={**VALUES, "gamma": 0.98},
    scores=(
        PairedScore(seed=101, incumbent=0.5, candidate=0.625), PairedScore(seed=102, incumbent=0.5, candidate=0.75),
    ),
    gain=0.1875, gain_low=0.125, gain_high=0.25, p_value=0.004, threshold=0.03, look=1, search_gain=None,
    worth=(
        KeyWorth(key="gamma", before=0.99, after=0.98, gain=0.1, gain_low=0.05, gain_high=0.15, seeds=8, kept=True),
    ),
)  # fmt: skip

STAGES: dict[type[Message], str] = {
    UpdateProposed: "pending", UpdateRefused: "refused", UpdateApproved: "approved", UpdateRejected: "rejected",
    UpdateSuperseded: "superseded", UpdateReleased: "released", UpdateStarted: "reloading",
    UpdateReloaded: "reloaded", UpdateConfirmed: "confirmed", UpdateRollBackRequested: "rolling back",
    UpdateRolledBack: "rolled back", UpdateFailed: "failed",
}  # fmt: skip


def read_back(agent: str) -> ReadBack:
    return ReadBack(
        agent_id=agent, version=3, requested=VALUES, effective=VALUES, step=40, milliseconds=1.5,
        weights_kept=True, buffer_kept=True,
    )  # fmt: skip


def update_events(name: str) -> list[Message]:
    """One of each kind of event of an update."""
    who: dict[str, Any] = {"update_id": name, "by": ADA}
    return [
        UpdateProposed(
            **who, values={"gamma": 0.98}, base={"a1": 0}, before={"a1": VALUES}, evidence=None, study_id=None,
            reason="", expires_at=START, strictness="medium", content="0" * 64,
        ),
        UpdateRefused(**who, reasons=("gamma is too low",), agents=("a1",), values={"gamma": 0.1}),
        UpdateApproved(**who, mode="manual", reason="fine", hold=False),
        UpdateRejected(**who, reason="not now"),
        UpdateSuperseded(**who, reasons=("a1 moved on",)),
        UpdateCommandRefused(**who, command="update.apply.v1", reasons=("it is not held",)),
        UpdateReleased(**who),
        UpdateRollBackRequested(**who, reason="worse"),
        UpdateResumed(update_id=name, holder=HOLDER, delivery=1),
        UpdateStarted(update_id=name, agents=("a1",)),
        UpdateReloaded(update_id=name, read_backs=(read_back("a1"),)),
        UpdateJudged(
            update_id=name, stage="canary", verdict="INCONCLUSIVE", then="go on", reason="kept, not proven",
            effect=0.01, effect_low=-0.2, effect_high=0.22, slot=60, reloaded=("a1",), compared=(), smallest_harm=0.3,
            stopped_early=False,
        ),
        UpdateConfirmed(update_id=name),
        UpdateRolledBack(**who, reason="worse", read_backs=(read_back("a1"),), unreached={"a2": "stopped"}),
        UpdateFailed(update_id=name, error="no answer"),
    ]  # fmt: skip


def study_events(name: str) -> list[Message]:
    """One of each kind of event of a study."""
    return [
        StudyStarted(
            study_id=name, by=ADA, algorithm="dqn", environment="policy", base={"a1": 0}, incumbent=VALUES,
            searched=("gamma",), trials=4, quick=True, search_episodes=(2, 1), full_episodes=(4, 2), sampler="random",
            seed=1, structural=False, threshold=0.03, start="snapshot", snapshots=(SNAPSHOT,), objective="pareto",
            weights=Weights(conflict=2.0), candidates=({"gamma": 0.98},), wall_seconds=90.0, propose=False,
        ),
        StudyResumed(study_id=name, holder=HOLDER, delivery=1),
        StudyFinished(
            study_id=name, completed=3, failed=1, champion=VALUES, evidence=EVIDENCE, weighed=(EVIDENCE,) * 2,
            front=(FrontPoint(number=2, hyperparameters=VALUES, score=0.5, conflict=0.25, latency=0.125),),
            importances={"gamma": 1.0},
        ),
        StudyStopped(study_id=name, by=ADA, reason="enough"),
        StudyFailed(study_id=name, error="broken"),
    ]  # fmt: skip


def agent_events(name: str, dice: random.Random) -> list[Message]:
    """One of each kind of event of an agent."""
    changed: dict[str, Value] = {**VALUES, "gamma": round(dice.uniform(0.9, 0.99), 3)}
    version = dice.randrange(1, 9)
    return [
        AgentStarted(
            agent_id=name, run_id=f"r{version}", role="policy", algorithm="dqn", world="w1", values=VALUES,
            heard_version=0, applied_version=0,
        ),
        AgentAccepted(agent_id=name, version=version, update_id="u1", applies="live"),
        AgentReloaded(
            agent_id=name, version=version, update_id="u1", requested=changed, effective=changed, step=40,
            weights_before="a", weights_after="a", buffer_before=5, buffer_after=5, milliseconds=2.5,
        ),
        AgentRefused(agent_id=name, version=version, update_id="u1", reasons=("no",)),
        AgentRestored(
            agent_id=name, version=version, update_id="u1", weights="a",
            snapshot=SnapshotRef(
                name=f"{name}.r1.50", agent_id=name, sha256="0" * 64, episode=50, step=40, version=version
            ),
        ),
        AgentLost(agent_id=name, run_id="r1", update_id="u1", seconds=16.0),
        AgentStopped(agent_id=name, run_id="r1", cause="finished"),
    ]  # fmt: skip


def events(dice: random.Random, count: int) -> Iterator[Message]:
    """Events of the ledger in any order, also in orders that no worker would write."""
    for _ in range(count):
        noun = dice.choice(("update", "update", "study", "agent"))
        if noun == "update":
            yield dice.choice(update_events(f"u{dice.randrange(12)}"))
        elif noun == "study":
            yield dice.choice(study_events(f"s{dice.randrange(3)}"))
        else:
            yield dice.choice(agent_events(f"a{dice.randrange(4)}", dice))


def trials(dice: random.Random, count: int) -> Iterator[Message]:
    """Trials of three studies: asked for first, most of them with one outcome."""
    for number in range(count):
        place: dict[str, Any] = {"study_id": f"s{number % 3}", "number": number}
        yield RunTrial(
            **place, phase=dice.choice(("search", "confirmation", "ablation")), algorithm="dqn", environment="policy",
            hyperparameters=VALUES, seed=number, train_episodes=5, eval_episodes=2,
            snapshot=dice.choice((None, SNAPSHOT)),
        )  # fmt: skip
        outcome = dice.random()
        if outcome < 0.6:
            yield TrialCompleted(
                **place, score=dice.uniform(-1, 1), conflict=dice.choice((None, 0.5)),
                latency=dice.choice((None, 0.25)), cpu_seconds=0.1, holder=HOLDER,
            )  # fmt: skip
        elif outcome < 0.7:
            yield TrialPruned(**place, score=dice.uniform(-1, 1), episode=2, cpu_seconds=0.1, holder=HOLDER)
        elif outcome < 0.8:
            yield TrialFailed(**place, error="diverged", holder=HOLDER)


def reports(dice: random.Random, count: int) -> Iterator[Message]:
    """Every kind of report."""
    for episode in range(count):
        agent = f"a{dice.randrange(4)}"
        yield dice.choice(
            (
                AgentReported(
                    agent_id=agent, run_id="r1", episode=episode, step=episode * 4, score=dice.uniform(0, 1), version=0
                ),
                AgentBeat(agent_id=agent, run_id="r1", episode=episode),
                GameReported(
                    game_id="w1", episode=episode, conflicts={"veto": dice.random()}, latency=0.1, nash_conv=0.2,
                    gains={"policy": dice.random()},
                ),
                TrialReported(study_id="s0", number=dice.randrange(9) * 3, episode=dice.randrange(6), score=0.1),
                SessionReported(session_id=f"p{dice.randrange(5)}", page="agents"),
            )
        )  # fmt: skip


def ledger(stream: str, seed: int, count: int) -> list[Message]:
    """A random content of one stream."""
    dice = random.Random(seed)
    return list({"EVENTS": events, "TRIALS": trials, "REPORTS": reports}[stream](dice, count))


def stored(messages: Iterable[Message], *, every: float = 7.0) -> list[Stored]:
    """As a stream would hold them, `every` seconds one."""
    return [
        Stored(number, START + timedelta(seconds=number * every), message.subject, message.model_dump_json().encode())
        for number, message in enumerate(messages, start=1)
    ]


MEASURED: dict[str, float] = {"history_cap": 0, "utilisation": 0.0, "redis_bytes": 0, "redis_keys": 0}
"""What a worker measures of its Redis: it comes from no stream."""


def held(views: Views) -> dict[str, Any]:
    """Everything that views tell of streams, as plain data: two are equal when people cannot tell them apart."""
    names = [row.agent_id for row in views.agents()]
    studies = [row.study_id for row in views.studies(0, 1000)]
    found: dict[str, Any] = {
        "agents": views.agents(),
        "pending": views.pending(),
        "updates": views.updates(0, 1000),
        "studies": views.studies(0, 1000),
        "conflicts": views.conflicts(0, 1000),
        "equilibria": views.equilibria(0, 1000),
        "dead": views.dead(0, 1000),
        "history": {name: views.history(name, 0, 1000) for name in names},
        "trials": {name: views.trials(name) for name in studies},
        "stats": views.stats().model_copy(update=MEASURED),
    }
    return found


def expected_stages(messages: Sequence[Message]) -> dict[str, str]:
    """What stage each update must show: that of the last event that moves one, once somebody has proposed it."""
    found: dict[str, str] = {}
    for message in messages:
        if message.noun == "update" and (message.key in found or type(message) in {UpdateProposed, UpdateRefused}):
            found[message.key] = STAGES.get(type(message), found.get(message.key, ""))
    return found


def expected_counts(messages: Sequence[Message], study: str) -> dict[str, int]:
    """What a study must count, by counting."""
    asked = {m.number: m.phase for m in messages if isinstance(m, RunTrial) and m.study_id == study}
    ended = [m for m in messages if isinstance(m, TrialCompleted | TrialPruned | TrialFailed) and m.study_id == study]
    search = [m for m in ended if asked[m.number] == "search"]
    return {
        "asked": sum(phase == "search" for phase in asked.values()),
        "completed": sum(isinstance(m, TrialCompleted) for m in search),
        "pruned": sum(isinstance(m, TrialPruned) for m in search),
        "failed": sum(isinstance(m, TrialFailed) for m in search),
        "confirmations": len(ended) - len(search),
    }


def expected_histories(messages: Sequence[Message], cap: int) -> dict[str, list[int]]:
    """The episodes that each agent's history must hold, newest first."""
    found: dict[str, list[int]] = defaultdict(list)
    for message in messages:
        if isinstance(message, AgentReported):
            found[message.agent_id] = [message.episode, *found[message.agent_id]][:cap]
    return dict(found)
