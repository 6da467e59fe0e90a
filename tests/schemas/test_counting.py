"""Counts are told as people say them."""

import pytest

from tars.schemas.counting import counted


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 studies"), (1, "1 study"), (2, "2 studies"), (1204, "1,204 studies")]
)
def test_one_study_several_studies(count: int, told: str) -> None:
    assert counted(count, "study", "studies") == told


def test_most_plurals_are_the_word_with_an_s() -> None:
    assert [counted(count, "agent") for count in (1, 2)] == ["1 agent", "2 agents"]
