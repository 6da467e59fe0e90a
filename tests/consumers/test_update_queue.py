"""What people read of an update's history."""

from examples import EXAMPLES, NOON
from tars.consumers.update_queue import row
from tars.schemas.update import UpdateProposed


def test_a_proposal_that_the_mode_leaves_to_a_person_says_why() -> None:
    proposed = EXAMPLES["update.proposed.v1"]
    assert isinstance(proposed, UpdateProposed)
    doubted = row(proposed.model_copy(update={"doubt": "its agent is old"}), None, NOON)
    plain = row(proposed, None, NOON)
    assert doubted is not None
    assert plain is not None
    assert doubted.history[0].text == f"{plain.history[0].text}; it waits for a person: its agent is old"
