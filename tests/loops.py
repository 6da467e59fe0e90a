"""Plain torch loops in the manner of CleanRL: one file, one namespace of values, everything inlined. Written anew.

Each notes what it uses in `uses`, and calls `step` at the end of every iteration, as a user of tars.attach() would.
"""

import random
from argparse import Namespace
from collections.abc import Callable
from typing import Any, Final, Protocol

import gymnasium
import numpy as np
import torch
from torch import nn, optim
from torch.distributions import Categorical
from torch.nn import functional

from sb3_models import Uses


class Step(Protocol):
    """What ends an iteration."""

    def __call__(self, episode_return: float | None = None) -> None: ...


Attach = Callable[..., Step]
"""Called with the loop's optimisers and modules, as tars.attach() is."""


def ppo_args(**changes: Any) -> Namespace:
    """The values of a PPO script."""
    given = {
        "learning_rate": 1e-3, "anneal_lr": False, "num_envs": 2, "num_steps": 16, "gamma": 0.99, "gae_lambda": 0.95,
        "num_minibatches": 4, "update_epochs": 2, "clip_coef": 0.2, "ent_coef": 0.01, "vf_coef": 0.5,
        "max_grad_norm": 0.5, "target_kl": None, "iterations": 12, **changes,
    }  # fmt: skip
    args = Namespace(**given)
    args.batch_size = args.num_envs * args.num_steps
    args.minibatch_size = args.batch_size // args.num_minibatches
    return args


def ppo(  # noqa: C901, PLR0915 - one file, everything inlined, as such scripts are
    args: Namespace, attach: Attach, uses: Uses, *, clipped: bool = True
) -> None:
    """PPO; A2C where not clipped: one pass over the whole rollout."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - as such scripts do
    envs = gymnasium.make_vec("CartPole-v1", num_envs=args.num_envs, vectorization_mode="sync")
    net = nn.Linear(4, 3)  # two logits and a value
    optimizer = optim.Adam(net.parameters(), lr=args.learning_rate)
    step = attach(optimizer=optimizer, modules=[net])
    shape = (args.num_steps, args.num_envs)
    obs, actions, logprobs = torch.zeros(*shape, 4), torch.zeros(shape), torch.zeros(shape)
    rewards, dones, values = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape)
    following = torch.tensor(envs.reset(seed=0)[0])
    done, returned = torch.zeros(args.num_envs), np.zeros(args.num_envs)
    for iteration in range(args.iterations):
        if args.anneal_lr:
            optimizer.param_groups[0]["lr"] = (1 - iteration / args.iterations) * args.learning_rate
        ended: list[float] = []
        for t in range(shape[0]):
            obs[t], dones[t] = following, done
            with torch.no_grad():
                out = net(following)
                policy: Any = Categorical(logits=out[:, :2])  # untyped in torch
                action = policy.sample()
            actions[t], logprobs[t], values[t] = action, policy.log_prob(action), out[:, 2]
            seen, reward, terminated, truncated, _ = envs.step(action.numpy())
            rewards[t], following = torch.tensor(reward, dtype=torch.float32), torch.tensor(seen)
            done = torch.tensor(terminated | truncated).float()
            returned += reward
            for env in np.flatnonzero(terminated | truncated):
                ended.append(float(returned[env]))
                returned[env] = 0.0
        with torch.no_grad():
            advantages, last = torch.zeros(shape), torch.zeros(args.num_envs)
            bootstrap = net(following)[:, 2]
            gamma, gae_lambda = args.gamma, args.gae_lambda
            uses.note("gamma", gamma)
            uses.note("gae_lambda", gae_lambda)
            for t in reversed(range(shape[0])):
                alive = 1 - (done if t == shape[0] - 1 else dones[t + 1])
                next_value = bootstrap if t == shape[0] - 1 else values[t + 1]
                delta = rewards[t] + gamma * next_value * alive - values[t]
                advantages[t] = last = delta + gamma * gae_lambda * alive * last
            returns = advantages + values
        flat = [x.reshape(-1, *x.shape[2:]) for x in (obs, actions, logprobs, advantages, returns)]
        indices = np.arange(args.batch_size)
        size = args.minibatch_size if clipped else args.batch_size
        passes = args.update_epochs if clipped else 1
        ratio = log_ratio = torch.zeros(1)
        for _ in range(passes):
            np.random.shuffle(indices)  # noqa: NPY002
            for start in range(0, args.batch_size, size):
                o, a, lp, adv, ret = (x[indices[start : start + size]] for x in flat)
                uses.note("minibatch", len(o))
                out = net(o)
                policy = Categorical(logits=out[:, :2])
                log_ratio = policy.log_prob(a) - lp
                ratio = log_ratio.exp()
                gain = ratio * adv
                if clipped:
                    clip = args.clip_coef
                    uses.note("clip", clip)
                    gain = torch.min(gain, ratio.clamp(1 - clip, 1 + clip) * adv)
                ent_coef, vf_coef, norm = args.ent_coef, args.vf_coef, args.max_grad_norm
                uses.note("ent_coef", ent_coef)
                uses.note("vf_coef", vf_coef)
                uses.note("norm", norm)
                loss = -gain.mean() - ent_coef * policy.entropy().mean() + vf_coef * ((out[:, 2] - ret) ** 2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(net.parameters(), norm)
                optimizer.step()
                uses.note("rate", optimizer.param_groups[0]["lr"])
            uses.note("epoch", 1)
            kl = float((ratio - 1 - log_ratio).mean().detach())
            if clipped and args.target_kl is not None and kl > args.target_kl:
                uses.note("stopped", kl)
                break
        uses.note("iteration", iteration)
        for one in ended[:-1]:
            step(episode_return=one)
        step(episode_return=ended[-1] if ended else None)


def a2c(args: Namespace, attach: Attach, uses: Uses) -> None:
    """A2C."""
    ppo(args, attach, uses, clipped=False)


def dqn_args(**changes: Any) -> Namespace:
    """The values of a DQN script."""
    return Namespace(**{
        "learning_rate": 1e-3, "buffer_size": 200, "gamma": 0.99, "tau": 1.0, "target_network_frequency": 20,
        "batch_size": 16, "start_e": 1.0, "end_e": 0.05, "exploration_fraction": 0.5, "learning_starts": 20,
        "train_frequency": 4, "total_timesteps": 300, **changes,
    })  # fmt: skip


def dqn(args: Namespace, attach: Attach, uses: Uses) -> None:
    """DQN; an iteration is an environment step."""
    torch.manual_seed(0)
    random.seed(0)
    env = gymnasium.make("CartPole-v1")
    q, target = nn.Linear(4, 2), nn.Linear(4, 2)
    target.load_state_dict(q.state_dict())
    optimizer = optim.Adam(q.parameters(), lr=args.learning_rate)
    step = attach(optimizer=optimizer, modules={"q": q, "target": target})
    rows: list[Any] = []
    obs, returned = env.reset(seed=0)[0], 0.0
    env.action_space.seed(0)
    for global_step in range(args.total_timesteps):
        slope = (args.end_e - args.start_e) / (args.exploration_fraction * args.total_timesteps)
        epsilon = max(slope * global_step + args.start_e, args.end_e)
        uses.note("epsilon", epsilon)
        blind = random.random() < epsilon
        action = int(env.action_space.sample() if blind else q(torch.tensor(obs)).argmax())
        seen, reward, terminated, truncated, _ = env.step(action)
        rows = [*rows[1 - args.buffer_size :], (obs, seen, action, reward, terminated)]
        obs, returned = seen, returned + float(reward)
        ended = returned if terminated or truncated else None
        if ended is not None:
            obs, returned = env.reset()[0], 0.0
        if global_step > args.learning_starts:
            if global_step % args.train_frequency == 0:
                drawn = [random.choice(rows) for _ in range(args.batch_size)]
                uses.note("train", global_step)
                uses.note("sample", len(drawn))
                o, o2, a, r, d = (torch.tensor(np.array(column)).float() for column in zip(*drawn, strict=True))
                gamma = args.gamma
                uses.note("gamma", gamma)
                with torch.no_grad():
                    wanted = r + gamma * target(o2).max(1)[0] * (1 - d)
                loss: Any = functional.mse_loss(q(o).gather(1, a.long()[:, None]).squeeze(), wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                uses.note("rate", optimizer.param_groups[0]["lr"])
            if global_step % args.target_network_frequency == 0:
                tau = args.tau
                uses.note("tau", tau)
                uses.note("sync", global_step)
                for slow, fast in zip(target.parameters(), q.parameters(), strict=True):
                    slow.data.copy_(tau * fast.data + (1 - tau) * slow.data)
        step(episode_return=ended)


def ddpg_args(**changes: Any) -> Namespace:
    """The values of a DDPG script."""
    return Namespace(**{
        "learning_rate": 1e-3, "buffer_size": 400, "gamma": 0.99, "tau": 0.005, "batch_size": 16,
        "exploration_noise": 0.1, "learning_starts": 20, "policy_frequency": 2, "total_timesteps": 250, **changes,
    })  # fmt: skip


def ddpg(args: Namespace, attach: Attach, uses: Uses) -> None:
    """DDPG; an iteration is an environment step, every second of which the actor learns too."""
    torch.manual_seed(0)
    random.seed(0)
    env = gymnasium.make("Pendulum-v1")
    env.action_space.seed(0)
    actor, q = nn.Sequential(nn.Linear(3, 1), nn.Tanh()), nn.Linear(4, 1)
    slow_actor, slow_q = nn.Sequential(nn.Linear(3, 1), nn.Tanh()), nn.Linear(4, 1)
    slow_actor.load_state_dict(actor.state_dict())
    slow_q.load_state_dict(q.state_dict())
    optimizers = {
        "actor": optim.Adam(actor.parameters(), lr=args.learning_rate),
        "critic": optim.Adam(q.parameters(), lr=args.learning_rate),
    }
    step = attach(optimizer=optimizers, modules=[actor, q, slow_actor, slow_q])
    rows: list[Any] = []
    obs, returned = env.reset(seed=0)[0], 0.0
    for global_step in range(args.total_timesteps):
        if global_step < args.learning_starts:
            action = env.action_space.sample()
        else:
            sigma = args.exploration_noise
            uses.note("sigma", sigma)
            with torch.no_grad():
                mean = actor(torch.tensor(obs)) * 2
                action = (mean + torch.normal(0.0, 2 * sigma, mean.shape)).clamp(-2, 2).numpy()
        seen, reward, terminated, truncated, _ = env.step(action)
        rows = [*rows[1 - args.buffer_size :], (obs, seen, action / 2, reward, terminated)]
        obs, returned = seen, returned + float(reward)
        ended = returned if terminated or truncated else None
        if ended is not None:
            obs, returned = env.reset()[0], 0.0
        if global_step > args.learning_starts:
            drawn = [random.choice(rows) for _ in range(args.batch_size)]
            uses.note("sample", len(drawn))
            o, o2, a, r, d = (torch.tensor(np.array(column)).float() for column in zip(*drawn, strict=True))
            gamma = args.gamma
            uses.note("gamma", gamma)
            with torch.no_grad():
                wanted = r + gamma * slow_q(torch.cat([o2, slow_actor(o2)], 1)).squeeze() * (1 - d)
            loss: Any = functional.mse_loss(q(torch.cat([o, a], 1)).squeeze(), wanted)
            optimizers["critic"].zero_grad()
            loss.backward()
            optimizers["critic"].step()
            uses.note("critic rate", optimizers["critic"].param_groups[0]["lr"])
            if global_step % args.policy_frequency == 0:
                pull = -q(torch.cat([o, actor(o)], 1)).mean()
                optimizers["actor"].zero_grad()
                pull.backward()
                optimizers["actor"].step()
                uses.note("actor rate", optimizers["actor"].param_groups[0]["lr"])
                tau = args.tau
                uses.note("tau", tau)
                for slow, fast in ((slow_actor, actor), (slow_q, q)):
                    for x, y in zip(slow.parameters(), fast.parameters(), strict=True):
                        x.data.copy_(tau * y.data + (1 - tau) * x.data)
        step(episode_return=ended)


Loop = Callable[[Namespace, Attach, Uses], None]
LOOPS: Final[dict[str, tuple[Loop, Callable[..., Namespace]]]] = {
    "ppo": (ppo, ppo_args),
    "a2c": (a2c, ppo_args),
    "dqn": (dqn, dqn_args),
    "ddpg": (ddpg, ddpg_args),
}
