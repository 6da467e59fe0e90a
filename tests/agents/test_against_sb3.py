"""Gradient steps of a lane against Stable-Baselines3's own `train()`, on the same weights and the same data.

Both sides are opened up here: nobody outside gives a learner its weights, or a batch.
"""
# ruff: noqa: SLF001

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch
from gymnasium import Env
from gymnasium.wrappers import RescaleAction
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from tars.agents import dqn
from tars.agents.a2c import A2C
from tars.agents.actor_critic import ActorCritic, Step
from tars.agents.algorithm import Lane
from tars.agents.ddpg import DDPG
from tars.agents.doors import RoleEnv
from tars.agents.dqn import DQN
from tars.agents.environments import COPIES, RoleEnvironment
from tars.agents.game import HORIZON, STATES, Role
from tars.agents.off_policy import Batch, OffPolicy
from tars.agents.ppo import PPO
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import Value

torch.set_num_threads(1)
Model: TypeAlias = Any  # SB3's classes have no type in common that tells what is read here
MEMBER, LANES, ROWS, STEPS = 1, 3, 64, 3
KINDS: Final = {"dqn": sb3.DQN, "a2c": sb3.A2C, "ppo": sb3.PPO, "ddpg": sb3.DDPG}
RMSPROP: Final = {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5}}


def lanes(name: str, **changes: Value) -> list[Lane]:
    """Lanes whose neighbours learn faster."""
    values = [{**DECLARED[name].game_defaults, **changes} for _ in range(LANES)]
    for neighbour in (values[:MEMBER], values[MEMBER + 1 :]):
        neighbour[0]["learning_rate"] = 1e-2
    return [Lane(seed, each) for seed, each in enumerate(values)]


@contextmanager
def model(name: str, role: Role, policy: Mapping[str, Any] | None = None, /, **values: Value) -> Iterator[Model]:
    """SB3's learner of the game, with networks of our size, that writes no log; COPIES copies where it needs them."""

    def make() -> Env[Any, Any]:
        return RescaleAction(RoleEnv(role), np.float32(-1), np.float32(1)) if role == "resource" else RoleEnv(role)

    environment = DummyVecEnv([make] * (COPIES if name in {"a2c", "ppo"} else 1))
    kwargs = {"net_arch": [64, 64], **(policy or {})}
    found: Model = KINDS[name]("MlpPolicy", environment, policy_kwargs=kwargs, device="cpu", **values)
    found.set_logger(configure(None, []))
    yield found
    environment.close()


def linears(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def load(theirs: nn.Module, ours: nn.Module) -> None:
    for their, our in zip(linears(theirs), linears(ours), strict=True):
        their.load_state_dict(our.state_dict())


def assert_equal(theirs: nn.Module, ours: nn.Module) -> None:
    for their, our in zip(linears(theirs), linears(ours), strict=True):
        torch.testing.assert_close(our.weight, their.weight, atol=1e-5, rtol=0)
        torch.testing.assert_close(our.bias, their.bias, atol=1e-5, rtol=0)


def replayed(learner: OffPolicy, theirs: Model) -> Batch:
    """Fill their memory with transitions of ours, to be drawn in their order: the batch of all lanes."""
    for _ in range(2):
        learner.episode()
    rows = torch.stack([learner.remembered(member)[:ROWS] for member in range(LANES)])
    rows[..., -1] = (torch.arange(ROWS) % 5 == 0).float()  # some end their task
    batch, observe, buffer = Batch(rows, 1), learner.environment.observe, theirs.replay_buffer
    state, after = (part[MEMBER].numpy() for part in observe(batch.states))
    parts = [part[MEMBER].numpy() for part in (batch.action, batch.reward, batch.terminated)]
    for s, s2, action, reward, ended in zip(state, after, *parts, strict=True):
        buffer.add(s, s2, action, reward, ended, [{}])
    buffer.sample = lambda *_, **__: buffer._get_samples(np.arange(ROWS))
    return batch


@pytest.mark.parametrize("longest", [10.0, 0.01], ids=["gradients as they are", "gradients shortened"])
def test_q_learning_steps_as_sb3_does(longest: float) -> None:
    values: dict[str, Value] = {"gamma": 0.9, "max_grad_norm": longest, "tau": 0.3, "batch_size": ROWS}
    learner = DQN(RoleEnvironment("policy"), lanes("dqn", learning_starts=10_000, **values))
    with model("dqn", "policy", learning_rate=1e-3, buffer_size=ROWS, target_update_interval=1, **values) as theirs:
        batch = replayed(learner, theirs)
        load(theirs.q_net, learner._online.sequential(MEMBER))
        load(theirs.q_net_target, learner._target.sequential(MEMBER))
        learner.begin()
        for _ in range(STEPS):
            learner._gradient_step(batch, None)
            learner._after_step()
            theirs.train(gradient_steps=1, batch_size=ROWS)
            theirs._on_step()  # the target follows
        assert_equal(theirs.q_net, learner._online.sequential(MEMBER))
        assert_equal(theirs.q_net_target, learner._target.sequential(MEMBER))


def test_the_deterministic_policy_gradient_steps_as_sb3_does() -> None:
    learner = DDPG(RoleEnvironment("resource"), lanes("ddpg", learning_starts=10_000, tau=0.3))
    with model("ddpg", "resource", learning_rate=1e-3, gamma=0.95, tau=0.3, buffer_size=ROWS) as theirs:
        pairs = [
            (theirs.actor, learner._actor), (theirs.actor_target, learner._actor_target),
            (theirs.critic, learner._critic), (theirs.critic_target, learner._critic_target),
        ]  # fmt: skip
        batch = replayed(learner, theirs)
        for their, our in pairs:
            load(their, our.sequential(MEMBER))
        for _ in range(STEPS):
            learner._gradient_step(batch, None)
            theirs.train(gradient_steps=1, batch_size=ROWS)
        for their, our in pairs:
            assert_equal(their, our.sequential(MEMBER))


def collected(learner: ActorCritic, n_steps: int) -> list[Step]:
    """A rollout in which some steps end their task, and others their time."""
    found, shape, generator = list[Step](), (LANES, COPIES), torch.Generator().manual_seed(0)
    learner.begin()
    for _ in range(n_steps):
        with torch.no_grad():
            action, reward, after, _, _, state = learner.environment.step(learner.act())
        cut = (torch.rand(shape, generator=generator) < 0.3).float()
        terminated = cut * (torch.rand(shape, generator=generator) < 0.5)
        elsewhere = torch.where(cut[..., None].bool(), (after + 5) % STATES, after)  # the next state is another's first
        found.append(Step(learner._state, action, reward, elsewhere, terminated, cut))
        learner._state, learner._at = state, learner._at + 1
    learner._vector_steps += n_steps
    return found


def fill(theirs: Model, learner: ActorCritic, rollout: Sequence[Step]) -> None:
    """Give it the member's rollout as it collects one: the value behind a time limit becomes part of the reward."""
    buffer, started = theirs.rollout_buffer, torch.ones(COPIES)
    for step in rollout:
        assert step.cut is not None
        state, action, reward, after, terminated, cut = (part[MEMBER] for part in step if part is not None)
        observation, behind = learner.environment.observe(torch.stack([state, after])).unbind(0)
        with torch.no_grad():
            value, log_prob, _ = theirs.policy.evaluate_actions(observation, action)
            bootstrap = theirs.gamma * theirs.policy.predict_values(behind)[:, 0] * cut * (1 - terminated)
        rewarded = (reward + bootstrap).numpy()
        buffer.add(observation.numpy(), action.numpy(), rewarded, started.numpy(), value, log_prob)
        started = cut
    with torch.no_grad():
        last = theirs.policy.predict_values(learner.environment.observe(rollout[-1].after)[MEMBER])
    buffer.compute_returns_and_advantage(last_values=last, dones=started.numpy())


def networks(learner: ActorCritic, policy: Any) -> list[tuple[nn.Module, nn.Module]]:
    """Theirs and ours, of actor and critic."""
    parts, stack = policy.mlp_extractor, learner._networks
    actor, critic = stack.sequential(2 * MEMBER), stack.sequential(2 * MEMBER + 1, outputs=1)
    their_actor = nn.Sequential(parts.policy_net, policy.action_net)
    return [(their_actor, actor), (nn.Sequential(parts.value_net, policy.value_net), critic)]


def assert_learns_the_same(learner: ActorCritic, theirs: Model, n_steps: int) -> None:
    """Learn from one rollout on both sides."""
    for their, our in networks(learner, theirs.policy):
        load(their, our)
    rollout = collected(learner, n_steps)
    fill(theirs, learner, rollout)
    learner._learn_from(rollout)
    theirs.train()
    for their, our in networks(learner, theirs.policy):
        assert_equal(their, our)
    deviation = getattr(theirs.policy, "log_std", torch.empty(0))
    torch.testing.assert_close(learner._networks.extra[2 * MEMBER], deviation.detach(), atol=1e-5, rtol=0)
    assert bool((deviation != 0).all())


@pytest.mark.parametrize("longest", [0.5, 0.01], ids=["usual gradients", "gradients shortened"])
@pytest.mark.parametrize("gae_lambda", [1.0, 0.9])
@pytest.mark.parametrize("role", ["consensus", "resource"])
def test_the_actor_critic_steps_as_sb3_does(role: Role, gae_lambda: float, longest: float) -> None:
    values: dict[str, Value] = {
        "learning_rate": 7e-4, "gamma": 0.9, "gae_lambda": gae_lambda, "ent_coef": 0.05, "vf_coef": 0.7,
        "max_grad_norm": longest, "n_steps": 5,
    }  # fmt: skip
    learner = A2C(RoleEnvironment(role), lanes("a2c", **values))
    with model("a2c", role, RMSPROP, use_rms_prop=False, **values) as theirs:
        assert_learns_the_same(learner, theirs, 5)


@pytest.mark.parametrize(("clip_range", "target_kl"), [(0.2, None), (0.02, None), (0.2, 0.002)])
@pytest.mark.parametrize("role", ["ethical", "resource"])
def test_the_clipped_objective_steps_as_sb3_does(role: Role, clip_range: float, target_kl: float | None) -> None:
    values: dict[str, Value] = {
        "learning_rate": 2e-3, "gamma": 0.9, "gae_lambda": 0.8, "ent_coef": 0.05, "vf_coef": 0.7, "max_grad_norm": 0.3,
        "clip_range": clip_range, "target_kl": target_kl, "n_steps": 8, "n_epochs": 6, "batch_size": 8 * COPIES,
    }  # fmt: skip
    learner = PPO(RoleEnvironment(role), lanes("ppo", **values))
    with model("ppo", role, **values) as theirs:
        assert_learns_the_same(learner, theirs, 8)
    assert (learner.gradient_steps(MEMBER) < 6) == (target_kl is not None)


def test_exploration_falls_as_sb3s_schedule_does() -> None:
    schedule, step = LinearSchedule(0.9, 0.1, 0.25), torch.arange(dqn.WARM_UP + HORIZON)
    ours = dqn.epsilon(step, *(torch.tensor(x) for x in (0.9, 0.1, 0.25)))
    theirs = [schedule(max(1 - t / dqn.WARM_UP, 0)) for t in step.tolist()]
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-6, rtol=0)
