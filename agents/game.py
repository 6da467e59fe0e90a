"""Coordination: a finite game of four roles whose values, best responses and NashConv are exact.

Four roles handle requests together: *policy* chooses which class of request to serve, *consensus* whether to accept,
defer or escalate it, *ethical* whether to allow, restrict or veto it, *resource* how much capacity to give. A state is
(load 0..5, demanded class 0..3, risk 0..2, backlog 0..5); an episode is 32 steps and ends by its time limit only.

A joint action is a lottery over five outcomes, and the outcome alone moves the state, over 64 equally likely ticks. All
that depends on the capacity u goes through the adequacy m = exp(-8 max(need - u, 0)^2), in which every table is affine;
so the continuous role is exact too, and a Bellman backup is one matrix product. Shapes: S = 432 states, O = 5 outcomes,
a table over joint actions is [S, 4, 3, 3] (policy, consensus, ethical). Everything here is float64.
"""

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tars.schemas.bounds import EPISODE_STEPS

if TYPE_CHECKING:
    from tars.agents.doors import CoordinationGame

Role = Literal["policy", "consensus", "ethical", "resource"]
ROLES: tuple[Role, ...] = ("policy", "consensus", "ethical", "resource")
ACTIONS: Mapping[Role, int] = {"policy": 4, "consensus": 3, "ethical": 3}
"""How many actions a role has; resource chooses a number in [0, 1]."""
ACCEPT, DEFER, ESCALATE = range(3)
ALLOW, RESTRICT, VETO = range(3)
OUTCOMES = HOLD, BLOCK, SAFE, RISKY, INCIDENT = range(5)
LOADS, CLASSES, RISKS, BACKLOGS = SHAPE = (6, 4, 3, 6)
STATES = LOADS * CLASSES * RISKS * BACKLOGS
FEATURES = sum(SHAPE)
TICKS = 64
HORIZON = EPISODE_STEPS
GRID = 41
"""Points of [0, 1] among which the resource role's best constant and best response are sought."""


T = TypeVar("T", int, Tensor)


class Joint(NamedTuple):
    """A stationary joint policy: probabilities [S, 4], [S, 3], [S, 3], and the capacity given in each state [S]."""

    policy: Tensor
    consensus: Tensor
    ethical: Tensor
    resource: Tensor


class Affine(NamedTuple):
    """A table that is affine in the adequacy m."""

    base: Tensor
    slope: Tensor

    def at(self, adequacy: Tensor) -> Tensor:
        """Its values at m, which must broadcast against the table."""
        return self.base + self.slope * adequacy


class Scale(NamedTuple):
    """What a role's score is measured by, in reward per step against the reference policies."""

    best_constant: float
    """Score 0."""
    best_response: float
    """Score 1."""


@dataclass(frozen=True)
class JointPlay:
    """How a joint policy does, exactly. Everything is a mean per step over the horizon."""

    values: Mapping[Role, float]
    """Reward of each role."""
    scores: Mapping[Role, float]
    """The same, normalised: 0 the best constant action, 1 the best response, both against the references."""
    gains: Mapping[Role, float]
    """What a role alone could gain by its best response to the others."""
    conflicts: Mapping[str, float]
    """`veto`: ethical vetoes what policy serves. `starved`: consensus accepts what resource starves."""
    latency: float

    @property
    def nash_conv(self) -> float:
        """Sum of the gains; 0 at an equilibrium."""
        return sum(max(gain, 0.0) for gain in self.gains.values())


class Game:
    """The tables of the game, and its exact values. Use `coordination_game()`, which builds it once."""

    def __init__(self) -> None:
        digits = torch.unravel_index(torch.arange(STATES), SHAPE)
        self.load, self.demand, self.risk, self.backlog = digits
        self.observation = torch.cat([one_hot(x, n) for x, n in zip(digits, SHAPE, strict=True)], 1).double()
        """[S, 19]: the four coordinates, one-hot."""
        self.need = 0.10 + 0.11 * self.load.double() + 0.25 * (self.demand % 2)
        """[S]: the capacity at which everything gets done."""
        self._tabulate()
        self.successor = _successors()
        """[O, S, 64]: the next state after each outcome and tick."""
        moves = torch.zeros(len(OUTCOMES), STATES, STATES, dtype=torch.float64)
        moves.scatter_add_(2, self.successor, torch.full(self.successor.shape, 1 / TICKS, dtype=torch.float64))
        self._moves = _sparse(moves.view(-1, STATES))
        starts = [(1, demand, risk, 1) for demand in range(CLASSES) for risk in (0, 0, 0, 1)]
        self.start = torch.tensor([_index(*start) for start in starts])
        """[16]: where an episode starts, equally likely."""
        self._start_share = torch.bincount(self.start, minlength=STATES).double() / len(starts)
        self.reference = self._reference()
        """The policies that the other roles follow while one is trained or scored."""

    def _tabulate(self) -> None:
        """Outcomes, rewards, conflicts and latency of every state and joint action."""
        state = [x.double().view(-1, 1, 1, 1) for x in (self.load, self.demand, self.risk, self.backlog)]
        load, demand, risk, backlog = state
        p, c, e = torch.arange(4).view(-1, 1, 1), torch.arange(3).view(-1, 1), torch.arange(3)
        heavy = _choose(p, 0.1, 0.4, 0.7, 1.0)  # how much capacity a class needs
        sensitive = _choose(p, 0.0, 0.3, 0.6, 1.0)
        gate = _choose(c, 1.0, 0.0, 0.7)  # accept, defer, escalate
        vetoed = (e == VETO).double()
        shield = _choose(e, 1.0, 0.4, 1.0) * _choose(c, 1.0, 1.0, 0.4)  # restrict and escalate protect
        incident = 0.7 * (risk / 2) * (0.3 + 0.7 * sensitive) * shield
        risky = sensitive * shield
        go = gate * (1 - vetoed)
        whole = go * (1 - incident)  # done if capacity were adequate
        nought = torch.zeros(STATES, 4, 3, 3, dtype=torch.float64)
        done = Affine(whole * (1 - heavy) + nought, whole * heavy + nought)

        self.outcome = Affine(
            _stack([1 - gate, gate * vetoed, done.base * (1 - risky), done.base * risky, go - done.base], nought),
            _stack([nought, nought, done.slope * (1 - risky), done.slope * risky, -done.slope], nought),
        )
        """[S, 4, 3, 3, O]: the probability of each outcome."""
        self.veto = gate * vetoed + nought
        starved = (c == ACCEPT) * (1 - vetoed) * heavy + nought
        self.starved = Affine(starved, -starved)
        self.latency = backlog / 5 + 0.15 * (c == ESCALATE) + nought
        self.cost = Affine(
            _stack([self.veto + self.starved.base, self.latency], nought), _stack([self.starved.slope, nought], nought)
        )
        """[S, 4, 3, 3, 2]: expected conflicts, of both kinds together, and latency."""

        worth = (0.3 + 0.7 * (p == demand)) * _choose(e, 1.0, 0.8, 1.0)
        shared = Affine(
            worth * done.base - 0.3 * (self.veto + starved) - self.latency - 0.3 * load / 5 - 0.8 * risk / 2
            - 0.3 * (go - done.base),
            worth * done.slope + 0.3 * starved + 0.3 * done.slope,
        )  # fmt: skip
        own = [  # temptations of the moment, paid later through load, risk and backlog
            0.8 * sensitive * (risk < 2) - 0.55,
            0.8 * (c == DEFER) * (backlog <= 3) + 0.2 * (c == ESCALATE) - 0.45,
            0.5 * (e == ALLOW) + 0.1 * (e == VETO) - 0.55,
            torch.tensor(0.30),  # and -2.5 u^2 - 0.4 u: `price`
        ]
        self.reward = Affine(torch.stack([shared.base + term for term in own]), shared.slope.expand(4, -1, -1, -1, -1))
        """[4, S, 4, 3, 3]: expected reward of each role, without the price that resource pays for capacity."""

    def _reference(self) -> Joint:
        risk, demand = self.risk, self.demand
        return Joint(
            _certain(torch.where(risk == 2, 0, demand), 4),
            _certain(torch.where(risk == 2, ESCALATE, torch.where(self.load == LOADS - 1, DEFER, ACCEPT)), 3),
            _certain(torch.where((risk == 2) & (demand == 3), VETO, torch.where(risk >= 1, RESTRICT, ALLOW)), 3),
            0.8 * self.need,
        )

    def joint(self, actions: Mapping[Role, Tensor]) -> Joint:
        """The reference policies, with some roles' replaced by the action they take in each state [S]."""
        policies = self.reference._asdict()
        for role, action in actions.items():
            policies[role] = action.double() if role == "resource" else _certain(action, ACTIONS[role])
        return Joint(**policies)

    def faced(self, role: Role, joint: Joint, grid: int = GRID) -> tuple[Tensor, Tensor]:
        """Outcome probabilities [S, A, O] and rewards [S, A] of one role's actions, the others following `joint`.

        The actions of resource are `grid` points of [0, 1].
        """
        if role == "resource":
            capacity = torch.linspace(0, 1, grid, dtype=torch.float64).expand(STATES, -1)
            outcome, reward = self.faced_capacity(joint)
            adequacy = self._adequate(capacity)
            return outcome.at(adequacy[..., None]), reward.at(adequacy) + price(capacity)
        reward = Affine(*(part[ROLES.index(role), ..., None] for part in self.reward))
        met, paid = (_met(role, joint, self._played(table, joint)) for table in (self.outcome, reward))
        return met, paid[..., 0]

    def faced_capacity(self, joint: Joint) -> tuple[Affine, Affine]:
        """What resource faces, affine in the adequacy: outcomes [S, 1, O], and rewards [S, 1] without `price`."""
        outcome = (_met("resource", joint, part) for part in self.outcome)
        reward = (_met("resource", joint, part[3, ..., None])[..., 0] for part in self.reward)
        return Affine(*outcome), Affine(*reward)

    def costs(self, role: Role, joint: Joint) -> Affine:
        """Conflicts and latency a step [S, A, 2] of one role's actions, the others following `joint`.

        Affine in the adequacy of what resource gives; A is 1 of resource itself. For the others `joint` says what it
        gives, so their slope is 0.
        """
        if role == "resource":
            return Affine(*(_met(role, joint, part) for part in self.cost))
        base = _met(role, joint, self._played(self.cost, joint))
        return Affine(base, torch.zeros_like(base))

    def _played(self, table: Affine, joint: Joint) -> Tensor:
        """A table [S, 4, 3, 3, n] where resource gives what `joint` says."""
        return table.at(self._adequate(joint.resource[:, None]).view(-1, 1, 1, 1, 1))

    def _adequate(self, capacity: Tensor) -> Tensor:
        """m of a capacity [S, n]."""
        return adequacy(self.need[:, None], capacity)

    def _ahead(self, value: Tensor) -> Tensor:
        """Expected value [O, S, n] after each outcome, of values [S, n]."""
        return (self._moves @ value).view(len(OUTCOMES), STATES, -1)

    def value(self, role: Role, actions: Tensor, against: Joint | None = None) -> Tensor:
        """Exact mean reward per step of stationary policies against the references, or against other partners.

        actions [P, S]: the action (or the capacity) that each of P policies takes in each state. Returns [P].
        """
        joint = self.reference if against is None else against
        if role == "resource":
            faced, paid = self.faced_capacity(joint)
            capacity = actions.double().T
            adequate = self._adequate(capacity)
            outcome, reward = faced.at(adequate[..., None]), paid.at(adequate) + price(capacity)
        else:
            outcome, reward = self.faced(role, joint)
            taken = actions.T[..., None].expand(-1, -1, len(OUTCOMES))
            outcome, reward = outcome.gather(1, taken), reward.gather(1, actions.T)
        value = torch.zeros_like(reward)
        for _ in range(HORIZON):
            value = reward + torch.einsum("sno,osn->sn", outcome, self._ahead(value))
        return self._start_share @ value / HORIZON

    def best_response(self, role: Role, joint: Joint | None = None, grid: int = GRID) -> float:
        """Mean reward per step of a role's best reply, which may look at the time left."""
        outcome, reward = self.faced(role, joint or self.reference, grid)
        value = torch.zeros(STATES, 1, dtype=torch.float64)
        for _ in range(HORIZON):
            ahead = torch.einsum("sao,os->sa", outcome, self._ahead(value)[..., 0])
            value = (reward + ahead).amax(1, keepdim=True)
        return float(self._start_share @ value / HORIZON)

    @functools.cached_property
    def scales(self) -> Mapping[Role, Scale]:
        """For each role, what counts as 0 and as 1."""
        constants = {role: torch.arange(n) for role, n in ACTIONS.items()}
        constants["resource"] = torch.linspace(0, 1, GRID, dtype=torch.float64)
        return {
            role: Scale(
                float(self.value(role, constants[role][:, None].expand(-1, STATES)).max()), self.best_response(role)
            )
            for role in ROLES
        }

    def score(self, role: Role, value: Tensor) -> Tensor:
        """Normalise a mean reward per step: 0 the best constant action, 1 the best response."""
        low, high = self.scales[role]
        return (value - low) / (high - low)

    def assess(self, joint: Joint) -> JointPlay:
        """Value, score and possible gain of every role, conflicts and latency: one dynamic program, about 40 ms."""
        weight = _product(joint[:3])
        adequate = self._adequate(joint.resource[:, None]).view(-1, 1, 1, 1)
        flows = [*self.reward.at(adequate), self.veto, self.starved.at(adequate), self.latency]
        flow = torch.stack([(x * weight).sum((1, 2, 3)) for x in flows], 1)  # [S, 7]
        flow[:, 3] += price(joint.resource)
        outcome = (self.outcome.at(adequate[..., None]) * weight[..., None]).sum((1, 2, 3))  # [S, O]
        faced = [self.faced(role, joint) for role in ROLES]
        best, total = torch.zeros(STATES, 4, dtype=torch.float64), torch.zeros_like(flow)
        for _ in range(HORIZON):
            ahead = self._ahead(torch.cat([best, total], 1))
            replies = [r + torch.einsum("sao,os->sa", p, ahead[..., i]) for i, (p, r) in enumerate(faced)]
            best = torch.stack([reply.amax(1) for reply in replies], 1)
            total = flow + torch.einsum("so,osn->sn", outcome, ahead[..., 4:])
        highest: list[float] = (self._start_share @ best / HORIZON).tolist()
        *values, veto, starved, latency = (self._start_share @ total / HORIZON).tolist()
        scores = [float(self.score(role, torch.tensor(v))) for role, v in zip(ROLES, values, strict=True)]
        return JointPlay(
            values=dict(zip(ROLES, values, strict=True)),
            scores=dict(zip(ROLES, scores, strict=True)),
            gains={role: high - v for role, high, v in zip(ROLES, highest, values, strict=True)},
            conflicts={"veto": veto, "starved": starved},
            latency=latency,
        )


@functools.cache
def coordination_game() -> Game:
    """The game, built at the first call (well under a second) and shared by everyone in this process."""
    return Game()


def parallel_env(render_mode: str | None = None) -> "CoordinationGame":
    """Make the game as a PettingZoo parallel environment, for four learners of anybody's."""
    from tars.agents.doors import CoordinationGame  # noqa: PLC0415 - what is played here needs no PettingZoo

    return CoordinationGame(render_mode)


def adequacy(need: Tensor, capacity: Tensor) -> Tensor:
    """m: 1 where the capacity covers the need, smoothly falling below it."""
    return torch.exp(-8 * (need - capacity).clamp_min(0).square())


def price(capacity: Tensor) -> Tensor:
    """What resource pays for the capacity it gives."""
    return -2.5 * capacity.square() - 0.4 * capacity


def _successors() -> Tensor:
    """[O, S, 64]. A tick has three base-4 digits: a for arrivals and load, b for the class, g for risk."""
    outcome = torch.arange(len(OUTCOMES)).view(-1, 1, 1)
    load, demand, risk, backlog = (x.view(-1, 1) for x in torch.unravel_index(torch.arange(STATES), SHAPE))
    a, b, g = torch.unravel_index(torch.arange(TICKS), (4, 4, 4))
    done = (outcome == SAFE) | (outcome == RISKY)
    queue = backlog + torch.tensor([0, 1, 1, 2])[a] - 2 * done
    heavier = _by_outcome([-(a % 2), 0 * a, -(a == 0).int(), a >= 2, a >= 1])
    riskier = _by_outcome([-(g == 0).int(), -(g < 3).int(), -(g < 2).int(), g < 3, g < 2])
    return _index(
        (load + heavier).clamp(0, LOADS - 1),
        torch.where(b < 2, demand, (demand + b - 1) % CLASSES),
        (risk + riskier).clamp(0, RISKS - 1),
        queue.clamp(0, BACKLOGS - 1),
    )


def _sparse(matrix: Tensor) -> Tensor:
    """Compressed rows: a state has about 15 successors, not 432, so a backup takes a twentieth of the time."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Sparse CSR tensor support is in beta"
        )  # a product is all we ask of it
        return matrix.to_sparse_csr()


def _by_outcome(changes: Sequence[Tensor]) -> Tensor:
    """[O, 1, 64], from one [64] per outcome."""
    return torch.stack([change.long() for change in changes])[:, None]


def _index(load: T, demand: T, risk: T, backlog: T) -> T:
    """The number of a state."""
    return ((load * CLASSES + demand) * RISKS + risk) * BACKLOGS + backlog


def _choose(action: Tensor, *values: float) -> Tensor:
    """The value that belongs to each action."""
    return torch.tensor(values, dtype=torch.float64)[action]


def _certain(action: Tensor, actions: int) -> Tensor:
    """A deterministic policy as probabilities [S, A]."""
    return one_hot(action, actions).double()


def _stack(tables: Sequence[Tensor], nought: Tensor) -> Tensor:
    """Outcomes as the last axis."""
    return torch.stack([table + nought for table in tables], -1)


def _met(role: Role, joint: Joint, table: Tensor) -> Tensor:
    """What one role's actions meet [S, A, n] of a table [S, 4, 3, 3, n], the others following `joint`.

    What resource gives is in the table already, so A is 1 of resource.
    """
    share = [torch.ones_like(x) if r == role else x for r, x in zip(ROLES, joint[:3], strict=False)]
    away = [axis for axis, r in enumerate(ROLES[:3], 1) if r != role]
    met = (table * _product(share)[..., None]).sum(away)
    return met[:, None] if role == "resource" else met


def _product(share: Sequence[Tensor]) -> Tensor:
    """[S, 4, 3, 3]: how likely each joint action is."""
    policy, consensus, ethical = share
    return policy[:, :, None, None] * consensus[:, None, :, None] * ethical[:, None, None, :]
