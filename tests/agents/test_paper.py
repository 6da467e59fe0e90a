"""A lane of a population, episode after episode, against one plain learner written from each paper.

The plain learners use lists for memory, torch's layers, optimisers, distributions and clipping, and loops over steps and
copies. They draw their numbers in the order that a lane does, which is what a seed means.
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from tars.agents.algorithm import Lane
from tars.agents.catalogue import ALGORITHMS
from tars.agents.dqn import WARM_UP
from tars.agents.environments import COPIES, RoleEnvironment
from tars.agents.game import HORIZON, Role
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value

torch.set_num_threads(1)
Values = Mapping[str, Any]
SMALL: Final[dict[str, Values]] = {
    "dqn": {"batch_size": 16, "buffer_size": 640, "learning_starts": 64},
    "a2c": {},
    "ppo": {"n_epochs": 2},
    "ddpg": {"batch_size": 16, "buffer_size": 640, "learning_starts": 64},
}
"""The game's values with less work, and buffers that wrap in the second episode."""
ODD: Final[dict[str, Values]] = {
    "dqn": {
        "learning_rate": 3e-3, "gamma": 0.9, "exploration_initial_eps": 0.9, "exploration_final_eps": 0.2,
        "exploration_fraction": 0.03, "target_update_interval": 48, "tau": 0.3, "max_grad_norm": 0.05, "train_freq": 3,
        "gradient_steps": 2,
    },
    "a2c": {
        "learning_rate": 7e-4, "gamma": 0.8, "gae_lambda": 0.7, "ent_coef": 0.1, "vf_coef": 0.9, "max_grad_norm": 0.05,
        "n_steps": 5,
    },
    "ppo": {
        "learning_rate": 5e-3, "gamma": 0.8, "gae_lambda": 0.7, "ent_coef": 0.1, "vf_coef": 0.9, "max_grad_norm": 0.05,
        "n_steps": 12, "batch_size": 50, "clip_range": 0.05, "target_kl": 0.001,
    },
    "ddpg": {
        "actor_learning_rate": 3e-4, "critic_learning_rate": 4e-3, "gamma": 0.8, "tau": 0.3, "noise_sigma": 0.7,
        "train_freq": 3, "gradient_steps": 2, "learning_starts": 700,
    },
}  # fmt: skip
"""Every value another: gradients are clipped, rollouts cross episodes, minibatches do not divide them."""


class PlainLearner:
    """One agent in one role of the game."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        self.values, self.environment = values, RoleEnvironment(role, torch.float64)
        self.environment.open([seed])
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator).double()

    def observe(self, state: Tensor) -> Tensor:
        return self.environment.observe(state[None])[0]

    def mlp(self, sizes: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i, o in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(i, o).double(), activation()]
        return nn.Sequential(*layers[:-1])

    def parameters(self) -> Tensor:
        """All parameters, in the order of a snapshot."""
        raise NotImplementedError

    def episode(self) -> None:
        """Act and learn for one episode."""
        raise NotImplementedError


def linears(network: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in network if isinstance(layer, nn.Linear)]


def draw_evenly(network: nn.Sequential, generator: torch.Generator, head: float | None = None) -> None:
    """As torch.nn.Linear draws: within 1/sqrt(inputs); the last layer within `head`."""
    for layer in linears(network):
        last = layer is linears(network)[-1]
        bound = head if last and head else 1 / math.sqrt(layer.in_features)
        weight = (torch.rand(layer.in_features, layer.out_features, generator=generator) * 2 - 1) * bound
        bias = (torch.rand(1, layer.out_features, generator=generator) * 2 - 1) * bound
        layer.weight.data, layer.bias.data = weight.double().T.contiguous(), bias.double()[0]


def draw_orthogonally(network: nn.Sequential, generator: torch.Generator, head: float, columns: int) -> None:
    """Orthogonal rows or columns. The head is drawn with `columns` outputs, of which the network may have the first."""
    for layer in linears(network):
        last = layer is linears(network)[-1]
        i, o = layer.in_features, columns if last else layer.out_features
        q, r = torch.linalg.qr(torch.randn(max(i, o), min(i, o), generator=generator))
        q = q * r.diagonal().sign()
        weight = (q if i >= o else q.T) * (head if last else math.sqrt(2))
        layer.weight.data = weight[:, : layer.out_features].double().T.contiguous()
        layer.bias.data.zero_()


def flat(*networks: nn.Sequential) -> Tensor:
    return torch.cat([x for n in networks for y in linears(n) for x in (y.weight.detach().T.flatten(), y.bias.detach())])


def follow(target: nn.Sequential, online: nn.Sequential, tau: float) -> None:
    for ours, theirs in zip(target.parameters(), online.parameters(), strict=True):
        ours.data += tau * (theirs.data - ours.data)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, *networks: nn.Sequential, longest: float | None) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    if longest is not None:
        nn.utils.clip_grad_norm_([p for network in networks for p in network.parameters()], longest)
    optimiser.step()


class PlainReplay(PlainLearner):
    """Algorithm 1 of Mnih et al. 2015 and of Lillicrap et al. 2016 share their memory."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        super().__init__(role, seed, values)
        self.memory = deque[tuple[Tensor, Tensor, Tensor, Tensor]](maxlen=int(values["buffer_size"]))

    def episode(self) -> None:
        freq, repeats = self.values["train_freq"], self.values["gradient_steps"]
        picks = self.uniform((HORIZON // freq + 1) * repeats, self.values["batch_size"])
        self.prepare()
        state = self.environment.begin()[0]
        for t in range(HORIZON):
            with torch.no_grad():
                action = self.act(state, t)
            step = self.environment.step(action[None])
            self.memory.extend(zip(state, step.after[0], action, step.reward[0], strict=True))
            self.steps += 1
            if self.steps % freq == 0 and self.steps * COPIES > self.values["learning_starts"]:
                for pick in picks[t // freq * repeats : (t // freq + 1) * repeats]:
                    drawn = [self.memory[int(x)] for x in pick * len(self.memory)]
                    self.gradient_step(*(torch.stack(column) for column in zip(*drawn, strict=True)))
            self.after_step()
            state = step.state[0]

    def prepare(self) -> None:
        raise NotImplementedError

    def act(self, state: Tensor, t: int) -> Tensor:
        raise NotImplementedError

    def gradient_step(self, state: Tensor, after: Tensor, action: Tensor, reward: Tensor) -> None:
        raise NotImplementedError

    def after_step(self) -> None:
        """Nothing is counted in vector steps."""


class PlainDQN(PlainReplay):
    """Mnih et al. 2015."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        super().__init__(role, seed, values)
        self.q, self.target = (self.mlp((19, 64, 64, 4), nn.ReLU) for _ in range(2))
        draw_evenly(self.q, self.generator)
        self.target.load_state_dict(self.q.state_dict())
        self.optimiser = torch.optim.Adam(self.q.parameters(), lr=values["learning_rate"])

    def prepare(self) -> None:
        self.explore, self.choose = self.uniform(HORIZON, 2, COPIES).unbind(1)

    def act(self, state: Tensor, t: int) -> Tensor:
        initial, final, fraction = (self.values[f"exploration_{x}"] for x in ("initial_eps", "final_eps", "fraction"))
        share = initial + (final - initial) * min(self.steps / (fraction * WARM_UP), 1)
        if self.steps * COPIES < self.values["learning_starts"]:
            share = 1.0
        at_random = (self.choose[t] * 4).long()
        return torch.where(self.explore[t] < share, at_random, self.q(self.observe(state)).argmax(-1))

    def gradient_step(self, state: Tensor, after: Tensor, action: Tensor, reward: Tensor) -> None:
        with torch.no_grad():
            y = reward + self.values["gamma"] * self.target(self.observe(after)).amax(-1)
        taken = self.q(self.observe(state))[torch.arange(len(action)), action]
        descend(nn.functional.smooth_l1_loss(taken, y), self.optimiser, self.q, longest=self.values["max_grad_norm"])

    def after_step(self) -> None:
        if self.steps * COPIES % self.values["target_update_interval"] == 0:
            follow(self.target, self.q, self.values["tau"])

    def parameters(self) -> Tensor:
        return flat(self.q, self.target)


class PlainDDPG(PlainReplay):
    """Lillicrap et al. 2016."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        super().__init__(role, seed, values)
        self.actor, self.actor_target = (self.mlp((19, 64, 64, 1), nn.ReLU) for _ in range(2))
        self.critic, self.critic_target = (self.mlp((20, 64, 64, 1), nn.ReLU) for _ in range(2))
        for online, target in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            draw_evenly(online, self.generator, head=3e-3)
            target.load_state_dict(online.state_dict())
        rates = [values[f"{name}_learning_rate"] or values["learning_rate"] for name in ("actor", "critic")]
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters(), lr=rates[0])
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=rates[1])

    def prepare(self) -> None:
        self.evenly = self.uniform(HORIZON, COPIES, 1) * 2 - 1
        self.noise = torch.randn(HORIZON, COPIES, 1, generator=self.generator).double()

    def act(self, state: Tensor, t: int) -> Tensor:
        if self.steps * COPIES < self.values["learning_starts"]:
            return self.evenly[t]
        noisy = self.actor(self.observe(state)).tanh() + self.values["noise_sigma"] * self.noise[t]
        return noisy.clamp(-1, 1)

    def gradient_step(self, state: Tensor, after: Tensor, action: Tensor, reward: Tensor) -> None:
        s, s2 = self.observe(state), self.observe(after)
        with torch.no_grad():
            q2 = self.critic_target(torch.cat([s2, self.actor_target(s2).tanh()], -1))[:, 0]
        q = self.critic(torch.cat([s, action], -1))[:, 0]
        descend((reward + self.values["gamma"] * q2 - q).square().mean(), self.critic_optimiser, longest=None)
        value = self.critic(torch.cat([s, self.actor(s).tanh()], -1))
        descend(-value.mean(), self.actor_optimiser, longest=None)
        follow(self.actor_target, self.actor, self.values["tau"])
        follow(self.critic_target, self.critic, self.values["tau"])

    def parameters(self) -> Tensor:
        return flat(self.actor, self.actor_target, self.critic, self.critic_target)


class PlainActorCritic(PlainLearner):
    """Rollouts, and advantages by a loop over copies and steps (Schulman et al. 2016, equations 11 to 16)."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        super().__init__(role, seed, values)
        self.actor, self.critic = self.mlp((19, 64, 64, 3), nn.Tanh), self.mlp((19, 64, 64, 1), nn.Tanh)
        draw_orthogonally(self.actor, self.generator, head=0.01, columns=3)
        draw_orthogonally(self.critic, self.generator, head=1.0, columns=3)
        self.both = [*self.actor.parameters(), *self.critic.parameters()]
        self.rollout: list[tuple[Tensor, Tensor, Tensor, Tensor, bool]] = []
        self.optimiser: torch.optim.Optimizer

    def episode(self) -> None:
        noise = self.uniform(HORIZON, COPIES)
        state = self.environment.begin()[0]
        for t in range(HORIZON):
            with torch.no_grad():
                share = self.actor(self.observe(state)).softmax(-1).cumsum(-1)[:, :-1]
            action = (noise[t][:, None] >= share).sum(-1)
            step = self.environment.step(action[None])
            self.rollout.append((state, action, step.reward[0], step.after[0], t == HORIZON - 1))
            state = step.state[0]
            if len(self.rollout) == self.values["n_steps"]:
                self.learn()
                self.rollout = []

    def learn(self) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def weighed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """State, action, advantage and return of every step, one after the other."""
        gamma, trace = self.values["gamma"], self.values["gae_lambda"]
        states, actions, rewards, afters, cuts = zip(*self.rollout, strict=True)
        values = [self.critic(self.observe(state))[:, 0].tolist() for state in states]
        behind = [self.critic(self.observe(after))[:, 0].tolist() for after in afters]
        advantages = torch.zeros(len(states), COPIES, dtype=torch.float64)
        for copy in range(COPIES):
            ahead = 0.0
            for t in reversed(range(len(states))):
                delta = float(rewards[t][copy]) + gamma * behind[t][copy] - values[t][copy]
                ahead = delta + (0.0 if cuts[t] else gamma * trace * ahead)
                advantages[t, copy] = ahead
        returns = advantages + torch.tensor(values, dtype=torch.float64)
        return torch.cat(states), torch.cat(actions), advantages.flatten(), returns.flatten()

    def combined(self, policy: Tensor, value: Tensor, returned: Tensor, entropy: Tensor) -> Tensor:
        critic = (returned - value).square().mean()
        return policy + self.values["vf_coef"] * critic - self.values["ent_coef"] * entropy.mean()

    def descend(self, loss: Tensor) -> None:
        descend(loss, self.optimiser, self.actor, self.critic, longest=self.values["max_grad_norm"])

    def parameters(self) -> Tensor:
        return flat(self.actor, self.critic)


class PlainA2C(PlainActorCritic):
    """Mnih et al. 2016, Algorithm S3."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        super().__init__(role, seed, values)
        self.optimiser = torch.optim.RMSprop(self.both, lr=values["learning_rate"], alpha=0.99, eps=1e-5)

    def learn(self) -> None:
        state, action, advantage, returned = self.weighed()
        policy = Categorical(logits=self.actor(self.observe(state)))
        gain = policy.log_prob(action) * advantage  # type: ignore[no-untyped-call] # torch's
        entropy = policy.entropy()  # type: ignore[no-untyped-call] # torch's
        self.descend(self.combined(-gain.mean(), self.critic(self.observe(state))[:, 0], returned, entropy))


class PlainPPO(PlainActorCritic):
    """Schulman et al. 2017, Algorithm 1 and equation 7."""

    def __init__(self, role: Role, seed: int, values: Values) -> None:
        super().__init__(role, seed, values)
        self.optimiser = torch.optim.Adam(self.both, lr=values["learning_rate"], eps=1e-5)

    def learn(self) -> None:
        state, action, advantage, returned = self.weighed()
        with torch.no_grad():
            old = Categorical(logits=self.actor(self.observe(state))).log_prob(action)  # type: ignore[no-untyped-call]
        orders = self.uniform(self.values["n_epochs"], len(action)).argsort(-1)
        for order in orders:
            for start in range(0, len(action), self.values["batch_size"]):
                rows = order[start : start + self.values["batch_size"]]
                if not self.minibatch(state[rows], action[rows], advantage[rows], returned[rows], old[rows]):
                    return

    def minibatch(self, state: Tensor, action: Tensor, advantage: Tensor, returned: Tensor, old: Tensor) -> bool:
        policy, e = Categorical(logits=self.actor(self.observe(state))), self.values["clip_range"]
        log_ratio = policy.log_prob(action) - old  # type: ignore[no-untyped-call] # torch's
        ratio, limit = log_ratio.exp(), self.values["target_kl"]
        if limit is not None and float((ratio - 1 - log_ratio).mean().detach()) > 1.5 * limit:
            return False
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - e, 1 + e) * advantage)
        entropy = policy.entropy()  # type: ignore[no-untyped-call] # torch's
        self.descend(self.combined(-gain.mean(), self.critic(self.observe(state))[:, 0], returned, entropy))
        return True


PLAIN: Final[dict[str, type[PlainLearner]]] = {"dqn": PlainDQN, "a2c": PlainA2C, "ppo": PlainPPO, "ddpg": PlainDDPG}


def lane_parameters(algorithm: str, snapshot: Mapping[str, Tensor]) -> Tensor:
    """A lane's parameters without the outputs that a critic does not use."""
    found = torch.cat([tensor for name, tensor in snapshot.items() if name.startswith("parameters.")])
    if algorithm not in {"a2c", "ppo"}:
        return found
    actor, critic = found.chunk(2)
    body = 19 * 64 + 64 + 64 * 64 + 64
    return torch.cat([actor, critic[:body], critic[body : body + 192].view(64, 3)[:, 0], critic[-3:-2]])


@pytest.mark.parametrize("odd", [False, True], ids=["the games values", "odd values"])
@pytest.mark.parametrize("role", list(GAME_ROLES))
def test_a_lane_learns_what_the_papers_algorithm_learns(role: Role, odd: bool) -> None:
    name = GAME_ROLES[role]
    usual: dict[str, Value] = {**DECLARED[name].game_defaults, **SMALL[name]}
    values: dict[str, Value] = {**usual, **(ODD[name] if odd else {})}
    structure = {key: values[key] for key in ALGORITHMS[name].STRUCTURE}
    lanes = [Lane(seed, {**usual, **structure}) for seed in range(3)]
    lanes[1] = Lane(1, values)
    population, plain = ALGORITHMS[name](RoleEnvironment(role, torch.float64), lanes), PLAIN[name](role, 1, values)
    before = plain.parameters()
    for _ in range(3):
        population.episode()
        plain.episode()
        ours = lane_parameters(name, population.snapshot(1))
        assert torch.allclose(ours, plain.parameters(), atol=1e-9, rtol=0)
    assert not torch.allclose(before, plain.parameters(), atol=1e-3)
