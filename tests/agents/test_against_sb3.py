"""One gradient step of a lane against Stable-Baselines3's own `train()`, on the same weights and the same data."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import Env
from gymnasium.wrappers import RescaleAction
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from tars.agents import dqn
from tars.agents.a2c import A2C
from tars.agents.actor_critic import ActorCritic, Step
from tars.agents.algorithm import Lane
from tars.agents.ddpg import DDPG
from tars.agents.doors import RoleEnv
from tars.agents.dqn import DQN
from tars.agents.environments import RoleEnvironment
from tars.agents.game import Role
from tars.agents.off_policy import Batch, OffPolicy
from tars.agents.ppo import PPO
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED

torch.set_num_threads(1)
MEMBER, LANES = 1, 3
ROWS = 64


def task(role: Role, copies: int) -> DummyVecEnv:
    """What SB3 needs to know the spaces."""

    def make() -> Env[Any, Any]:
        return RescaleAction(RoleEnv(role), np.float32(-1), np.float32(1)) if role == "resource" else RoleEnv(role)

    return DummyVecEnv([make] * copies)


def lanes(algorithm: str, **changes: float) -> list[Lane]:
    return [Lane(seed, {**DECLARED[algorithm].game_defaults, **changes}) for seed in range(LANES)]


def load(into: nn.Module, ours: nn.Sequential) -> None:
    """Copy linear layers in their order."""
    theirs = [module for module in into.modules() if isinstance(module, nn.Linear)]
    for their, our in zip(theirs, [m for m in ours if isinstance(m, nn.Linear)], strict=True):
        their.load_state_dict(our.state_dict())


def assert_equal(theirs: nn.Module, ours: nn.Sequential) -> None:
    found = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    for their, our in zip(found, [m for m in ours if isinstance(m, nn.Linear)], strict=True):
        assert torch.allclose(their.weight, our.weight, atol=1e-5)
        assert torch.allclose(their.bias, our.bias, atol=1e-5)


def quiet(model: Any) -> Any:  # noqa: ANN401
    model.set_logger(configure(None, []))
    model._current_progress_remaining = 1.0  # noqa: SLF001
    return model


def replayed(learner: OffPolicy, model: Any) -> Tensor:  # noqa: ANN401
    """Fill both memories with the same transitions, and let SB3 draw them in their order; the rows [P, ROWS, width]."""
    learner.episode()
    learner.episode()
    rows = torch.stack([learner.remembered(member)[:ROWS] for member in range(LANES)])
    rows[..., -1] = (torch.arange(ROWS) % 5 == 0).float()  # some end their task
    observe, mine = learner.environment.observe, rows[MEMBER : MEMBER + 1]
    state, after = observe(mine[..., :1])[0].numpy(), observe(mine[..., 1:2])[0].numpy()
    for i, row in enumerate(mine[0]):
        action = row[2:3].numpy().astype(np.int64 if isinstance(learner, DQN) else np.float32)
        model.replay_buffer.add(state[i], after[i], action, row[-2:-1].numpy(), row[-1:].numpy(), [{}])
    model.replay_buffer.sample = lambda batch_size, env=None: model.replay_buffer._get_samples(np.arange(ROWS))  # noqa: SLF001
    return rows


def test_q_learning_steps_as_sb3_does() -> None:
    learner = DQN(RoleEnvironment("policy"), lanes("dqn", learning_starts=10_000, max_grad_norm=0.05, gamma=0.9))
    with closing(task("policy", 1)) as environment:
        model: Any = quiet(
            sb3.DQN(
                "MlpPolicy", environment, learning_rate=1e-3, gamma=0.9, batch_size=ROWS, buffer_size=ROWS,
                max_grad_norm=0.05, policy_kwargs={"net_arch": [64, 64]}, device="cpu",
            )
        )  # fmt: skip
        load(model.q_net, learner._online.sequential(MEMBER))  # noqa: SLF001
        load(model.q_net_target, learner._target.sequential(MEMBER))  # noqa: SLF001
        rows = replayed(learner, model)
        for _ in range(3):
            learner._gradient_step(Batch(rows, 1), None)  # noqa: SLF001
            model.train(gradient_steps=1, batch_size=ROWS)
        assert_equal(model.q_net, learner._online.sequential(MEMBER))  # noqa: SLF001


def test_the_deterministic_policy_gradient_steps_as_sb3_does() -> None:
    learner = DDPG(RoleEnvironment("resource"), lanes("ddpg", learning_starts=10_000, tau=0.1))
    with closing(task("resource", 1)) as environment:
        model: Any = quiet(
            sb3.DDPG(
                "MlpPolicy", environment, learning_rate=1e-3, gamma=0.95, tau=0.1, batch_size=ROWS, buffer_size=ROWS,
                policy_kwargs={"net_arch": [64, 64]}, device="cpu",
            )
        )  # fmt: skip
        pairs = [
            (model.actor, learner._actor), (model.actor_target, learner._actor_target),  # noqa: SLF001
            (model.critic, learner._critic), (model.critic_target, learner._critic_target),  # noqa: SLF001
        ]  # fmt: skip
        for theirs, ours in pairs:
            load(theirs, ours.sequential(MEMBER))
        rows = replayed(learner, model)
        for _ in range(3):
            learner._gradient_step(Batch(rows, 1), None)  # noqa: SLF001
            model.train(gradient_steps=1, batch_size=ROWS)
        for theirs, ours in pairs:
            assert_equal(theirs, ours.sequential(MEMBER))


def collected(learner: ActorCritic) -> list[Step]:
    """The learner's first rollout, before it learns from it."""
    found: list[list[Step]] = []
    learner._learn_from = found.append  # type: ignore[method-assign] # noqa: SLF001
    learner.begin()
    while not found:
        learner.step()
    del learner._learn_from
    return found[0]


def copy_policy(learner: ActorCritic, policy: Any, copy: Any) -> None:  # noqa: ANN401
    """Do `copy(theirs, ours)` for the layers of actor and critic."""
    actor, critic = (learner._networks.sequential(2 * MEMBER + i, outputs=n) for i, n in ((0, None), (1, 1)))  # noqa: SLF001
    copy(nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net), actor)
    copy(nn.Sequential(policy.mlp_extractor.value_net, policy.value_net), critic)


def fill(model: Any, learner: ActorCritic, rollout: Sequence[Step]) -> None:  # noqa: ANN401
    """The member's rollout as SB3 collects one; time limits are told to its buffer by rewards, so there is none here."""
    observe, buffer = learner.environment.observe, model.rollout_buffer
    buffer.reset()
    assert not any(step.cut is not None for step in rollout[:-1])
    for step in rollout:
        observation = observe(step.state)[MEMBER]
        action = step.action[MEMBER].reshape(len(observation), -1)
        with torch.no_grad():
            value, log_prob, _ = model.policy.evaluate_actions(observation, action.squeeze(-1) if action.dtype == torch.long else action)
        buffer.add(
            observation.numpy(), action.numpy(), step.reward[MEMBER].numpy(), np.zeros(len(observation)), value, log_prob
        )
    with torch.no_grad():
        last = model.policy.predict_values(observe(rollout[-1].after)[MEMBER])
    buffer.compute_returns_and_advantage(last_values=last, dones=np.zeros(learner.environment.copies))


@pytest.mark.parametrize("role", ["consensus", "resource"])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.9])
def test_the_actor_critic_steps_as_sb3_does(role: Role, gae_lambda: float) -> None:
    learner = A2C(RoleEnvironment(role), lanes("a2c", gae_lambda=gae_lambda, ent_coef=0.05))
    with closing(task(role, 16)) as environment:
        model: Any = quiet(
            sb3.A2C(
                "MlpPolicy", environment, learning_rate=2e-3, gamma=0.95, gae_lambda=gae_lambda, ent_coef=0.05, n_steps=4,
                use_rms_prop=False, device="cpu",
                policy_kwargs={
                    "optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5},
                    "net_arch": [64, 64],
                },
            )
        )  # fmt: skip
        compare(learner, model)


@pytest.mark.parametrize("role", ["ethical", "resource"])
@pytest.mark.parametrize("clip_range", [0.2, 0.02])
def test_the_clipped_objective_steps_as_sb3_does(role: Role, clip_range: float) -> None:
    size = 32 * 16
    learner = PPO(RoleEnvironment(role), lanes("ppo", clip_range=clip_range, batch_size=size, n_epochs=3, vf_coef=0.9))
    with closing(task(role, 16)) as environment:
        model: Any = quiet(
            sb3.PPO(
                "MlpPolicy", environment, learning_rate=2e-3, gamma=0.95, ent_coef=0.01, vf_coef=0.9, n_steps=32,
                batch_size=size, n_epochs=3, clip_range=clip_range, policy_kwargs={"net_arch": [64, 64]}, device="cpu",
            )
        )  # fmt: skip
        compare(learner, model)


def compare(learner: ActorCritic, model: Any) -> None:  # noqa: ANN401
    copy_policy(learner, model.policy, load)
    rollout = collected(learner)
    fill(model, learner, rollout)
    learner._learn_from(rollout)  # noqa: SLF001
    model.train()
    copy_policy(learner, model.policy, assert_equal)
    if hasattr(model.policy, "log_std"):
        assert torch.allclose(model.policy.log_std, learner._networks.extra[2 * MEMBER], atol=1e-5)  # noqa: SLF001
        assert bool((model.policy.log_std != 0).all())


def test_exploration_falls_as_sb3s_schedule_does() -> None:
    schedule = LinearSchedule(0.9, 0.1, 0.25)
    columns = (torch.tensor(0.9), torch.tensor(0.1), torch.tensor(0.25))
    for step in range(0, 2 * dqn.WARM_UP, 7):
        remaining = 1 - step / dqn.WARM_UP
        ours = float(dqn.epsilon(torch.tensor(float(step)), *columns))
        assert ours == pytest.approx(schedule(max(remaining, 0.0)), abs=1e-6)
