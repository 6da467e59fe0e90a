"""Trials trained by Stable-Baselines3, so that a user's own agent is tuned by what it really runs.

The work is that of a lane: an episode of a trial is 512 steps in 16 parallel environments. SB3 rescales no actions of
PPO and A2C, so environments whose actions are not in [-1, 1] are wrapped to have them so, as our own engine does.
"""

import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import RescaleAction
from numpy.typing import NDArray
from stable_baselines3 import A2C, DDPG, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from tars.agents.game import HORIZON, ROLES, Role, coordination_game
from tars.automl_worker.single_trainer import Report
from tars.schemas.bounds import PARALLEL
from tars.schemas.hyperparameters import Value, Values
from tars.schemas.trial import RunTrial

EPISODE: Final = HORIZON * PARALLEL
"""Environment steps of a trial's episode."""
EVALUATION: Final = 0x5EED
MODELS: Final[dict[str, type[BaseAlgorithm]]] = {"dqn": DQN, "a2c": A2C, "ppo": PPO, "ddpg": DDPG}
OURS: Final = ("actor_learning_rate", "critic_learning_rate", "noise_sigma")
"""Keys that no constructor of SB3 has."""


def train(trial: RunTrial, report: Report) -> float:
    """Train one trial and score what was learnt, normalised. Whatever `report` raises ends the training."""
    with closing(training_environment(trial)) as environment:
        model = model_of(trial, environment)
        model.learn(trial.train_episodes * EPISODE, callback=_Reports(trial, report))
        if not all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters()):
            raise FloatingPointError("diverged: parameters are not finite")
        return evaluate(trial, model, environment)


def training_environment(trial: RunTrial) -> VecEnv:
    """The trial's 16 copies, each with a seed of its own."""
    environment = _copies(trial, PARALLEL, trial.seed)
    if not trial.normalize:
        return environment
    gamma = trial.hyperparameters["gamma"]
    return VecNormalize(
        environment,
        norm_obs="observations" in trial.normalize,
        norm_reward="rewards" in trial.normalize,
        gamma=0.99 if gamma is None else float(gamma),
    )


def model_of(trial: RunTrial, environment: VecEnv) -> BaseAlgorithm:
    """The model that the trial's values mean; each of them acts."""
    name, values = trial.algorithm, trial.hyperparameters
    kind = type(environment.action_space).__name__
    if {"dqn": "Discrete", "ddpg": "Box"}.get(name, kind) != kind:
        raise ValueError(f"{name} cannot act in {trial.environment}, whose actions are {kind}")
    given: dict[str, Any] = {key: value for key, value in values.items() if key not in OURS}
    if "train_freq" in given:
        given["train_freq"] = (given["train_freq"], "step")
    if name == "ddpg":
        given["action_noise"] = _noise(environment, values["noise_sigma"])
    with warnings.catch_warnings():
        # A minibatch that does not divide the rollout is allowed here: the last one is smaller.
        warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
        model = MODELS[name](
            "MlpPolicy",
            environment,
            policy_kwargs={"net_arch": [64, 64]},
            device="cpu",
            seed=trial.seed % 2**32,
            **given,
        )
    _own_learning_rates(model, values)
    return model


def _noise(environment: VecEnv, sigma: Value) -> VectorizedActionNoise:
    assert isinstance(environment.action_space, Box)  # noqa: S101 - refused before
    size = environment.action_space.shape
    return VectorizedActionNoise(NormalActionNoise(np.zeros(size), np.full(size, sigma or 0.0)), PARALLEL)


def _own_learning_rates(model: BaseAlgorithm, values: Values) -> None:
    """SB3 writes one learning rate into both optimisers at each round: a hook before each step has the last word."""
    for network in ("actor", "critic"):
        rate = values.get(f"{network}_learning_rate")
        if rate is not None:
            optimiser: torch.optim.Optimizer = getattr(model, network).optimizer
            optimiser.register_step_pre_hook(_sets(float(rate)))


def _sets(rate: float) -> Callable[..., None]:
    def hook(optimiser: torch.optim.Optimizer, *_: object) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate

    return hook


def evaluate(trial: RunTrial, model: BaseAlgorithm, trained_in: VecEnv) -> float:
    """Mean return of the deterministic policy over fresh episodes, on the trial's scale.

    Each copy plays as many as any other, to within one: short episodes, of which there are more in the same time, count
    no more than long ones.
    """
    role = _role(trial.environment)
    episodes = trial.eval_episodes * (PARALLEL if role else 1)
    returns: list[float] = []
    with closing(_copies(trial, min(episodes, PARALLEL), trial.seed ^ EVALUATION)) as environment:
        totals, observation = np.zeros(environment.num_envs), environment.reset()
        left = [len(range(copy, episodes, environment.num_envs)) for copy in range(environment.num_envs)]
        while len(returns) < episodes:
            assert isinstance(observation, np.ndarray)  # noqa: S101 - MlpPolicy sees no dictionaries
            seen = trained_in.normalize_obs(observation) if isinstance(trained_in, VecNormalize) else observation
            action, _ = model.predict(seen, deterministic=True)
            observation, reward, done, _ = environment.step(action)
            totals += reward
            for copy in np.flatnonzero(done):
                if left[copy]:
                    returns.append(float(totals[copy]))
                left[copy], totals[copy] = max(left[copy] - 1, 0), 0.0
    mean = float(np.mean(returns))
    if role is not None:
        return float(coordination_game().score(role, torch.tensor(mean / HORIZON)))
    return _scaled(trial, mean)


def _scaled(trial: RunTrial, returned: float) -> float:
    low, high = trial.score_range or (0.0, 1.0)
    return (returned - low) / (high - low)


def _role(environment: str) -> Role | None:
    return next((role for role in ROLES if role == environment), None)


def _copies(trial: RunTrial, count: int, seed: int) -> VecEnv:
    role = _role(trial.environment)
    name = f"tars/{role.capitalize()}-v0" if role else trial.environment
    env_id = f"tars.agents.doors:{name}" if name.startswith("tars/") else name

    def make() -> gymnasium.Env[Any, Any]:
        made: gymnasium.Env[Any, Any] = gymnasium.make(env_id, disable_env_checker=True)
        space = made.action_space
        if isinstance(space, Box) and not (np.all(space.low == -1) and np.all(space.high == 1)):
            made = RescaleAction(made, np.float32(-1), np.float32(1))
        return Monitor(made)

    environment = DummyVecEnv([make] * count)
    environment.seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return environment


class _Reports(BaseCallback):
    """Tells, after each episode of the trial, how those of its copies went that ended since."""

    def __init__(self, trial: RunTrial, report: Report) -> None:
        super().__init__()
        self._trial, self._report = trial, report
        self._ended: list[float] = []

    def _on_step(self) -> bool:
        infos: list[dict[str, Any]] = self.locals["infos"]
        self._ended += [float(info["episode"]["r"]) for info in infos if "episode" in info]
        if self.num_timesteps % EPISODE == 0 and self._ended:
            self._report(self.num_timesteps // EPISODE, self._score(np.array(self._ended)))
            self._ended = []
        return True

    def _score(self, returns: NDArray[np.float64]) -> float:
        mean, role = float(returns.mean()), _role(self._trial.environment)
        if role is not None:
            return float(coordination_game().score(role, torch.tensor(mean / HORIZON)))
        return _scaled(self._trial, mean)
