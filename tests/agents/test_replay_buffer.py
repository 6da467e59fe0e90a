"""The replay buffer against a plain list for each lane."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tars.agents.replay_buffer import ReplayBuffer


def held(buffer: ReplayBuffer, member: int) -> list[float]:
    """Every row that sampling can give, oldest first."""
    count = buffer.stored(member)
    uniform = ((torch.arange(count) + 0.5) / count).expand(2, -1)
    return buffer.sample(uniform)[member, :, 0].tolist()


@given(st.integers(1, 6), st.lists(st.integers(1, 9), max_size=4), st.integers(1, 12))
def test_it_holds_the_newest_rows_in_order_through_any_resizing(size: int, resizes: list[int], writes: int) -> None:
    buffer, plain, number = ReplayBuffer(2, size, 1, torch.zeros(0)), list[float](), 0
    for capacity in [size, *resizes]:
        buffer = buffer.resized(capacity)
        plain = plain[-capacity:]
        for _ in range(writes):
            buffer.write(torch.full((2, 1, 1), float(number)))
            plain = [*plain, float(number)][-capacity:]
            number += 1
        assert held(buffer, 0) == held(buffer, 1) == plain


def test_a_cleared_lane_starts_anew_and_the_other_keeps_its_rows() -> None:
    buffer = ReplayBuffer(2, 4, 1, torch.zeros(0))
    buffer.write(torch.arange(6.0).view(2, 3, 1))
    buffer.clear(0)
    assert (buffer.stored(0), buffer.stored(1)) == (0, 3)


def test_a_lane_is_filled_with_rows_that_were_taken_elsewhere() -> None:
    source, target = ReplayBuffer(1, 8, 1, torch.zeros(0)), ReplayBuffer(2, 4, 1, torch.zeros(0))
    source.write(torch.arange(10.0).view(1, 10, 1)[:, :7])
    target.restore(1, source.contents(0))
    assert held(target, 1) == [3.0, 4.0, 5.0, 6.0]
    assert target.stored(0) == 0
