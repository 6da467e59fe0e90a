"""Any Gymnasium environment for a population: each lane has a vector environment of its own, with its own seed."""

import math
from collections.abc import Sequence
from typing import Any, Final

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.spaces import Discrete as DiscreteSpace
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from torch import Tensor

from tars.agents.environments import COPIES, Actions, Continuous, Discrete, Evaluation, Policy, Transition
from tars.agents.game import HORIZON
from tars.schemas.trial import Normalize

LONGEST_EPISODE: Final = 10_000
"""Steps after which the evaluation of a policy in an environment without a time limit ends."""
CLIP: Final = 10.0
"""Normalised numbers are kept within this, as Stable-Baselines3's VecNormalize does."""
DISCOUNT: Final = 0.99
"""Of the returns by whose deviation rewards are divided."""


class GymnasiumEnvironment:
    """Lanes of `copies` environments, stepped one after the other; `horizon` vector steps are an episode of a lane.

    The episodes of the copies end and begin anew at their own times. With `normalize`, running statistics of a lane
    come into use at the beginning of its next episode; a rollout that ends with an episode is seen through one pair of
    glasses.
    """

    def __init__(  # noqa: PLR0913 - options of an environment
        self,
        env_id: str,
        *,
        copies: int = COPIES,
        horizon: int = HORIZON,
        score_range: tuple[float, float] | None = None,
        normalize: Sequence[Normalize] = (),
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.name, self.copies, self.horizon = env_id, copies, horizon
        self.dtype, self.device = dtype, torch.device(device)
        self._low, self._high = score_range or (0.0, 1.0)
        self._normalize = frozenset(normalize)
        probe = _made(env_id)
        self._observations = probe.observation_space
        self.features = self.width = _features(env_id, self._observations)
        self.actions, self._actions = _actions(env_id, probe.action_space), probe.action_space
        probe.close()
        self._lanes: list[SyncVectorEnv] = []

    def open(self, seeds: Sequence[int]) -> None:
        """Make as many lanes as there are seeds."""
        self.close()
        self._lanes = [_vector(self.name, self.copies) for _ in seeds]
        self._state = torch.zeros(len(seeds), self.copies, self.width, dtype=self.dtype, device=self.device)
        self._running, self._discounted = self._state.new_zeros(2, len(seeds), self.copies).unbind(0)
        self._ended: list[list[float]] = [[] for _ in seeds]
        self._score = self._state.new_full((len(seeds),), math.nan)
        self._seen = Statistics(len(seeds), self.features, self.dtype, self.device)
        self._paid = Statistics(len(seeds), 1, self.dtype, self.device)
        for member, seed in enumerate(seeds):
            self.reseed(member, seed)

    def close(self) -> None:
        """Let the lanes' environments go."""
        for lane in self._lanes:
            lane.close()

    def reseed(self, member: int, seed: int) -> None:
        """Start one lane anew."""
        observation, _ = self._lanes[member].reset(seed=_seeds(seed, self.copies))
        self._state[member] = self._flat(observation)
        self._running[member] = self._discounted[member] = 0
        self._ended[member], self._score[member] = [], math.nan
        for statistics in (self._seen, self._paid):
            statistics.reset(member)
        self._seen.add(self._state, torch.arange(len(self._lanes), device=self.device) == member)

    def begin(self) -> Tensor:
        """Begin a lane's episode; those of its copies go on."""
        self._seen.use()
        self._paid.use()
        self._ended = [[] for _ in self._lanes]
        return self._state

    def step(self, action: Tensor) -> Transition:
        """Act once in every copy; where an episode ended, the next one begins in the same step."""
        found = [self._step(lane, chosen) for lane, chosen in zip(self._lanes, self._as_space(action), strict=True)]
        state, after = (torch.stack([step[i] for step in found]) for i in (0, 1))
        reward, terminated, cut = (torch.stack([step[i] for step in found]) for i in (2, 3, 4))
        self._tally(reward, cut)
        self._seen.add(state, None)
        self._paid.add(self._discounted[..., None], None)
        self._discounted *= 1 - cut
        self._state = state
        if "rewards" in self._normalize:
            reward = (reward / self._paid.deviation[:, 0, None]).clamp(-CLIP, CLIP)
        return Transition(action, reward, after, terminated, cut if bool(cut.any()) else None, state)

    def _step(self, lane: SyncVectorEnv, action: NDArray[Any]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """State, state before a reset, reward, terminated and cut of one lane's copies."""
        observation, reward, terminated, truncated, infos = lane.step(action)
        state, cut = self._flat(observation), terminated | truncated
        after = state
        if cut.any():
            after = state.clone()
            for copy in np.flatnonzero(cut):
                after[copy] = self._flat(np.asarray(infos["final_obs"][copy])[None])[0]
        return state, after, self._tensor(reward), self._tensor(terminated), self._tensor(cut)

    def _tally(self, reward: Tensor, cut: Tensor) -> None:
        self._running += reward
        self._discounted = self._discounted * DISCOUNT + reward
        for member, copy in cut.nonzero().tolist():
            self._ended[member].append(float(self._running[member, copy]))
        self._running *= 1 - cut

    def observe(self, state: Tensor) -> Tensor:
        """The observation itself, or less its running mean, over its running deviation."""
        if "observations" not in self._normalize:
            return state
        scaled: Tensor = ((state - self._seen.mean[:, None]) / self._seen.deviation[:, None]).clamp(-CLIP, CLIP)
        return scaled

    def behaviour(self) -> Tensor:
        """Mean return of the episodes that ended in the lane's one, else as before; NaN until a first one ended."""
        for member, ended in enumerate(self._ended):
            if ended:
                self._score[member] = self._scaled(sum(ended) / len(ended))
        return self._score.clone()

    def _scaled(self, returned: float) -> float:
        return (returned - self._low) / (self._high - self._low)

    def evaluate(self, policy: Policy, episodes: int, seeds: Sequence[int]) -> Evaluation:
        """Mean return of `episodes` episodes in fresh environments, of all lanes at once, each played to its end."""
        lanes = [_vector(self.name, episodes) for _ in seeds]
        resets = (lane.reset(seed=_seeds(seed, episodes))[0] for lane, seed in zip(lanes, seeds, strict=True))
        state = torch.stack([self._flat(observation) for observation in resets])
        returned, going = torch.zeros(len(seeds), episodes), torch.ones(len(seeds), episodes, dtype=torch.bool)
        for _ in range(LONGEST_EPISODE):
            chosen = self._as_space(policy(state))
            found = [self._step(lane, action) for lane, action in zip(lanes, chosen, strict=True)]
            state = torch.stack([step[0] for step in found])
            returned += torch.stack([step[2] for step in found]).cpu() * going
            going &= ~torch.stack([step[4] for step in found]).cpu().bool()
            if not bool(going.any()):
                break
        for lane in lanes:
            lane.close()
        score = torch.tensor([self._scaled(mean) for mean in returned.mean(1).tolist()], dtype=self.dtype)
        return Evaluation(score, None, None)

    def exact_score(self, policy: Policy) -> Tensor | None:
        """Unknown."""
        del policy
        return None

    def tensors(self) -> dict[str, Tensor]:
        """The running statistics."""
        return self._seen.tensors("observations") | self._paid.tensors("returns")

    def random_state(self, member: int) -> Tensor | None:
        """Unknown: an environment of Gymnasium cannot be asked where it stands."""
        del member
        return None

    def set_random_state(self, member: int, state: Tensor) -> None:
        """Refuse: there is none."""
        raise ValueError(f"{self.name} cannot go on from a random state (lane {member}, {len(state)} bytes)")

    def _flat(self, observation: NDArray[Any]) -> Tensor:
        """Observations of a lane's copies [E, features]."""
        found = self._tensor(observation)
        if isinstance(self._observations, DiscreteSpace):
            number = found.long() - int(self._observations.start)
            return torch.nn.functional.one_hot(number, self.features).to(self.dtype)
        return found.reshape(len(found), -1)

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.as_tensor(np.asarray(array), device=self.device).to(self.dtype)

    def _as_space(self, action: Tensor) -> NDArray[Any]:
        """Actions [P, E, ...] as the environment wants them."""
        if isinstance(self._actions, DiscreteSpace):
            number: NDArray[Any] = action.cpu().numpy() + int(self._actions.start)
            return number
        assert isinstance(self._actions, Box)  # noqa: S101 - `_actions` has looked
        share = (action.clamp(-1, 1).cpu().numpy() + 1) / 2
        low, high = self._actions.low.reshape(-1), self._actions.high.reshape(-1)
        whole = low + share * (high - low)
        shaped: NDArray[Any] = whole.reshape(*whole.shape[:2], *self._actions.shape)
        return shaped.astype(self._actions.dtype)


class Statistics:
    """Running mean and variance of n numbers for each lane [P, n] (Chan et al. 1979), and what of them is in use."""

    def __init__(self, members: int, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._count = torch.zeros(members, 1, dtype=dtype, device=device)
        self._mean, self._square = (torch.zeros(members, size, dtype=dtype, device=device) for _ in range(2))
        self.mean, self.deviation = torch.zeros_like(self._mean), torch.ones_like(self._mean)

    def add(self, values: Tensor, of: Tensor | None) -> None:
        """Take in [P, E, n], of some lanes [P] (None: of all)."""
        count = torch.full_like(self._count, values.shape[1]) * (1 if of is None else of[:, None])
        total = (self._count + count).clamp_min(1)
        shift = values.mean(1) - self._mean
        spread = (values - values.mean(1, keepdim=True)).square().sum(1) * (count > 0)
        self._square += spread + shift.square() * self._count * count / total
        self._mean += shift * count / total
        self._count += count

    def use(self) -> None:
        """Bring what was taken in into use."""
        self.mean.copy_(self._mean)
        known = self._count > 1
        variance = self._square / self._count.clamp_min(1)
        self.deviation.copy_(torch.where(known, (variance + 1e-8).sqrt(), torch.ones_like(variance)))

    def reset(self, member: int) -> None:
        """Forget one lane's."""
        for tensor in (self._count, self._mean, self._square, self.mean):
            tensor[member] = 0
        self.deviation[member] = 1

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Everything, as the tensors themselves."""
        parts = {"count": self._count, "mean": self._mean, "square": self._square}
        return {f"{name}.{part}": tensor for part, tensor in parts.items()}


def _known(env_id: str) -> str:
    """The id with the module that registers it, where it is one of ours."""
    return f"tars.agents.doors:{env_id}" if env_id.startswith("tars/") else env_id


def _made(env_id: str) -> gymnasium.Env[Any, Any]:
    try:
        return gymnasium.make(_known(env_id), disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"{env_id}: {' '.join(str(error).split())}") from error


def _vector(env_id: str, copies: int) -> SyncVectorEnv:
    """One after the other in this process; an ended episode is reset in the same step, so no step is lost."""
    made = gymnasium.make_vec(
        _known(env_id),
        num_envs=copies,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
        disable_env_checker=True,
    )
    assert isinstance(made, SyncVectorEnv)  # noqa: S101 - asked for
    return made


def _seeds(seed: int, copies: int) -> list[int | None]:
    """A seed for each copy, unlike those of any other lane."""
    return [int(number) for number in np.random.SeedSequence(seed).generate_state(copies)]


def _features(env_id: str, space: Space[Any]) -> int:
    if isinstance(space, DiscreteSpace):
        return int(space.n)
    if isinstance(space, Box) and len(space.shape) < 3 and np.prod(space.shape):  # noqa: PLR2004 - [height, width, colours]
        return int(np.prod(space.shape))
    shape = f"{'images' if len(space.shape) > 2 else 'nothing'} {space.shape}" if isinstance(space, Box) else ""  # noqa: PLR2004
    kind = shape or type(space).__name__
    raise ValueError(f"{env_id}: observations must be Discrete or a Box of up to two axes, not {kind}")


def _actions(env_id: str, space: Space[Any]) -> Actions:
    if isinstance(space, DiscreteSpace):
        return Discrete(int(space.n))
    if (
        isinstance(space, Box)
        and np.isfinite(space.low).all()
        and np.isfinite(space.high).all()
        and np.prod(space.shape)
    ):
        return Continuous(int(np.prod(space.shape)))
    kind = (
        f"{'an unbounded' if np.prod(space.shape) else 'an empty'} {space}"
        if isinstance(space, Box)
        else type(space).__name__
    )
    raise ValueError(f"{env_id}: actions must be Discrete or a bounded Box, not {kind}")
