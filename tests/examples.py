"""One valid message of every kind: the life of one study, the update it led to, and the agent that was reloaded.

Written out in full, not derived from defaults: the samples in tests/wire were made from these, and never change.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

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
    ConfigureAgent,
)
from tars.schemas.evidence import Evidence, PairedScore, Verdict
from tars.schemas.game import GameReported
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By, Message
from tars.schemas.session import SessionReported
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import (
    StartStudy,
    StopStudy,
    StudyFailed,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    StudyStopped,
)
from tars.schemas.trial import RunTrial, TrialCompleted, TrialFailed, TrialPruned, TrialReported
from tars.schemas.update import (
    ApplyUpdate,
    ApproveUpdate,
    ProposeUpdate,
    ReadBack,
    RejectUpdate,
    RollBackUpdate,
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
GRACE = By(principal="grace", signed=True)
NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LATER = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
AGENT, STUDY, UPDATE = "world-1-policy", "s-17", "u-s-17"
HOLDER = "host-4711-0a1b2c3d"

RUNNING: dict[str, Value] = {
    "learning_rate": 0.0001, "gamma": 0.99, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05,
    "exploration_fraction": 0.2, "batch_size": 64, "buffer_size": 16384, "learning_starts": 512,
    "target_update_interval": 16, "tau": 0.05, "train_freq": 1, "gradient_steps": 1, "max_grad_norm": 10.0,
}  # fmt: skip
"""The whole set that the agent runs at first."""
CHANGE: dict[str, Value] = {"learning_rate": 0.0012, "gamma": 0.95}
CHAMPION: dict[str, Value] = {**RUNNING, **CHANGE}

EVIDENCE = Evidence(
    verdict=Verdict.BETTER,
    algorithm="dqn",
    environment="policy",
    start="scratch",
    training="real",
    code_version="0.10.0",
    train_episodes=50,
    eval_episodes=10,
    incumbent=RUNNING,
    candidate=CHAMPION,
    scores=(
        PairedScore(seed=101, incumbent=0.5, candidate=0.625),
        PairedScore(seed=102, incumbent=0.25, candidate=0.5),
    ),
    gain=0.1875,
    gain_low=0.0625,
    gain_high=0.3125,
    p_value=0.004,
    threshold=0.03,
    look=1,
    search_gain=0.25,
)
READ_BACK = ReadBack(
    agent_id=AGENT, version=42, requested=CHAMPION, effective=CHAMPION, step=1200, milliseconds=3.5,
    weights_kept=True, buffer_kept=True,
)  # fmt: skip
TAKEN_BACK = READ_BACK.model_copy(update={"version": 43, "requested": RUNNING, "effective": RUNNING})

STUDIES = (
    StartStudy(study_id=STUDY, role="policy", trials=20, quick=True, sampler="tpe", seed=7, deadline=NOON),
    StopStudy(study_id=STUDY, reason="enough seen", deadline=NOON),
    StudyStarted(
        study_id=STUDY, by=ADA, algorithm="dqn", environment="policy", base={AGENT: 41}, incumbent=RUNNING,
        searched=("learning_rate", "gamma"), trials=20, quick=True, search_episodes=(10, 5), full_episodes=(50, 10),
        sampler="tpe", seed=7, structural=False, threshold=0.03, training="real",
    ),
    StudyResumed(study_id=STUDY, holder=HOLDER, delivery=2),
    StudyFinished(study_id=STUDY, completed=19, failed=1, champion=CHAMPION, evidence=EVIDENCE),
    StudyStopped(study_id=STUDY, by=GRACE, reason="enough seen"),
    StudyFailed(study_id=STUDY, error="its coordinators died five times in a row"),
)  # fmt: skip

TRIALS = (
    RunTrial(
        study_id=STUDY, number=3, phase="search", algorithm="dqn", environment="policy", hyperparameters=CHAMPION,
        seed=4611686018427387905, train_episodes=10, eval_episodes=5, training="real",
    ),
    TrialCompleted(study_id=STUDY, number=3, score=0.75, exact_score=0.7421875, cpu_seconds=1.5, holder=HOLDER),
    TrialFailed(study_id=STUDY, number=4, score=-1000.0, error="FloatingPointError: it diverged", holder=HOLDER),
    TrialPruned(study_id=STUDY, number=5, score=0.25, episode=20, cpu_seconds=0.125, holder=HOLDER),
    TrialReported(study_id=STUDY, number=3, episode=4, score=0.5),
)  # fmt: skip

UPDATES = (
    ProposeUpdate(
        update_id=UPDATE, agents=(AGENT,), values=CHANGE, base={AGENT: 41}, evidence=EVIDENCE, study_id=STUDY,
        reason="champion of study s-17", expires_at=LATER, deadline=NOON,
    ),
    ApproveUpdate(update_id=UPDATE, reason="gain 0.19 on held-out seeds", hold=True, deadline=NOON),
    RejectUpdate(update_id=UPDATE, reason="not today", deadline=NOON),
    ApplyUpdate(update_id=UPDATE, deadline=NOON),
    RollBackUpdate(update_id=UPDATE, reason="changed my mind", deadline=NOON),
    UpdateProposed(
        update_id=UPDATE, by=ADA, values=CHANGE, base={AGENT: 41}, before={AGENT: RUNNING}, evidence=EVIDENCE,
        study_id=STUDY, reason="champion of study s-17", expires_at=LATER, strictness="medium", content="5f" * 32,
    ),
    UpdateRefused(
        update_id=UPDATE, by=ADA, reasons=("gamma = 1.5 must lie in 0..1",), agents=(AGENT,), values={"gamma": 1.5}
    ),
    UpdateApproved(update_id=UPDATE, by=GRACE, mode="manual", reason="gain 0.19 on held-out seeds", hold=True),
    UpdateRejected(update_id=UPDATE, by=GRACE, reason="not today"),
    UpdateSuperseded(update_id=UPDATE, by=GRACE, reasons=(f"{AGENT} has moved on",)),
    UpdateCommandRefused(
        update_id=UPDATE, by=ADA, command="update.reject.v1", reasons=("it is released: roll it back",)
    ),
    UpdateReleased(update_id=UPDATE, by=GRACE),
    UpdateRollBackRequested(update_id=UPDATE, by=ADA, reason="changed my mind"),
    UpdateResumed(update_id=UPDATE, holder=HOLDER, delivery=1),
    UpdateStarted(update_id=UPDATE, agents=(AGENT,)),
    UpdateReloaded(update_id=UPDATE, read_backs=(READ_BACK,)),
    UpdateJudged(
        update_id=UPDATE, stage="canary", verdict="CONFIRM", then="go on", reason="a loss of 10 points is excluded",
        effect=0.05, effect_low=-0.02, effect_high=0.12, slot=24, reloaded=(AGENT,), compared=("world-2-policy",),
        smallest_harm=0.33, stopped_early=False,
    ),
    UpdateConfirmed(update_id=UPDATE),
    UpdateRolledBack(
        update_id=UPDATE, by=ADA, reason="changed my mind", read_backs=(TAKEN_BACK,),
        unreached={"world-2-policy": "it does not run"},
    ),
    UpdateFailed(update_id=UPDATE, error="its sync workers died five times in a row"),
)  # fmt: skip

AGENTS = (
    ConfigureAgent(agent_id=AGENT, update_id=UPDATE, purpose="update", base=41, values=CHAMPION, by=GRACE),
    AgentStarted(
        agent_id=AGENT, run_id="r-1", role="policy", algorithm="dqn", world="world-1", values=RUNNING,
        heard_version=41, applied_version=0,
    ),
    AgentAccepted(agent_id=AGENT, version=42, update_id=UPDATE, applies="live"),
    AgentReloaded(
        agent_id=AGENT, version=42, update_id=UPDATE, requested=CHAMPION, effective=CHAMPION, step=1200,
        weights_before="ab" * 32, weights_after="ab" * 32, buffer_before=512, buffer_after=512, milliseconds=3.5,
    ),
    AgentRefused(agent_id=AGENT, version=42, update_id=UPDATE, reasons=("tau = 0 must lie above 0 and at most at 1",)),
    AgentRestored(
        agent_id=AGENT, version=43, update_id=UPDATE, weights="ab" * 32,
        snapshot=SnapshotRef(
            name=f"{AGENT}.r-1.600", agent_id=AGENT, sha256="cd" * 32, episode=600, step=19200, version=41
        ),
    ),
    AgentLost(agent_id=AGENT, run_id="r-1", update_id=UPDATE, seconds=15.5),
    AgentStopped(agent_id=AGENT, run_id="r-1", cause="signal", detail="SIGTERM"),
    AgentReported(agent_id=AGENT, run_id="r-1", episode=12, step=1200, score=0.5, version=42),
    AgentBeat(agent_id=AGENT, run_id="r-1", episode=12),
)  # fmt: skip

OTHERS = (
    GameReported(
        game_id="world-1", episode=12, conflicts={"veto": 0.25, "starved": 0.125}, latency=1.5, nash_conv=0.75,
        gains={"policy": 0.5, "consensus": 0.25, "ethical": 0.0, "resource": 0.0},
    ),
    SessionReported(session_id="page-1", page="approvals"),
)  # fmt: skip

EXAMPLES: Mapping[str, Message] = {message.kind: message for message in (*STUDIES, *TRIALS, *UPDATES, *AGENTS, *OTHERS)}
"""Kind -> its example."""
