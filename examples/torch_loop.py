"""Attach a plain torch loop, one file in the manner of CleanRL: REINFORCE with a baseline, on CartPole.

    tars up                                                # in another terminal
    python examples/torch_loop.py --iterations 2000
    tars propose --agent cartpole-loop --set ent_coef=0.02

The loop reads its values from `args` again and again; TARS writes there, counts who reads, and puts back what nobody
does. Two lines are TARS's: `link = tars.attach(...)` and `link.step(...)`.
"""

import argparse

import gymnasium
import torch
from torch import nn, optim
from torch.distributions import Categorical

import tars

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--agent", default="cartpole-loop")
parser.add_argument("--iterations", type=int, default=500)
parser.add_argument("--learning-rate", type=float, default=2e-3)
parser.add_argument("--gamma", type=float, default=0.99)
parser.add_argument("--ent-coef", type=float, default=0.01)
parser.add_argument("--vf-coef", type=float, default=0.5)
parser.add_argument("--max-grad-norm", type=float, default=0.5)
args = parser.parse_args()

env = gymnasium.make("CartPole-v1")
net = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3))  # two logits and a value
optimizer = optim.Adam(net.parameters(), lr=args.learning_rate)
link = tars.attach(optimizer=optimizer, hyperparameters=args, algorithm="a2c", modules=[net], agent_id=args.agent)

for iteration in range(args.iterations):
    obs, _ = env.reset(seed=iteration)
    terms, rewards, over = [], [], False
    while not over:
        out = net(torch.as_tensor(obs))
        policy = Categorical(logits=out[:2])
        action = policy.sample()
        terms.append((policy.log_prob(action), policy.entropy(), out[2]))
        obs, reward, terminated, truncated, _ = env.step(int(action))
        rewards.append(float(reward))
        over = terminated or truncated
    returns = torch.zeros(len(rewards))
    ahead = 0.0
    for t in reversed(range(len(rewards))):
        ahead = returns[t] = rewards[t] + args.gamma * ahead
    log_prob, entropy, value = (torch.stack(column) for column in zip(*terms, strict=True))
    advantage = returns - value.detach()
    loss = -(log_prob * advantage).mean() - args.ent_coef * entropy.mean()
    loss = loss + args.vf_coef * (returns - value).square().mean() / 100
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), args.max_grad_norm)
    optimizer.step()
    link.step(episode_return=sum(rewards))

link.close()
print(f"runs version {link.version}: {link.values}")
