"""A lane of a population, episode after episode, against one plain learner written from each paper.

The plain learners use lists for memory, torch's layers, optimisers, distributions and clipping, and loops over steps
and copies. They draw their numbers in the order that a lane does, which is what a seed means.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

from tars.agents.actor_critic import ActorCritic
from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.dqn import WARM_UP
from tars.agents.environments import COPIES, Continuous, Discrete, RoleEnvironment, Transition
from tars.agents.game import HORIZON, Role
from tars.agents.networks import parameter_count
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import Value

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
        "n_steps": 7, "batch_size": 37, "clip_range": 0.05, "target_kl": 0.011,
    },
    "ddpg": {
        "actor_learning_rate": 3e-4, "critic_learning_rate": 4e-3, "gamma": 0.8, "tau": 0.3, "noise_sigma": 0.7,
        "train_freq": 3, "gradient_steps": 2, "learning_starts": 700,
    },
}  # fmt: skip
"""Every value another: gradients are clipped, rollouts cross episodes, their last minibatch is a single row."""
NEIGHBOURS: Final[dict[str, tuple[Values, Values]]] = {
    "dqn": ({"learning_starts": 0, "target_update_interval": 32}, {"learning_starts": 100_000}),
    "a2c": ({"gamma": 0.5}, {"max_grad_norm": 0.01}),
    "ppo": ({"target_kl": 1e-9}, {"target_kl": None}),
    "ddpg": ({"learning_starts": 0, "actor_learning_rate": 1e-2}, {"learning_starts": 100_000}),
}
"""Lanes beside it that begin earlier and never, or stop at once and never."""


class Endings(RoleEnvironment):
    """The game, in which some states end the task and others the time: each copy begins anew when it meets one."""

    def step(self, action: Tensor) -> Transition:
        """Act once in every copy."""
        _, reward, after, terminated, cut, _ = super().step(action)
        terminated = (after[..., 0] % 7 == 0).to(self.dtype)
        late = (after[..., 0] % 5 == 0).to(self.dtype)
        cut = torch.maximum(terminated, late if cut is None else cut)
        self._state = torch.where(cut[..., None].bool(), self._start[0], after)
        return Transition(action, reward, after, terminated, cut, self._state)


class PlainLearner(ABC):
    """One agent in one environment."""

    def __init__(self, environment: RoleEnvironment, seed: int, values: Values) -> None:
        self.values, self.environment = dict(values), environment
        self.environment.open([seed])
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator).double()

    def observe(self, state: Tensor) -> Tensor:
        return self.environment.observe(state[None])[0]

    def mlp(self, sizes: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i, o in pairwise(sizes):
            layers += [nn.Linear(i, o).double(), activation()]
        return nn.Sequential(*layers[:-1])

    @abstractmethod
    def parameters(self) -> Tensor:
        """All parameters, in the order of a snapshot."""

    @abstractmethod
    def episode(self) -> None:
        """Act and learn for one episode."""


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
    layers = [layer for network in networks for layer in linears(network)]
    return torch.cat([x.detach() for layer in layers for x in (layer.weight.T.flatten(), layer.bias)])


def follow(target: nn.Sequential, online: nn.Sequential, tau: float) -> None:
    for ours, theirs in zip(target.parameters(), online.parameters(), strict=True):
        ours.data += tau * (theirs.data - ours.data)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, rate: float, longest: float = math.inf) -> None:
    (group,) = optimiser.param_groups
    group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
    nn.utils.clip_grad_norm_(group["params"], longest)
    optimiser.step()


class PlainReplay(PlainLearner):
    """Algorithm 1 of Mnih et al. 2015 and of Lillicrap et al. 2016 share their memory."""

    def __init__(self, environment: RoleEnvironment, seed: int, values: Values) -> None:
        super().__init__(environment, seed, values)
        self.memory = deque[tuple[Tensor, ...]](maxlen=int(values["buffer_size"]))

    def episode(self) -> None:
        freq, repeats = self.values["train_freq"], self.values["gradient_steps"]
        picks = self.uniform((HORIZON // freq + 1) * repeats, self.values["batch_size"])
        self.prepare()
        state = self.environment.begin()[0]
        for t in range(HORIZON):
            with torch.no_grad():
                action = self.act(state, t)
            step = self.environment.step(action[None])
            self.memory.extend(zip(state, step.after[0], action, step.reward[0], step.terminated[0], strict=True))
            self.steps += 1
            if self.steps % freq == 0 and self.steps * COPIES > self.values["learning_starts"]:
                for pick in picks[t // freq * repeats : (t // freq + 1) * repeats]:
                    drawn = [self.memory[int(x)] for x in pick * len(self.memory)]
                    self.gradient_step(*(torch.stack(column) for column in zip(*drawn, strict=True)))
            self.after_step()
            state = step.state[0]

    @abstractmethod
    def prepare(self) -> None:
        """Make networks and optimisers, drawn as a lane draws them."""

    @abstractmethod
    def act(self, state: Tensor, t: int) -> Tensor:
        """Choose the actions of all copies at step `t`."""

    @abstractmethod
    def gradient_step(self, state: Tensor, after: Tensor, action: Tensor, reward: Tensor, ended: Tensor) -> None:
        """Move once along the gradient of a drawn batch."""

    def after_step(self) -> None:
        """Nothing is counted in vector steps."""


class PlainDQN(PlainReplay):
    """Mnih et al. 2015."""

    def __init__(self, environment: RoleEnvironment, seed: int, values: Values) -> None:
        super().__init__(environment, seed, values)
        self.q, self.target = (self.mlp((19, 64, 64, 4), nn.ReLU) for _ in range(2))
        draw_evenly(self.q, self.generator)
        self.target.load_state_dict(self.q.state_dict())
        self.optimiser = torch.optim.Adam(self.q.parameters())

    def prepare(self) -> None:
        self.explore, self.choose = self.uniform(HORIZON, 2, COPIES).unbind(1)

    def act(self, state: Tensor, t: int) -> Tensor:
        initial, final, fraction = (self.values[f"exploration_{x}"] for x in ("initial_eps", "final_eps", "fraction"))
        share = initial + (final - initial) * min(self.steps / (fraction * WARM_UP), 1)
        if self.steps * COPIES < self.values["learning_starts"]:
            share = 1.0
        at_random = (self.choose[t] * 4).long()
        return torch.where(self.explore[t] < share, at_random, self.q(self.observe(state)).argmax(-1))

    def gradient_step(self, state: Tensor, after: Tensor, action: Tensor, reward: Tensor, ended: Tensor) -> None:
        with torch.no_grad():
            best = self.target(self.observe(after)).amax(-1)
        y = torch.where(ended.bool(), reward, reward + self.values["gamma"] * best)
        taken = self.q(self.observe(state))[torch.arange(len(action)), action]
        loss = nn.functional.smooth_l1_loss(taken, y)
        descend(loss, self.optimiser, self.values["learning_rate"], self.values["max_grad_norm"])

    def after_step(self) -> None:
        if self.steps * COPIES % self.values["target_update_interval"] == 0:
            follow(self.target, self.q, self.values["tau"])

    def parameters(self) -> Tensor:
        return flat(self.q, self.target)


class PlainDDPG(PlainReplay):
    """Lillicrap et al. 2016."""

    def __init__(self, environment: RoleEnvironment, seed: int, values: Values) -> None:
        super().__init__(environment, seed, values)
        self.actor, self.actor_target = (self.mlp((19, 64, 64, 1), nn.ReLU) for _ in range(2))
        self.critic, self.critic_target = (self.mlp((20, 64, 64, 1), nn.ReLU) for _ in range(2))
        for online, target in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            draw_evenly(online, self.generator, head=3e-3)
            target.load_state_dict(online.state_dict())
        self.actor_optimiser = torch.optim.Adam(self.actor.parameters())
        self.critic_optimiser = torch.optim.Adam(self.critic.parameters())

    def prepare(self) -> None:
        self.evenly = self.uniform(HORIZON, COPIES, 1) * 2 - 1
        self.noise = torch.randn(HORIZON, COPIES, 1, generator=self.generator).double()

    def act(self, state: Tensor, t: int) -> Tensor:
        if self.steps * COPIES < self.values["learning_starts"]:
            return self.evenly[t]
        noisy: Tensor = self.actor(self.observe(state)).tanh() + self.values["noise_sigma"] * self.noise[t]
        return noisy.clamp(-1, 1)

    def gradient_step(self, state: Tensor, after: Tensor, action: Tensor, reward: Tensor, ended: Tensor) -> None:
        s, s2 = self.observe(state), self.observe(after)
        with torch.no_grad():
            q2 = self.critic_target(torch.cat([s2, self.actor_target(s2).tanh()], -1))[:, 0]
        y = torch.where(ended.bool(), reward, reward + self.values["gamma"] * q2)
        q = self.critic(torch.cat([s, action], -1))[:, 0]
        descend((y - q).square().mean(), self.critic_optimiser, self.rate("critic"))
        value = self.critic(torch.cat([s, self.actor(s).tanh()], -1))
        descend(-value.mean(), self.actor_optimiser, self.rate("actor"))
        follow(self.actor_target, self.actor, self.values["tau"])
        follow(self.critic_target, self.critic, self.values["tau"])

    def rate(self, network: str) -> float:
        own: float | None = self.values[f"{network}_learning_rate"]
        return self.values["learning_rate"] if own is None else own

    def parameters(self) -> Tensor:
        return flat(self.actor, self.actor_target, self.critic, self.critic_target)


class PlainActorCritic(PlainLearner):
    """Rollouts, and advantages by a loop over copies and steps (Schulman et al. 2016, equations 11 to 16)."""

    def __init__(self, environment: RoleEnvironment, seed: int, values: Values) -> None:
        super().__init__(environment, seed, values)
        self.continuous = isinstance(environment.actions, Continuous)
        outputs = 1 if self.continuous else 3
        self.actor, self.critic = self.mlp((19, 64, 64, outputs), nn.Tanh), self.mlp((19, 64, 64, 1), nn.Tanh)
        draw_orthogonally(self.actor, self.generator, head=0.01, columns=outputs)
        draw_orthogonally(self.critic, self.generator, head=1.0, columns=outputs)
        self.log_deviation = nn.Parameter(torch.zeros(1 if self.continuous else 0, dtype=torch.float64))
        self.optimiser = self.new_optimiser([*self.actor.parameters(), *self.critic.parameters(), self.log_deviation])
        self.rollout: list[tuple[Tensor, Transition]] = []

    @abstractmethod
    def new_optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the optimiser that the paper names."""

    @abstractmethod
    def learn(self) -> None:
        """Learn from the rollout."""

    def episode(self) -> None:
        draw = torch.randn if self.continuous else torch.rand
        shape = (HORIZON, COPIES, 1) if self.continuous else (HORIZON, COPIES)
        noise = draw(shape, generator=self.generator).double()
        state = self.environment.begin()[0]
        for t in range(HORIZON):
            with torch.no_grad():
                step = self.environment.step(self.act(state, noise[t])[None])
            self.rollout.append((state, step))
            state = step.state[0]
            if len(self.rollout) == self.values["n_steps"]:
                self.learn()
                self.rollout = []

    def act(self, state: Tensor, noise: Tensor) -> Tensor:
        out: Tensor = self.actor(self.observe(state))
        if self.continuous:
            return out + self.log_deviation.exp() * noise
        return (noise[:, None] >= out.softmax(-1).cumsum(-1)[:, :-1]).sum(-1)

    def policy(self, state: Tensor) -> Any:
        out = self.actor(self.observe(state))
        return Independent(Normal(out, self.log_deviation.exp()), 1) if self.continuous else Categorical(logits=out)

    @torch.no_grad()
    def weighed(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """State, action, advantage and return of every step, one after the other."""
        gamma, trace = self.values["gamma"], self.values["gae_lambda"]
        values = [self.critic(self.observe(state))[:, 0].tolist() for state, _ in self.rollout]
        behind = [self.critic(self.observe(step.after[0]))[:, 0].tolist() for _, step in self.rollout]
        advantages = torch.zeros(len(values), COPIES, dtype=torch.float64)
        for copy in range(COPIES):
            ahead = 0.0
            for t, (_, step) in reversed(list(enumerate(self.rollout))):
                next_value = 0.0 if step.terminated[0, copy] else behind[t][copy]
                delta = float(step.reward[0, copy]) + gamma * next_value - values[t][copy]
                ahead = delta + (0.0 if step.cut is not None and step.cut[0, copy] else gamma * trace * ahead)
                advantages[t, copy] = ahead
        returns = advantages + torch.tensor(values, dtype=torch.float64)
        states, actions = (torch.cat(x) for x in zip(*((s, step.action[0]) for s, step in self.rollout), strict=True))
        return states, actions, advantages.flatten(), returns.flatten()

    def descend(self, policy: Tensor, state: Tensor, returned: Tensor, entropy: Tensor) -> None:
        """Descend the sum of three losses, of which the policy's is given."""
        critic = (returned - self.critic(self.observe(state))[:, 0]).square().mean()
        loss = policy + self.values["vf_coef"] * critic - self.values["ent_coef"] * entropy.mean()
        descend(loss, self.optimiser, self.values["learning_rate"], self.values["max_grad_norm"])

    def parameters(self) -> Tensor:
        return torch.cat([flat(self.actor, self.critic), self.log_deviation.detach()])


class PlainA2C(PlainActorCritic):
    """Mnih et al. 2016, Algorithm S3."""

    def new_optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(parameters, alpha=0.99, eps=1e-5)

    def learn(self) -> None:
        state, action, advantage, returned = self.weighed()
        policy = self.policy(state)
        gain = policy.log_prob(action) * advantage
        self.descend(-gain.mean(), state, returned, policy.entropy())


class PlainPPO(PlainActorCritic):
    """Schulman et al. 2017, Algorithm 1 and equation 7."""

    def new_optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, eps=1e-5)

    def learn(self) -> None:
        state, action, advantage, returned = self.weighed()
        with torch.no_grad():
            old = self.policy(state).log_prob(action)
        orders = self.uniform(self.values["n_epochs"], len(state)).argsort(-1)
        for order in orders:
            for start in range(0, len(state), self.values["batch_size"]):
                rows = order[start : start + self.values["batch_size"]]
                if not self.minibatch(state[rows], action[rows], advantage[rows], returned[rows], old[rows]):
                    return

    def minibatch(self, state: Tensor, action: Tensor, advantage: Tensor, returned: Tensor, old: Tensor) -> bool:
        policy, e, limit = self.policy(state), self.values["clip_range"], self.values["target_kl"]
        log_ratio = policy.log_prob(action) - old
        ratio = log_ratio.exp()
        if limit is not None and float((ratio - 1 - log_ratio).mean().detach()) > 1.5 * limit:
            return False
        if len(advantage) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - e, 1 + e) * advantage)
        self.descend(-gain.mean(), state, returned, policy.entropy())
        return True


PLAIN: Final[dict[str, type[PlainLearner]]] = {"dqn": PlainDQN, "a2c": PlainA2C, "ppo": PlainPPO, "ddpg": PlainDDPG}
ACTORS: Final[list[tuple[str, Role]]] = [
    ("dqn", "policy"), ("a2c", "consensus"), ("a2c", "resource"), ("ppo", "ethical"), ("ppo", "resource"),
    ("ddpg", "resource"),
]  # fmt: skip
"""Every algorithm with every kind of action that it can choose."""
every_actor = pytest.mark.parametrize(("name", "role"), ACTORS, ids=[f"{name} {role}" for name, role in ACTORS])


def lane_parameters(lane: Population, member: int) -> Tensor:
    """A lane's parameters; a critic's without the outputs, and the deviation, that only its actor uses."""
    found = [tensor for name, tensor in lane.snapshot(member).items() if name.startswith("parameters.")]
    if not isinstance(lane, ActorCritic):
        return torch.cat(found)
    actions = lane.environment.actions
    outputs = actions.n if isinstance(actions, Discrete) else actions.size
    actor, critic = found[0].chunk(2)
    body, weights = parameter_count([19, 64, 64]), 64 * outputs
    own = torch.cat([critic[body : body + weights].view(64, outputs)[:, 0], critic[body + weights :][:1]])
    last = body + weights + outputs
    return torch.cat([actor[:last], critic[:body], own, actor[last:]])


@pytest.mark.parametrize(
    ("odd", "environment"),
    [
        pytest.param(False, RoleEnvironment, id="its values, the game"),
        pytest.param(True, Endings, id="odd values, tasks that end"),
        pytest.param(True, RoleEnvironment, id="odd values, the game", marks=pytest.mark.slow),
        pytest.param(False, Endings, id="its values, tasks that end", marks=pytest.mark.slow),
    ],
)
@every_actor
def test_a_lane_learns_what_the_papers_algorithm_learns(
    name: str, role: Role, odd: bool, environment: type[RoleEnvironment]
) -> None:
    usual: dict[str, Value] = {**DECLARED[name].game_defaults, **SMALL[name]}
    values: dict[str, Value] = {**usual, **(ODD[name] if odd else {})}
    shared = {**usual, **{key: values[key] for key in ALGORITHMS[name].STRUCTURE}}
    first, last = ({**shared, **other} for other in NEIGHBOURS[name])
    lanes = [Lane(0, first), Lane(1, values), Lane(2, last)]
    population = ALGORITHMS[name](environment(role, torch.float64), lanes)
    plain = PLAIN[name](environment(role, torch.float64), 1, values)
    before = plain.parameters()
    for _ in range(3):
        population.episode()
        plain.episode()
        assert torch.allclose(lane_parameters(population, 1), plain.parameters(), atol=1e-9, rtol=0)
    assert not torch.allclose(before, plain.parameters(), atol=1e-3)


@every_actor
def test_a_lane_whose_values_are_changed_goes_on_as_the_paper_with_the_new_ones(name: str, role: Role) -> None:
    usual: dict[str, Value] = {**DECLARED[name].game_defaults, **SMALL[name]}
    odd = {key: value for key, value in ODD[name].items() if key not in ALGORITHMS[name].STRUCTURE}
    waits = {"learning_starts": 100_000} if "learning_starts" in usual else {}
    population = ALGORITHMS[name](Endings(role, torch.float64), [Lane(seed, usual) for seed in range(2)])
    plain = PLAIN[name](Endings(role, torch.float64), 1, usual)
    for written in ({}, odd, waits):
        for key, value in written.items():
            population.write(1, key, value)
        plain.values |= written
        population.episode()
        plain.episode()
        assert torch.allclose(lane_parameters(population, 1), plain.parameters(), atol=1e-9, rtol=0)
