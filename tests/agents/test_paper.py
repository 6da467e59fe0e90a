"""A lane of a population, episode after episode, against one Q-learner written from the paper."""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import pytest
import torch
from torch import Tensor, nn

from tars.agents.algorithm import Lane
from tars.agents.dqn import DQN, WARM_UP
from tars.agents.environments import COPIES, DRAWS, RoleEnvironment

Values = Mapping[str, float | int]
SMALL: Final[Values] = {
    "learning_rate": 1e-3, "gamma": 0.95, "exploration_initial_eps": 1.0, "exploration_final_eps": 0.05,
    "exploration_fraction": 0.2, "batch_size": 16, "buffer_size": 640, "learning_starts": 64,
    "target_update_interval": 16, "tau": 0.05, "train_freq": 1, "gradient_steps": 1, "max_grad_norm": 10.0,
}  # fmt: skip
"""The game's values with less work, and a buffer that wraps in the second episode."""
ODD: Final[Values] = {
    "learning_rate": 3e-3, "gamma": 0.9, "exploration_initial_eps": 0.9, "exploration_final_eps": 0.2,
    "exploration_fraction": 0.03, "target_update_interval": 48, "tau": 0.3, "max_grad_norm": 0.05,
}  # fmt: skip
"""Every value another: gradients are clipped, exploration ends in the second episode, the target follows rarely."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices as small as these only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _linear(network: nn.Sequential) -> list[nn.Linear]:
    """Its layers with parameters, in order."""
    return [layer for layer in network if isinstance(layer, nn.Linear)]


class PaperLearner:
    """Algorithm 1 of Mnih et al. for one agent: a list for a memory, torch's layers, optimiser, loss and clipping.

    It draws its numbers in the order that a lane does, which is what a seed means.
    """

    def __init__(self, seed: int, values: Values) -> None:
        self._values, self._environment = values, RoleEnvironment("policy", torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._online, self._target = self._layers(), self._layers()
        for layer in _linear(self._online):
            for parameter, shape in ((layer.weight, layer.weight.T.shape), (layer.bias, (1, layer.out_features))):
                drawn = torch.rand(shape, generator=self._generator) * 2 - 1
                parameter.data = (drawn * (1 / math.sqrt(layer.in_features))).double().mT.reshape(parameter.shape)
        self._target.load_state_dict(self._online.state_dict())
        self._optimiser = torch.optim.Adam(self._online.parameters(), lr=values["learning_rate"])
        self._memory = deque[tuple[int, int, int, float]](maxlen=int(values["buffer_size"]))
        self._steps = 0

    def _layers(self) -> nn.Sequential:
        inputs, actions = self._environment.features, self._environment.actions
        first, second, third = (nn.Linear(i, o).double() for i, o in ((inputs, 64), (64, 64), (64, actions)))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    def episode(self) -> None:
        """One episode in COPIES copies."""
        horizon = self._environment.horizon
        freq, repeats = self._whole("train_freq", "gradient_steps")
        chance = torch.rand(horizon + 1, DRAWS + 2, COPIES, generator=self._generator).double()
        (batch,) = self._whole("batch_size")
        picks = torch.rand((horizon // freq + 1) * repeats, batch, generator=self._generator)
        state = self._environment.start(chance[horizon, DRAWS])
        for t in range(horizon):
            state = self._act(state, chance[t])
            if (t + 1) % freq == 0 and self._steps * COPIES > self._values["learning_starts"]:
                for pick in picks[t // freq * repeats : (t // freq + 1) * repeats].double():
                    self._gradient_step(pick)
            if self._steps * COPIES % self._values["target_update_interval"] == 0:
                for ours, theirs in zip(self._target.parameters(), self._online.parameters(), strict=True):
                    ours.data += self._values["tau"] * (theirs.data - ours.data)

    def _whole(self, *names: str) -> list[int]:
        return [int(self._values[name]) for name in names]

    def _act(self, state: Tensor, chance: Tensor) -> Tensor:
        """Act once in every copy [E], and remember."""
        initial, final, fraction = (self._values[f"exploration_{x}"] for x in ("initial_eps", "final_eps", "fraction"))
        share = initial + (final - initial) * min(self._steps / (fraction * WARM_UP), 1)
        if self._steps * COPIES < self._values["learning_starts"]:
            share = 1.0
        at_random = (chance[DRAWS + 1] * self._environment.actions).long()
        greedy = self._online(self._environment.observe(state)).argmax(-1)
        action = torch.where(chance[DRAWS] < share, at_random, greedy)
        after, reward = self._environment.step(state, action, chance[:DRAWS])
        self._memory.extend(zip(*(x.tolist() for x in (state, after, action, reward)), strict=True))
        self._steps += 1
        return after

    def _gradient_step(self, pick: Tensor) -> None:
        state, after, action, reward = zip(*(self._memory[int(x)] for x in pick * len(self._memory)), strict=True)
        with torch.no_grad():
            best = self._target(self._environment.observe(torch.tensor(after))).amax(1)
        target = torch.tensor(reward, dtype=torch.float64) + self._values["gamma"] * best
        q = self._online(self._environment.observe(torch.tensor(state)))[
            torch.arange(len(action)), torch.tensor(action)
        ]
        self._optimiser.zero_grad()
        loss = nn.functional.smooth_l1_loss(q, target)
        loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
        nn.utils.clip_grad_norm_(self._online.parameters(), self._values["max_grad_norm"])
        self._optimiser.step()

    def parameters(self) -> Tensor:
        """Online and target, in the order of a lane."""
        layers = [*_linear(self._online), *_linear(self._target)]
        return torch.cat([x for layer in layers for x in (layer.weight.detach().mT.flatten(), layer.bias.detach())])


@pytest.mark.parametrize("neighbours_start", [0, 64, 100_000], ids=["before", "with", "never"])
@pytest.mark.parametrize("shared", [{}, {"train_freq": 4, "gradient_steps": 2}], ids=["every step", "rounds of two"])
@pytest.mark.parametrize("values", [{}, ODD], ids=["game", "odd"])
def test_a_lane_learns_what_the_papers_learner_learns_whenever_its_neighbours_begin(
    values: Values, shared: Values, neighbours_start: int
) -> None:
    neighbour = {**SMALL, **shared, "gamma": 0.5, "learning_starts": neighbours_start}
    own = {**SMALL, **shared, **values}
    environment = RoleEnvironment("policy", torch.float64)
    learner, paper = DQN(environment, [Lane(5, neighbour), Lane(6, own)], dtype=torch.float64), PaperLearner(6, own)
    for _ in range(3):
        learner.episode()
        paper.episode()
    lane = torch.cat([learner._online.flat[1], learner._target.flat[1]])  # noqa: SLF001 - a hash has no tolerance
    assert float((lane - paper.parameters()).abs().max()) <= 1e-9
