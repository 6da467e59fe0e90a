"""Small models of Stable-Baselines3, and a record of what their training really uses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pytest
import stable_baselines3.dqn.dqn
import stable_baselines3.td3.td3
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise

KINDS: Final[dict[str, type[BaseAlgorithm]]] = {"dqn": DQN, "a2c": A2C, "ppo": PPO, "ddpg": DDPG}
_REPLAY: Final[dict[str, Any]] = {"buffer_size": 2000, "learning_starts": 10, "batch_size": 8, "train_freq": 4}
SMALL: Final[dict[str, dict[str, Any]]] = {
    "dqn": {**_REPLAY, "target_update_interval": 40, "exploration_fraction": 0.2},
    "a2c": {"n_steps": 16},
    "ppo": {"n_steps": 32, "batch_size": 16, "n_epochs": 2},
    "ddpg": _REPLAY,
}
"""Values with which every mechanism is seen within some hundred steps."""


def model_of(algorithm: str, n_envs: int = 1, **values: Any) -> Any:
    """Make a model; the same arguments, the same chance."""
    env = make_vec_env("Pendulum-v1" if algorithm == "ddpg" else "CartPole-v1", n_envs=n_envs, seed=0)
    given = {**SMALL[algorithm], **values}
    if algorithm == "ddpg":
        given.setdefault("action_noise", NormalActionNoise(np.zeros(1), 0.1 * np.ones(1)))
    network = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
    kind: Any = KINDS[algorithm]
    return kind("MlpPolicy", env, **{**network, **given})


class At(BaseCallback):
    """Calls a function once, after so many vector steps."""

    def __init__(self, step: int, then: Callable[[], object]) -> None:
        super().__init__()
        self._step, self._then = step, then

    def _on_step(self) -> bool:
        if self.n_calls == self._step:
            self._then()
        return True


class Uses:
    """What a training run uses, in order: (what, value)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self._from = 0

    def note(self, what: str, value: Any) -> None:
        self.seen.append((what, value))

    def mark(self) -> None:
        """Everything up to now was before the change."""
        self._from = len(self.seen)

    def before(self, what: str) -> list[Any]:
        return [value for name, value in self.seen[: self._from] if name == what]

    def after(self, what: str) -> list[Any]:
        return [value for name, value in self.seen[self._from :] if name == what]


@contextmanager
def recorded(model: Any) -> Iterator[Uses]:
    """Record what this model's training uses, from the functions that it calls."""
    uses = Uses()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("policy", "actor", "critic"):
            optimiser = getattr(getattr(model, name, None), "optimizer", None)
            if optimiser is not None:
                optimiser.register_step_post_hook(_rates(uses, name))
        for module in (stable_baselines3.dqn.dqn, stable_baselines3.td3.td3):
            spy(patch, module, "polyak_update", lambda _, __, tau: uses.note("tau", tau))
        spy(patch, torch.nn.utils, "clip_grad_norm_", lambda _, norm, *__, **___: uses.note("norm", norm))
        spy(patch, torch, "clamp", lambda _, *limits, **__: uses.note("clamp", limits))
        spy(patch, torch.Tensor, "backward", lambda loss, *_: uses.note("loss", loss.item()))
        spy(patch, type(model.policy), "predict", lambda *_, **__: uses.note("greedy", 1))
        spy(patch, type(model), "train", lambda m, *a, **k: uses.note("train", (m.num_timesteps, *a, *k.items())))
        if getattr(model, "replay_buffer", None) is not None:
            spy(patch, type(model.replay_buffer), "sample", lambda _, size, **__: uses.note("sample", size))
        yield uses


def _rates(uses: Uses, name: str) -> Callable[..., None]:
    def stepped(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        uses.note(f"{name} rate", float(optimiser.param_groups[0]["lr"]))

    return stepped


def spy(patch: pytest.MonkeyPatch, owner: Any, name: str, note: Callable[..., None]) -> None:
    """Let `note` see the arguments of every call."""
    inner = getattr(owner, name)

    def seen(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return inner(*args, **kwargs)

    patch.setattr(owner, name, seen)
