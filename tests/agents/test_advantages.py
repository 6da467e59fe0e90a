"""Generalised advantages against a loop over copies and steps."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tars.agents.advantages import generalised_advantages


class Rollout:
    """A random rollout of P members, T steps, E copies."""

    def __init__(self, seed: int, members: int, steps: int, copies: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64)

        shape = (members, steps, copies)
        self.reward, self.value, self.after = (draw(*shape) * 4 - 2 for _ in range(3))
        self.cut = (draw(*shape) < 0.3).double()
        self.terminated = self.cut * (draw(*shape) < 0.5)
        self.gamma, self.trace = (draw(members) * 1.2 - 0.1).clamp(0, 1), (draw(members) * 1.2 - 0.1).clamp(0, 1)

    def advantages(self) -> Tensor:
        return generalised_advantages(
            self.reward, self.value, self.after, self.terminated, self.cut, self.gamma, self.trace
        )


rollouts = st.builds(Rollout, st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 9), st.integers(1, 3))


@given(rollouts)
def test_they_are_what_a_loop_over_steps_finds(rollout: Rollout) -> None:
    found = rollout.advantages()
    members, steps, copies = rollout.reward.shape
    for p in range(members):
        gamma, trace = float(rollout.gamma[p]), float(rollout.trace[p])
        for e in range(copies):
            ahead = 0.0
            for t in reversed(range(steps)):
                at = (p, t, e)
                behind = 0.0 if rollout.terminated[at] else float(rollout.after[at])
                delta = float(rollout.reward[at]) + gamma * behind - float(rollout.value[at])
                ahead = delta + (0.0 if rollout.cut[at] else gamma * trace * ahead)
                assert abs(float(found[at]) - ahead) <= 1e-12


@given(rollouts)
def test_a_trace_of_one_gives_n_step_returns(rollout: Rollout) -> None:
    rollout.trace[:] = 1.0
    goes_on = rollout.cut[:, :-1] == 0
    rollout.after[:, :-1] = torch.where(goes_on, rollout.value[:, 1:], rollout.after[:, :-1])
    returned = rollout.advantages() + rollout.value
    members, steps, copies = rollout.reward.shape
    for p in range(members):
        for e in range(copies):
            for t in range(steps):
                total, discount = 0.0, 1.0
                for k in range(t, steps):
                    total += discount * float(rollout.reward[p, k, e])
                    discount *= float(rollout.gamma[p])
                    if rollout.cut[p, k, e] or k == steps - 1:
                        total += discount * float(rollout.after[p, k, e]) * (1 - float(rollout.terminated[p, k, e]))
                        break
                assert abs(float(returned[p, t, e]) - total) <= 1e-12


@given(rollouts, st.integers(0, 8))
def test_nothing_that_comes_after_a_cut_reaches_back_over_it(rollout: Rollout, at: int) -> None:
    rollout.cut[:, at : at + 1] = 1.0
    before = rollout.advantages()[:, : at + 1]
    for later in (rollout.reward, rollout.value, rollout.after):
        later[:, at + 1 :] += 5.0
    assert torch.equal(rollout.advantages()[:, : at + 1], before)


@given(rollouts)
def test_a_task_that_ended_is_worth_nothing_more(rollout: Rollout) -> None:
    before = rollout.advantages()
    rollout.after += 5.0 * rollout.terminated
    assert torch.equal(rollout.advantages(), before)
