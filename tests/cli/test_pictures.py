"""Evidence in plain text: everything is where its number says, and nothing is drawn outside."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tars.cli.pictures import HEIGHT, WIDTH, Line, Whisker, bar, paired_dots
from tars.schemas.evidence import PairedScore

scores = some.floats(-3, 3)
whiskers = some.lists(
    some.tuples(scores, scores, scores).map(lambda found: Whisker(sorted(found)[1], min(found), max(found))), min_size=1
)


def test_a_gain_is_drawn_between_the_ends_of_its_interval_right_of_zero_and_threshold() -> None:
    better = Whisker(0.12, 0.05, 0.19)
    drawn = Line.over([better], threshold=0.03).draw(better)
    assert [drawn.index(mark) for mark in "│┊├●┤"] == sorted(drawn.index(mark) for mark in "│┊├●┤")


def test_an_interval_that_crosses_zero_and_the_threshold_shows_both() -> None:
    undecided = Whisker(0.1, -0.1, 0.2)
    drawn = Line.over([undecided], threshold=0.03).draw(undecided)
    assert drawn.index("├") < drawn.index("┼") < drawn.index("╂") < drawn.index("●") < drawn.index("┤")


@given(whiskers, some.sampled_from([None, 0.03]))
def test_whatever_is_drawn_fits_the_line(found: list[Whisker], threshold: float | None) -> None:
    line = Line.over(found, threshold)
    assert {len(line.draw(whisker)) for whisker in found} == {WIDTH}
    assert len(line.ends()) == WIDTH
    assert all(line.draw(whisker).count("●") == 1 for whisker in found)


def test_the_ends_of_a_line_are_in_percentage_points_with_zero_where_it_lies() -> None:
    ends = Line(-0.1, 0.3).ends()
    assert (ends.split()[0], ends.split()[-2:]) == ("-10.0", ["+30.0", "pp"])
    assert ends.index("0 ", 5) == Line(-0.1, 0.3).cell(0)


def pairs(*found: tuple[float, float]) -> list[PairedScore]:
    return [PairedScore(seed=n, incumbent=old, candidate=new) for n, (old, new) in enumerate(found)]


def test_each_seed_is_a_column_the_largest_loss_first() -> None:
    lines = [line.plain for line in paired_dots(pairs((0.0, 1.0), (1.0, 0.0), (0.5, 0.5)))]
    assert len(lines) == HEIGHT
    assert lines[0] == "  1.000 ┤ ○   ●"
    assert lines[HEIGHT // 2] == "        │ │ ◉ │"
    assert lines[-1] == "  0.000 ┤ ●   ○"


def test_a_loss_is_red_and_a_gain_is_green() -> None:
    top = paired_dots(pairs((1.0, 0.0), (0.0, 1.0)))[0]
    assert [(top.plain[span.start : span.end].strip(), span.style) for span in top.spans] == [
        ("○", "red"), ("●", "green"),
    ]  # fmt: skip


@given(some.lists(some.tuples(scores, scores), max_size=64))
def test_every_seed_is_drawn_and_a_line_fits_100_columns(found: list[tuple[float, float]]) -> None:
    lines = [line.plain for line in paired_dots(pairs(*found))]
    drawn = "".join(line[9:] for line in lines)
    assert drawn.count("●") + drawn.count("◉") == len(found)
    assert all(len(line) <= 100 for line in lines)


@pytest.mark.parametrize(("share", "told"), [(0.0, ""), (0.5, "█████"), (0.55, "█████▌"), (1.0, "██████████")])
def test_a_share_is_as_long_as_it_says(share: float, told: str) -> None:
    assert bar(share, 10) == told
