"""What people read of an update's history."""

from examples import ADA, AGENT, EXAMPLES, NOON, READ_BACK
from tars.consumers.update_queue import row
from tars.schemas.update import ROLLOUT, UpdateProposed, UpdateRejected, UpdateRollBackRequested, UpdateRolledBack


def test_a_proposal_that_the_mode_leaves_to_a_person_says_why() -> None:
    proposed = EXAMPLES["update.proposed.v1"]
    assert isinstance(proposed, UpdateProposed)
    doubted = row(proposed.model_copy(update={"doubt": "its agent is old"}), None, NOON)
    plain = row(proposed, None, NOON)
    assert doubted is not None
    assert plain is not None
    assert doubted.history[0].text == f"{plain.history[0].text}; it waits for a person: its agent is old"


def test_a_roll_back_says_of_whom_only_the_values_went_back() -> None:
    proposed = EXAMPLES["update.proposed.v1"]
    assert isinstance(proposed, UpdateProposed)
    story = row(proposed, None, NOON)
    asked = UpdateRollBackRequested(update_id="u", by=ADA, reason="worse", what="all", over_later=True)
    story = row(asked, story, NOON)
    assert story is not None
    assert story.history[-1].text == (
        "to be rolled back (values, weights and optimiser), with the updates that came after it: worse"
    )
    backs = (READ_BACK, READ_BACK.model_copy(update={"agent_id": "other"}))
    ended = UpdateRolledBack(
        update_id="u", by=ADA, reason="worse", read_backs=backs, restored=(AGENT,), unreached={"gone": "stopped"}
    )
    story = row(ended, story, NOON)
    assert story is not None
    assert story.history[-1].text == (
        f"rolled back on 2 agents, with weights and optimiser on {AGENT}; of other only the values, for no snapshot "
        "could be restored: worse; gone was not reached: stopped"
    )


def test_what_the_rollout_does_by_itself_is_told_as_done_by_nobody() -> None:
    """It is TARS that does it, not a person whom no signature proves."""
    proposed = EXAMPLES["update.proposed.v1"]
    assert isinstance(proposed, UpdateProposed)
    asked = UpdateRollBackRequested(update_id="u", by=ROLLOUT, reason="worse", what="all")
    story = row(asked, row(proposed, None, NOON), NOON)
    assert story is not None
    assert story.history[-1].by is None
    story = row(UpdateRejected(update_id="u", by=ROLLOUT, reason="no"), story, NOON)
    assert story is not None
    assert story.history[-1].by == "rollout (unsigned)"  # somebody who calls himself so
