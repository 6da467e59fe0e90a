"""Deep Q-learning (Mnih et al., Nature 518, 2015), for P agents at once.

Shapes: P lanes, E copies of the environment in each, B batch, A actions. No sum or mean crosses P: the loss is the sum
of the members' mean losses, so each member's gradient is its own.

Differs from the paper as Stable-Baselines3 does: Adam instead of RMSProp; a gradient step after every `train_freq`
vector steps; the target network follows by tau every `target_update_interval` environment steps; the gradient's norm is
limited to `max_grad_norm`; every action is random before `learning_starts`. The Huber loss is the paper's clipping of
the error term to [-1, 1]. Exploration falls linearly over `exploration_fraction` of WARM_UP vector steps, whatever the
length of a trial, so that a live agent has the same schedule. The target follows after the gradient steps of its vector
step; SB3 moves it before them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tars.agents.adam import Adam
from tars.agents.algorithm import Effect, Lane
from tars.agents.environments import COPIES, DRAWS, RoleEnvironment
from tars.agents.networks import Networks, parameter_count
from tars.agents.random_streams import RandomStreams
from tars.agents.replay_buffer import ReplayBuffer
from tars.schemas.hyperparameters import Value, Values

HIDDEN: Final = (64, 64)
WARM_UP: Final = 1600
"""Vector steps of one full trial (50 episodes of 32): what exploration_fraction is a fraction of."""
STRUCTURE: Final = ("batch_size", "buffer_size", "train_freq", "gradient_steps")
WHOLE: Final = frozenset({*STRUCTURE, "learning_starts", "target_update_interval"})
BOUNDARY: Final = (
    "exploration_initial_eps", "exploration_final_eps", "exploration_fraction", "learning_starts", *STRUCTURE,
)  # fmt: skip
LIVE: Final = ("learning_rate", "gamma", "tau", "target_update_interval", "max_grad_norm")


@torch.no_grad()
def td_target(reward: Tensor, q_next: Tensor, gamma: Tensor) -> Tensor:
    """y = r + gamma max_a' Q'(s', a') (Algorithm 1); an episode's end is a time limit here, so it bootstraps too.

    reward [P, B]; q_next [P, B, A] from the target network; gamma [P]. Returns [P, B].
    """
    return reward + gamma[:, None] * q_next.amax(dim=-1)


def loss(q: Tensor, action: Tensor, target: Tensor) -> Tensor:
    """Huber loss of Q(s, a) against y. q [P, B, A], action [P, B], target [P, B] -> [P]."""
    taken = q.gather(-1, action[..., None]).squeeze(-1)
    return huber_loss(taken, target, reduction="none").mean(dim=-1)


def epsilon(step: Tensor, initial: Tensor, final: Tensor, fraction: Tensor) -> Tensor:
    """Share of random actions after `step` vector steps: a line from initial to final, then final. All broadcast."""
    done = (step / (fraction * WARM_UP)).clamp(max=1)
    return initial + done * (final - initial)


class DQN:
    """A population of P Q-learners in lockstep."""

    TAKES_EFFECT: ClassVar[Mapping[str, Effect]] = {
        **dict.fromkeys(LIVE, "live"), **dict.fromkeys(BOUNDARY, "boundary"), "buffer_size": "rebuild",
    }  # fmt: skip

    def __init__(
        self, environment: RoleEnvironment, lanes: Sequence[Lane], *, dtype: torch.dtype = torch.float32
    ) -> None:
        structures = {self.structure(lane.hyperparameters) for lane in lanes}
        if len(structures) != 1:
            raise ValueError(f"lanes of one population must share {', '.join(STRUCTURE)}; these have {structures}")
        self._environment, self._dtype, members = environment, dtype, len(lanes)
        sizes = [environment.features, *HIDDEN, environment.actions]
        parameters = torch.zeros(2, members, parameter_count(sizes), dtype=dtype)
        self._online, self._target = Networks(parameters[0], sizes), Networks(parameters[1], sizes)
        self._adam = Adam(self._online.flat)
        self._random = RandomStreams([lane.seed for lane in lanes])
        self._columns = {name: torch.zeros(members, dtype=self._dtype_of(name)) for name in self.TAKES_EFFECT}
        self._vector_steps = torch.zeros(members, dtype=torch.long)
        self._pending: dict[str, dict[int, Value]] = {}
        for name in STRUCTURE:
            self._columns[name][:] = _number(name, lanes[0].hyperparameters[name])
        self._buffer = self._new_buffer(members)
        for member, lane in enumerate(lanes):
            self.refill(member, lane)
        self._at = environment.horizon

    @staticmethod
    def structure(hyperparameters: Values) -> tuple[Value, ...]:
        """What lanes must share to be one population: the sizes of batches and buffer, and when they learn."""
        return tuple(hyperparameters[name] for name in STRUCTURE)

    def refill(self, member: int, lane: Lane) -> None:
        """Start another trial in a lane, between episodes: everything of the old one is gone."""
        self._random.reseed(member, lane.seed)
        for name in self.TAKES_EFFECT:
            self._columns[name][member] = _number(name, lane.hyperparameters[name])
        self._pending = {name: {m: v for m, v in new.items() if m != member} for name, new in self._pending.items()}
        self._online.initialise(member, self._random.generators[member])
        self._target.flat[member] = self._online.flat[member]
        self._adam.reset(member)
        self._buffer.clear(member)
        self._vector_steps[member] = 0

    @torch.no_grad()
    def begin(self) -> None:
        """Begin an episode: what was written for a boundary comes into use, and all that no state decides is drawn."""
        self._apply_pending()
        hp, horizon = self._columns, self._environment.horizon
        rounds = horizon // self._size("train_freq") + 1
        draws = self._random.uniform(horizon + 1, DRAWS + 2, COPIES).to(self._dtype).unbind(2)
        self._picks = self._random.uniform(rounds * self._size("gradient_steps"), self._size("batch_size")).to(
            self._dtype
        )
        step = self._vector_steps + torch.arange(horizon)[:, None]  # [H, P]
        share = epsilon(step, hp["exploration_initial_eps"], hp["exploration_final_eps"], hp["exploration_fraction"])
        share = torch.where(step * COPIES < hp["learning_starts"], torch.ones_like(share), share)
        self._explores = (draws[DRAWS][:horizon] < share[..., None]).unbind(0)
        self._random_actions = (draws[DRAWS + 1] * self._environment.actions).long().unbind(0)
        self._chance = torch.stack(draws[:DRAWS], 1).unbind(0)
        self._active = ((step + 1) * COPIES > hp["learning_starts"]).unbind(0)
        self._state = self._environment.start(draws[DRAWS][horizon])
        self._return = torch.zeros(len(self._vector_steps), dtype=self._dtype)
        self._visited: list[tuple[Tensor, Tensor]] = []
        self._at = 0

    def step(self) -> bool:
        """Act once in every copy, store, and learn where it is time to; say whether the episode goes on."""
        with torch.no_grad():
            greedy = self._online(self._environment.observe(self._state)).argmax(-1)
            action = torch.where(self._explores[self._at], self._random_actions[self._at], greedy)
            after, reward = self._environment.step(self._state, action, self._chance[self._at])
            self._buffer.write(torch.stack([self._state, after, action, reward], -1))
        self._visited.append((self._state, action))
        self._vector_steps += 1
        self._learn(self._active[self._at])
        self._follow()
        self._state, self._return = after, self._return + reward.mean(1)
        self._at += 1
        return self._at < self._environment.horizon

    def end(self) -> Tensor:
        """Behaviour score of the episode [P], normalised; exploration included."""
        return self._environment.score(self._return / self._environment.horizon)

    def episode(self) -> Tensor:
        """Run a whole episode; return its behaviour score [P]."""
        self.begin()
        while self.step():
            continue
        return self.end()

    def visited(self) -> tuple[Tensor, Tensor]:
        """States and actions of the episode so far, each [steps, P, E]."""
        states, actions = zip(*self._visited, strict=True)
        return torch.stack(states), torch.stack(actions)

    def _learn(self, active: Tensor) -> None:
        due = active & (self._vector_steps % self._size("train_freq") == 0)
        if not bool(due.any()):
            return
        everyone = None if bool(due.all()) else due
        rounds, count = self._at // self._size("train_freq"), self._size("gradient_steps")
        for pick in self._picks[rounds * count : (rounds + 1) * count]:  # by the step, whatever other lanes do
            self._gradient_step(pick, everyone)

    def _gradient_step(self, pick: Tensor, active: Tensor | None) -> None:
        rows = self._buffer.sample(pick)
        state, after, action = rows[..., :3].long().unbind(-1)
        with torch.no_grad():
            q_next = self._target(self._environment.observe(after))
        target = td_target(rows[..., 3], q_next, self._columns["gamma"])
        q = self._online.tracked(self._environment.observe(state))
        gradient = self._online.gradient(loss(q, action, target).sum())
        with torch.no_grad():
            self._adam.step(gradient, self._columns["learning_rate"], self._columns["max_grad_norm"], active)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the target networks that are due."""
        due = self._vector_steps % (self._columns["target_update_interval"] // COPIES).clamp_min(1) == 0
        if bool(due.any()):
            self._target.flat.lerp_(self._online.flat, (self._columns["tau"] * due)[:, None])

    @torch.no_grad()
    def act(self, state: Tensor) -> Tensor:
        """Greedy actions [P, n] in states [P, n]."""
        return self._online(self._environment.observe(state)).argmax(-1)

    @torch.no_grad()
    def evaluate(self, episodes: int, seeds: Sequence[int]) -> Tensor:
        """Score of the greedy policies [P] over `episodes` evaluation episodes, lane k's chance drawn from seeds[k]."""
        environment, copies = self._environment, episodes * COPIES
        chance = RandomStreams(seeds).uniform(environment.horizon + 1, DRAWS, copies).to(self._dtype)
        state, total = environment.start(chance[-1][:, 0]), torch.zeros(len(seeds), dtype=self._dtype)
        for draws in chance[:-1].transpose(1, 2):
            state, reward = environment.step(state, self.act(state), draws)
            total += reward.mean(1)
        return environment.score(total / environment.horizon)

    def exact_score(self) -> Tensor:
        """Score of the greedy policies [P] by dynamic programming: what `evaluate` estimates."""
        return self._environment.exact_score(
            self.act(self._environment.every_state().expand(len(self._vector_steps), -1))
        )

    def write(self, member: int, name: str, value: Value) -> None:
        """Set one hyperparameter of one lane: at once if it is live, else when the next episode begins.

        A structural key can be written only where the population has one lane; raises ValueError otherwise.
        """
        if name in STRUCTURE and len(self._vector_steps) > 1:
            raise ValueError(f"{name} is shared by all lanes of a population")
        if self.TAKES_EFFECT[name] == "live":
            self._columns[name][member] = _number(name, value)
        else:
            self._pending.setdefault(name, {})[member] = value

    def read(self, member: int, name: str) -> Value:
        """The value in use: the very number that the next gradient step, draw or action is computed with."""
        if name == "buffer_size":
            return self._buffer.capacity
        number = self._columns[name][member].item()
        return int(number) if name in WHOLE else float(number)

    def weights_hash(self, member: int) -> str:
        """The sha256, in hex, of a lane's online and target parameters."""
        both = torch.cat([self._online.flat[member], self._target.flat[member]])
        return hashlib.sha256(both.numpy().tobytes()).hexdigest()

    def stored(self, member: int) -> int:
        """Transitions in the lane's replay buffer."""
        return self._buffer.stored(member)

    def gradient_steps(self, member: int) -> int:
        """Gradient steps done."""
        return int(self._adam.steps[member])

    def finite(self) -> Tensor:
        """Which lanes have finite parameters only [P]."""
        return torch.isfinite(self._online.flat.sum(1))

    def _apply_pending(self) -> None:
        for name, values in self._pending.items():
            for member, value in values.items():
                self._columns[name][member] = _number(name, value)
        if "buffer_size" in self._pending and self._capacity() != self._buffer.capacity:
            self._buffer = self._buffer.resized(self._capacity())
        self._pending = {}

    def _new_buffer(self, members: int) -> ReplayBuffer:
        return ReplayBuffer(members, self._capacity(), 4, self._dtype)

    def _capacity(self) -> int:
        """At least one row a copy, which are stored at once."""
        return max(self._size("buffer_size"), COPIES)

    def _size(self, name: str) -> int:
        """A structural number, equal in all lanes."""
        return int(self._columns[name][0])

    def _dtype_of(self, name: str) -> torch.dtype:
        return torch.long if name in WHOLE else self._dtype


def _number(name: str, value: Value) -> float | int:
    if value is None or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, not {value!r}")
    return value
