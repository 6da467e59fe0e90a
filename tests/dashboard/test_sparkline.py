"""The small curve of a card: what it says, and that it stays inside its box."""

import math
import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as some

from examples import NOON
from tars.dashboard.sparkline import HEIGHT, POINTS, THICK, WIDTH, running_means, sparkline
from tars.schemas.views import AgentPoint


def episodes(*scores: float, reload_at: int | None = None) -> list[AgentPoint]:
    """Episodes, newest first, one a second."""
    return [
        AgentPoint(at=NOON + timedelta(seconds=n), episode=n, score=score, version=4 if n == reload_at else 0)
        for n, score in reversed(list(enumerate(scores)))
    ]


def corners(html: str) -> list[tuple[float, float]]:
    """Of the polygon, in percent of the box."""
    [polygon] = re.findall(r"polygon\(([^)]*)\)", html)
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+)% (-?[\d.]+)%", polygon)]


def test_a_curve_says_its_range_and_where_it_stands_now() -> None:
    assert 'aria-label="mean score of the last 3 episodes: 0.20 to 0.40, now 0.40"' in sparkline(
        episodes(0.2, 0.4, 0.6)
    )


def test_a_new_version_is_a_dashed_line_where_it_began() -> None:
    html = sparkline(episodes(0.1, 0.2, 0.3, 0.4, 0.5, reload_at=4))
    assert re.findall(r'title="(v\d+)" style="[^"]*left:([\d.]+)%', html) == [("v4", "100.0")]


def test_a_steep_line_is_as_thick_as_a_flat_one() -> None:
    flat, steep = (corners(sparkline(episodes(*scores))) for scores in ((0.5,) * 80, (0.0, *(0.5,) * 79)))
    assert flat[0][1] - flat[-1][1] == pytest.approx(-THICK / HEIGHT * 100, abs=0.2)
    (x, y), (other_x, other_y) = steep[0], steep[-1]
    pixels = math.hypot((x - other_x) * WIDTH, (y - other_y) * HEIGHT) / 100
    assert pixels == pytest.approx(THICK, rel=0.6)  # half of it is outside the box


@given(some.lists(some.floats(-1e6, 1e6), min_size=1, max_size=400))
def test_every_curve_stays_in_its_box_and_has_few_corners(scores: list[float]) -> None:
    found = corners(sparkline(episodes(*scores)))
    assert 4 <= len(found) <= 4 * POINTS
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in found)


@pytest.mark.parametrize(("scores", "means"), [([1.0, 0.0], [1.0, 0.5]), ([float(n) for n in range(30)], None)])
def test_the_mean_is_over_the_last_twenty(scores: list[float], means: list[float] | None) -> None:
    assert running_means(scores)[-1] == pytest.approx(means[-1] if means else sum(range(10, 30)) / 20)
