"""Messages that use the fields which came after the first example of their kind; each has a sample of its own.

A sample is never edited: what was added to a kind later stands in `tests/wire/<kind>.2.json`, and what comes after that
in `.3.json`. Here: a study from a snapshot, its signed update, watched with twins, and what becomes of it.
"""

from collections.abc import Mapping

from examples import ADA as UNSIGNED
from examples import (
    AGENT,
    CHAMPION,
    CHANGE,
    EVIDENCE,
    GRACE,
    HOLDER,
    LATER,
    NOON,
    READ_BACK,
    RUNNING,
    STUDY,
    TAKEN_BACK,
    UPDATE,
)
from tars.schemas.agent import AgentReloaded, AgentReported, ConfigureAgent
from tars.schemas.evidence import KeyWorth, Weights
from tars.schemas.message import By, Login, Message, Signed
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import FrontPoint, StartStudy, StudyFinished, StudyStarted
from tars.schemas.trial import RunTrial, TrialCompleted
from tars.schemas.update import (
    ApproveUpdate,
    RollBackUpdate,
    UpdateApproved,
    UpdateConfirmed,
    UpdateJudged,
    UpdateProposed,
    UpdateRejected,
    UpdateReleased,
    UpdateReloaded,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
)

ADA = By(principal="ada", signed=True)
SNAPSHOT = SnapshotRef(
    name=f"{AGENT}.r-1.v42", agent_id=AGENT, sha256="cd" * 32, episode=600, step=19200, version=41
)  # fmt: skip
COPY = SNAPSHOT.model_copy(update={"name": f"{STUDY}.{AGENT}"})
SIGNED = Signed(
    key="0123456789abcdef", id="c-1", subject=f"tars.command.update.approve.v1.{UPDATE}",
    body='{"update_id":"u-s-17"}', signature="c2lnbmF0dXJl",
)  # fmt: skip
WEIGHTS = Weights(conflict=0.5, latency=0.25)
PENALISED = EVIDENCE.model_copy(
    update={
        "start": "snapshot", "objective": "penalty", "weights": WEIGHTS, "conflict_gain": -0.125,
        "latency_gain": 0.0625, "snapshots": (f"{AGENT}:{'cd' * 32}",),
        "worth": (
            KeyWorth(
                key="gamma", before=0.99, after=0.95, gain=0.125, gain_low=0.0625, gain_high=0.1875, seeds=16, kept=True
            ),
        ),
    }
)  # fmt: skip

STUDIES = (
    StartStudy(
        study_id=STUDY, agents=(AGENT,), score_range=(0.0, 500.0), normalize=("observations", "rewards"), trainer="sb3",
        trials=40, candidates=(CHANGE,), start="snapshot", objective="penalty", weights=WEIGHTS, wall_seconds=600.0,
        warm_start=False, explain=False, propose=False, sampler="random", structural=True, deadline=NOON,
    ),
    StudyStarted(
        study_id=STUDY, by=ADA, algorithm="dqn", environment="policy", base={AGENT: 41}, incumbent=RUNNING,
        searched=("learning_rate", "gamma"), trials=40, quick=False, search_episodes=(50, 10), full_episodes=(50, 10),
        sampler="random", seed=7, structural=True, threshold=0.03, score_range=(0.0, 500.0),
        normalize=("observations", "rewards"), trainer="sb3", training="surrogate", start="snapshot",
        snapshots=(SNAPSHOT,), candidates=(CHANGE,), objective="penalty", weights=WEIGHTS, wall_seconds=600.0,
        warm=(CHAMPION,), explain=True, propose=False,
    ),
    StudyFinished(
        study_id=STUDY, completed=30, pruned=9, failed=1, champion=CHAMPION, evidence=PENALISED, weighed=(PENALISED,),
        front=(FrontPoint(number=3, hyperparameters=CHAMPION, score=0.75, conflict=0.25, latency=0.5),),
        importances={"learning_rate": 0.75, "gamma": 0.25},
    ),
)  # fmt: skip

TRIALS = (
    RunTrial(
        study_id=STUDY, number=3, phase="search", algorithm="dqn", environment="policy", hyperparameters=CHAMPION,
        seed=4611686018427387905, train_episodes=50, eval_episodes=10, training="surrogate", deadline=NOON,
        score_range=(0.0, 500.0), normalize=("observations",), trainer="sb3", rungs=(20, 40), snapshot=COPY,
    ),
    TrialCompleted(
        study_id=STUDY, number=3, score=0.75, exact_score=0.7421875, cpu_seconds=1.5, holder=HOLDER, conflict=0.25,
        latency=0.5,
    ),
)  # fmt: skip

UPDATES = (
    ApproveUpdate(
        update_id=UPDATE, reason="gain 0.19 on held-out seeds", content="5f" * 32, apply_until=LATER, deadline=NOON
    ),
    RollBackUpdate(update_id=UPDATE, reason="it hurts", what="all", over_later=True, deadline=NOON),
    UpdateProposed(
        update_id=UPDATE, by=ADA, values=CHANGE, base={AGENT: 41}, before={AGENT: RUNNING}, evidence=PENALISED,
        study_id=STUDY, reason="champion of study s-17", expires_at=LATER, strictness="high", content="5f" * 32,
        doubt="its evidence is from scratch, and the agent has run 600 episodes",
    ),
    UpdateApproved(
        update_id=UPDATE, by=GRACE, mode="manual", reason="gain 0.19 on held-out seeds", hold=False, apply_until=LATER,
        signed=SIGNED, single_operator=True,
    ),
    UpdateRollBackRequested(update_id=UPDATE, by=UNSIGNED, reason="it hurts", what="all", over_later=True),
    UpdateStarted(
        update_id=UPDATE, agents=(AGENT, "world-2-policy"), canary=(AGENT,), twins=True, slot_seconds=0.5, slots=30,
        smallest_harm=0.25, normalised=False, unwatched="its agents report too few episodes",
    ),
    UpdateReloaded(
        update_id=UPDATE, stage="canary", attempt=2, before={AGENT: (0.5, None, 0.625)},
        read_backs=(READ_BACK.model_copy(update={"snapshot": SNAPSHOT, "weights": "ab" * 32}),),
    ),
    UpdateJudged(
        update_id=UPDATE, stage="canary", attempt=2, verdict="INCONCLUSIVE", then="widen",
        reason="too little was heard", effect=None, effect_low=None, effect_high=None, slot=30,
        reloaded=(AGENT,), compared=(f"{AGENT}-twin",), smallest_harm=None, stopped_early=True,
    ),
    UpdateConfirmed(update_id=UPDATE, reason="not watched: its agents report no episodes"),
    UpdateRolledBack(
        update_id=UPDATE, by=GRACE, reason="it hurts", restored=(AGENT,), unreached={},
        read_backs=(TAKEN_BACK.model_copy(update={"weights": "ab" * 32}),),
    ),
)  # fmt: skip

AGENTS = (
    ConfigureAgent(
        agent_id=AGENT, update_id=UPDATE, purpose="rollback", base=41, values=RUNNING, by=GRACE, snapshot_first=True,
        restore=SNAPSHOT, twin=60, content='{"values":{"gamma":0.95}}', approval=SIGNED, deadline=NOON,
    ),
    AgentReloaded(
        agent_id=AGENT, version=42, update_id=UPDATE, requested=CHAMPION, effective=CHAMPION, step=1200,
        weights_before="ab" * 32, weights_after="ab" * 32, buffer_before=512, buffer_after=512, milliseconds=3.5,
        snapshot=SNAPSHOT, twin=True,
    ),
    AgentReported(
        agent_id=f"{AGENT}-twin", run_id="r-1", episode=12, step=1200, score=0.5, version=42, finite=False, twin=True
    ),
)  # fmt: skip

LOGIN = Login(
    issuer="https://idp.example.org", subject="f3a9", name="bo@example.org", groups=("tars-approvers",),
    roles=("approver", "viewer"), issued_at=NOON, expires_at=LATER, token="7a" * 32,
)  # fmt: skip
BO = By(principal="https://idp.example.org#f3a9", signed=True, login=LOGIN)
SPOKEN = Signed(
    key="0b" * 16, id="c-1", subject=f"tars.command.update.approve.v1.{UPDATE}", body="{}", signature="c2ln",
    on_behalf=LOGIN.canonical().decode(),
)  # fmt: skip

LATER_ONES: Mapping[str, Message] = {
    "update.proposed.v1.3": UPDATES[2].model_copy(update={"signed": SPOKEN}),
    "update.approved.v1.3": UpdateApproved(
        update_id=UPDATE, by=BO, mode="manual", reason="", hold=False, apply_until=LATER, signed=SPOKEN
    ),
    "update.rejected.v1.2": UpdateRejected(update_id=UPDATE, by=BO, reason="not today", signed=SPOKEN),
    "update.released.v1.2": UpdateReleased(update_id=UPDATE, by=BO, signed=SPOKEN),
    "update.roll-back-requested.v1.3": UpdateRollBackRequested(
        update_id=UPDATE, by=BO, reason="it hurts", what="all", over_later=True, signed=SPOKEN
    ),
    "agent.configure.v1.3": ConfigureAgent(
        agent_id=AGENT, update_id=UPDATE, purpose="update", base=41, values=CHAMPION, by=BO, approval=SPOKEN
    ),
    "agent.reported.v1.3": AgentReported(
        agent_id=AGENT, run_id="r-1", episode=12, step=1200, score=0.0, version=42, finite=False, failed=True
    ),
}

NEWER_EXAMPLES: Mapping[str, Message] = {
    **{f"{message.kind}.2": message for message in (*STUDIES, *TRIALS, *UPDATES, *AGENTS)},
    **LATER_ONES,
}
"""Name of its sample -> the message."""
