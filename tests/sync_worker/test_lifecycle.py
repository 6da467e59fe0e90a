"""The life of an update: who may do what, and when."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given as forall
from hypothesis import strategies as st

from story import ADA, AGENTS, BOB, CHANGE, NOW, VALUES, agent, evidence, given
from tars.schemas.errors import Refused
from tars.schemas.evidence import Evidence, Verdict
from tars.schemas.message import By, Signed
from tars.schemas.running import RunningAgent
from tars.schemas.update import (
    APPLY_WITHIN,
    ApplyUpdate,
    ApproveUpdate,
    ProposeUpdate,
    RejectUpdate,
    RollBackUpdate,
    UpdateApproved,
    UpdateCommand,
    UpdateConfirmed,
    UpdateEvent,
    UpdateFailed,
    UpdateProposed,
    UpdateRefused,
    UpdateRejected,
    UpdateReleased,
    UpdateRollBackRequested,
    UpdateRolledBack,
    UpdateStarted,
    content_of,
)
from tars.sync_worker.findings import Findings
from tars.sync_worker.lifecycle import EXPIRY, Facts, Stage, Update, decide, evolve, replay

BASE = {"a": 0, "b": 0}
PROPOSE = ProposeUpdate(update_id="u", agents=("a", "b"), values=CHANGE)
APPROVE, REJECT = ApproveUpdate(update_id="u"), RejectUpdate(update_id="u")
APPLY, ROLL_BACK = ApplyUpdate(update_id="u"), RollBackUpdate(update_id="u", reason="worse")
PROPOSED = UpdateProposed(
    update_id="u", by=ADA, values=CHANGE, base=BASE, before={"a": VALUES, "b": VALUES}, evidence=None, study_id=None,
    reason="", expires_at=NOW + EXPIRY, strictness="medium", content="",
)  # fmt: skip
CONTENT = content_of(PROPOSED).digest()
PROPOSED = PROPOSED.model_copy(update={"content": CONTENT})
APPROVED = UpdateApproved(
    update_id="u", by=ADA, mode="manual", reason="", hold=False, apply_until=NOW + APPLY_WITHIN, single_operator=True
)
HELD = APPROVED.model_copy(update={"hold": True})
RELEASED = UpdateReleased(update_id="u", by=ADA)
SIGNED = Signed(key="k", id="c", subject="s", body="{}", signature="")
STARTED = UpdateStarted(update_id="u", agents=("a", "b"))
CONFIRMED = UpdateConfirmed(update_id="u")
REJECTED = UpdateRejected(update_id="u", by=ADA, reason="")
REFUSED = UpdateRefused(update_id="u", by=ADA, reasons=("no",), agents=("a",), values=CHANGE)
WANTED_BACK = UpdateRollBackRequested(update_id="u", by=ADA, reason="worse")
FAILED = UpdateFailed(update_id="u", error="given up")
ROLLED_BACK = UpdateRolledBack(update_id="u", by=ADA, reason="worse", read_backs=(), unreached={})
SHORT_OF_B = ROLLED_BACK.model_copy(update={"unreached": {"b": "it did not accept within 10 s"}})
LIVE = (PROPOSED, APPROVED, RELEASED, STARTED, CONFIRMED)


def test_a_valid_proposal_waits_for_approval_with_what_its_agents_run() -> None:
    given().when(PROPOSE).then(PROPOSED)


def test_a_proposal_that_breaks_rules_is_refused_with_all_of_them() -> None:
    wrong = ProposeUpdate(update_id="u", agents=("a", "ghost"), values={"gamma": 1.5, "tau": 0.0, "gama": 1.0})
    given().when(wrong).then_refused("no agent ghost", "gamma = 1.5", "tau = 0", "gama is no hyperparameter")


def test_the_same_proposal_twice_changes_nothing() -> None:
    given(PROPOSED).when(PROPOSE).then()
    moved = {"a": agent("a", heard=7), "b": agent("b")}
    given(PROPOSED).where(agents=moved).when(PROPOSE).then()


def test_another_proposal_under_a_known_id_is_refused() -> None:
    other = PROPOSE.model_copy(update={"values": {"learning_rate": 2e-3}})
    given(PROPOSED).when(other).then_refused("another update has this id")


def test_an_approval_releases_at_once() -> None:
    given(PROPOSED).when(APPROVE).then(APPROVED, RELEASED)


def test_an_approval_on_hold_waits_to_be_applied() -> None:
    given(PROPOSED).when(APPROVE.model_copy(update={"hold": True})).then(HELD)
    given(PROPOSED, HELD).when(APPLY).then(RELEASED)
    given(PROPOSED, HELD, RELEASED).when(APPLY).then()


def test_approving_twice_changes_nothing_and_somebody_else_is_told() -> None:
    given(PROPOSED, APPROVED, RELEASED).when(APPROVE).then()
    given(PROPOSED, APPROVED, RELEASED).where(by=BOB).when(APPROVE).then_refused("update is released")
    given(PROPOSED, HELD).when(APPROVE).then_refused("update is approved on hold: apply it")
    given(*LIVE).when(APPROVE).then_refused("update is confirmed")


def test_nothing_can_be_done_with_what_nobody_proposed() -> None:
    for command in (APPROVE, REJECT, APPLY, ROLL_BACK):
        given().when(command).then_answered("there is no update u")
        given(REFUSED).when(command).then_refused("its proposal was refused")
    given(REFUSED).when(PROPOSE).then_refused("propose again under a new id")


@pytest.mark.parametrize("end", [REJECTED, WANTED_BACK, ROLLED_BACK], ids=["rejected", "rolling back", "rolled back"])
def test_what_has_ended_cannot_be_approved_or_rejected(end: UpdateEvent) -> None:
    given(PROPOSED, end).when(APPROVE).then_refused("update is")
    given(PROPOSED, end).when(REJECT).then_refused("update is")


def test_a_pending_update_can_be_rejected_a_released_one_only_rolled_back() -> None:
    given(PROPOSED).when(REJECT).then(REJECTED)
    given(PROPOSED, APPROVED, RELEASED).when(REJECT).then_refused("roll it back instead")
    given(PROPOSED).when(ROLL_BACK).then_refused("reject it instead")


def test_a_released_update_can_be_taken_back_also_after_confirmation_and_once() -> None:
    given(PROPOSED, APPROVED, RELEASED).when(ROLL_BACK).then(WANTED_BACK.model_copy(update={"what": "all"}))
    given(*LIVE).when(ROLL_BACK).then(WANTED_BACK.model_copy(update={"what": "values"}))
    whole = ROLL_BACK.model_copy(update={"what": "all"})
    given(*LIVE).when(whole).then(WANTED_BACK.model_copy(update={"what": "all"}))
    given(*LIVE, WANTED_BACK).when(ROLL_BACK).then()
    given(*LIVE, WANTED_BACK, ROLLED_BACK).when(ROLL_BACK).then_refused("update is rolled back")


def test_a_rollback_that_did_not_reach_every_agent_may_be_asked_for_again() -> None:
    whole, again = WANTED_BACK.model_copy(update={"what": "all"}), ROLL_BACK.model_copy(update={"over_later": True})
    given(*LIVE, whole, SHORT_OF_B).when(again).then(whole.model_copy(update={"over_later": True}))
    given(*LIVE, whole, SHORT_OF_B, whole, ROLLED_BACK).when(again).then_refused("update is rolled back")


def test_an_agent_that_has_moved_on_supersedes_the_update() -> None:
    moved = {"a": agent("a", heard=7), "b": agent("b")}
    given(PROPOSED).where(agents=moved).when(APPROVE).then_kinds("command-refused", "superseded")
    given(PROPOSED, HELD).where(agents=moved).when(APPLY).then_kinds("command-refused", "superseded")


def test_an_agent_whose_code_changed_its_values_supersedes_the_update() -> None:
    changed = {"a": agent("a", tau=0.5), "b": agent("b")}
    refused, superseded = given(PROPOSED).where(agents=changed).when(APPROVE).events()
    assert refused.reasons == superseded.reasons == ("a runs other values than when this was proposed",)  # type: ignore[union-attr] # both have


def test_an_update_for_an_agent_that_stopped_waits_until_it_runs_again() -> None:
    stopped = {"a": replace(agent("a"), alive=False), "b": agent("b")}
    given(PROPOSED).where(agents=stopped).when(APPROVE).then_refused("a does not run")
    given(PROPOSED, HELD).where(agents=stopped).when(APPLY).then_refused("a does not run")


def test_an_expired_update_can_be_neither_approved_nor_applied() -> None:
    late = NOW + EXPIRY + timedelta(seconds=1)
    given(PROPOSED).where(time=late).when(APPROVE).then_refused("expired")
    given(PROPOSED, HELD).where(time=late).when(APPLY).then_refused("expired")


def test_an_approval_is_of_the_content_that_was_proposed_until_a_moment_to_come() -> None:
    named = APPROVE.model_copy(update={"content": CONTENT, "apply_until": NOW + timedelta(hours=1)})
    given(PROPOSED).when(named).then_kinds("approved", "released")
    given(PROPOSED).when(APPROVE.model_copy(update={"content": "0" * 64})).then_refused("approves another content")
    given(PROPOSED).where(signed=SIGNED).when(APPROVE).then_refused("names the content it approves")
    given(PROPOSED.model_copy(update={"values": {"gamma": 0.5}})).when(named).then_refused("not what was proposed")
    given(PROPOSED).where(time=NOW + timedelta(hours=2)).when(named).then_refused("applying it until")
    held = HELD.model_copy(update={"apply_until": NOW})
    given(PROPOSED, held).where(time=NOW + timedelta(seconds=1)).when(APPLY).then_refused("applying it until")


def test_an_approval_is_kept_as_it_was_signed() -> None:
    named = APPROVE.model_copy(update={"content": CONTENT})
    approved, _ = given(PROPOSED).where(signed=SIGNED, by=BOB).when(named).events()
    assert isinstance(approved, UpdateApproved)
    assert (approved.signed, approved.by, approved.single_operator) == (SIGNED, BOB, False)


def test_who_may_not_is_refused_and_cannot_spoil_an_id_that_is_still_to_come() -> None:
    known = {"barred": "ada may not", "by": By(principal="ada", signed=True)}
    given(PROPOSED).where(**known).when(APPROVE).then_refused("ada may not")
    given(PROPOSED).where(**known).when(PROPOSE).then_refused("ada may not")
    given().where(**known).when(PROPOSE).then_answered("ada may not")
    given().where(**known).when(APPROVE).then_answered("no update")


def test_who_proves_no_name_is_answered_and_adds_nothing_to_any_history() -> None:
    for history in ((), (PROPOSED,)):
        for command in (PROPOSE, APPROVE):
            given(*history).where(barred="it is not signed").when(command).then_answered("it is not signed")


def test_four_eyes_keep_a_proposer_from_approving() -> None:
    given(PROPOSED).where(four_eyes=True).when(APPROVE).then_refused("four eyes")
    given(PROPOSED).where(four_eyes=True, by=BOB).when(APPROVE).then_kinds("approved", "released")


def found_by(found: Evidence | None) -> Findings:
    """What a study of these agents tells that found this."""
    return Findings(BASE, frozenset({found.digest()} if found else ()), scaled=True)


FOUND = found_by(evidence(Verdict.BETTER))


def with_evidence(found: Evidence | None) -> ProposeUpdate:
    return PROPOSE.model_copy(update={"evidence": found, "study_id": "s"})


def test_a_command_that_is_late_is_refused() -> None:
    given(PROPOSED).where(late=True).when(APPROVE).then_refused("after its deadline")
    given().where(late=True).when(PROPOSE).then_refused("after its deadline")


@pytest.mark.parametrize(
    ("mode", "found", "verbs"),
    [
        ("manual", evidence(Verdict.BETTER), ("proposed",)),
        ("autonomous_threshold", evidence(Verdict.BETTER), ("proposed", "approved", "released")),
        ("autonomous_threshold", evidence(Verdict.BETTER, gain=0.01), ("proposed",)),
        ("autonomous_threshold", evidence(Verdict.INCONCLUSIVE), ("proposed",)),
        ("autonomous_threshold", evidence(Verdict.BETTER, training="surrogate"), ("proposed",)),
        ("autonomous_threshold", None, ("proposed",)),
        ("autonomous_all", None, ("proposed", "approved", "released")),
    ],
)
def test_a_mode_approves_by_itself_only_what_it_may(mode: str, found: Evidence | None, verbs: tuple[str, ...]) -> None:
    young = {"a": 10, "b": 50}
    given().where(mode=mode, episodes=young, study=found_by(found)).when(with_evidence(found)).then_kinds(*verbs)


@pytest.mark.parametrize(
    ("study_id", "study", "why"),
    [
        (None, None, "it names no study"),
        ("s", None, "the ledger knows of no study s that found its evidence"),
        ("s", replace(FOUND, evidence=frozenset()), "the ledger knows of no study s that found its evidence"),
        ("s", replace(FOUND, evidence=frozenset({evidence(Verdict.BETTER, gain=0.3).digest()})), "no study s"),
        ("s", replace(FOUND, base={"a": 0}), "study s was not about b at the version of now"),
        ("s", replace(FOUND, base={"a": 0, "b": 7}), "study s was not about b at the version of now"),
        ("s", replace(FOUND, scaled=False), "study s has no score_range"),
    ],
)
def test_evidence_that_no_study_of_the_ledger_found_about_these_agents_is_left_to_a_person(
    study_id: str | None, study: Findings | None, why: str
) -> None:
    propose = with_evidence(evidence(Verdict.BETTER)).model_copy(update={"study_id": study_id})
    asked = given().where(mode="autonomous_threshold", episodes={"a": 1, "b": 1}, study=study).when(propose)
    (proposed,) = asked.events()
    assert isinstance(proposed, UpdateProposed)
    assert why in proposed.doubt


@pytest.mark.parametrize(
    ("episodes", "why"),
    [
        ({"a": 50, "b": 51}, "trains 50 episodes from scratch, b has run 51 episodes: a study with start=snapshot"),
        ({"a": 800, "b": 900}, "a has run 800 episodes and 1 more"),
        ({"a": 1}, "b has run nobody knows how many episodes"),
    ],
)
def test_evidence_from_scratch_is_left_to_a_person_for_agents_that_are_older_than_a_trial(
    episodes: dict[str, int], why: str
) -> None:
    propose = with_evidence(evidence(Verdict.BETTER))
    old = given().where(mode="autonomous_threshold", episodes=episodes, study=FOUND)
    (proposed,) = old.when(propose).events()
    assert isinstance(proposed, UpdateProposed)
    assert why in proposed.doubt
    forked = with_evidence(evidence(Verdict.BETTER, start="snapshot"))
    old.where(study=found_by(forked.evidence)).when(forked).then_kinds("proposed", "approved", "released")
    given().where(mode="autonomous_all", episodes=episodes).when(propose).then_kinds("proposed", "approved", "released")


def test_nothing_is_doubted_that_no_mode_would_have_approved() -> None:
    for mode, found in (("manual", Verdict.BETTER), ("autonomous_threshold", Verdict.INCONCLUSIVE)):
        propose = PROPOSE.model_copy(update={"evidence": evidence(found)})
        (proposed,) = given().where(mode=mode).when(propose).events()
        assert isinstance(proposed, UpdateProposed)
        assert proposed.doubt == ""


def test_no_mode_approves_what_is_invalid() -> None:
    wrong = PROPOSE.model_copy(update={"values": {"gamma": 2.0}})
    given().where(mode="autonomous_all").when(wrong).then_refused("gamma")


COMMANDS: list[UpdateCommand] = [
    PROPOSE, APPROVE, APPROVE.model_copy(update={"hold": True}), REJECT, APPLY, ROLL_BACK,
]  # fmt: skip
ROLLOUT: dict[Stage, list[UpdateEvent]] = {
    Stage.RELEASED: [STARTED],
    Stage.RELOADING: [CONFIRMED, WANTED_BACK],
    Stage.ROLLING_BACK: [ROLLED_BACK, FAILED, SHORT_OF_B],
}
"""What a rollout may do next at each stage."""
WAYS: dict[Stage, set[Stage]] = {
    Stage.UNKNOWN: {Stage.REFUSED, Stage.PENDING},
    Stage.PENDING: {Stage.REJECTED, Stage.SUPERSEDED, Stage.APPROVED},
    Stage.APPROVED: {Stage.REJECTED, Stage.SUPERSEDED, Stage.RELEASED},
    Stage.RELEASED: {Stage.RELOADING, Stage.ROLLING_BACK},
    Stage.RELOADING: {Stage.CONFIRMED, Stage.ROLLING_BACK},
    Stage.CONFIRMED: {Stage.ROLLING_BACK},
    Stage.ROLLING_BACK: {Stage.ROLLED_BACK, Stage.FAILED},
    Stage.ROLLED_BACK: {Stage.ROLLING_BACK},
}
"""The design's picture: where an update can go from each stage."""
MOVED = {"a": agent("a", heard=7), "b": agent("b")}
Step = tuple[int, By, Mapping[str, RunningAgent], bool]
STEPS = st.tuples(
    st.integers(0, len(COMMANDS) + 2), st.sampled_from([ADA, BOB]), st.sampled_from([AGENTS, MOVED, {}]), st.booleans()
)


def events_of(state: Update, step: Step) -> list[UpdateEvent]:
    """What a command, or a step of the rollout, leads to."""
    number, by, agents, late = step
    if number >= len(COMMANDS):
        return ROLLOUT.get(state.stage, [])[number - len(COMMANDS) :][:1]
    try:
        return decide(state, COMMANDS[number], Facts(id="c", time=NOW, by=by, agents=agents, late=late))
    except Refused:
        assert state.stage is Stage.UNKNOWN
        return []


@forall(st.lists(STEPS, max_size=30))
def test_no_sequence_of_commands_and_rollout_steps_leaves_the_designs_picture(steps: list[Step]) -> None:
    ledger: list[UpdateEvent] = []
    state = Update()
    for step in steps:
        events = events_of(state, step)
        for event in events:
            before, state = state.stage, evolve(state, event)
            assert state.stage is before or state.stage in WAYS.get(before, set())
        ledger += events
        assert replay(ledger) == state
