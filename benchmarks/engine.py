"""What training costs: CPU time per lane against Stable-Baselines3 on the same work, and the small change beside it.

The work is an episode of 32 vector steps in 16 environments with the gradient steps that belong to it (game_defaults:
DQN and DDPG 32 of 64 rows, A2C 8 of 64, PPO 16 of 128). SB3 has the same tables in numpy, the cheapest environment it
can be given, the same networks and the same values. Both sides take turns in one process, on one thread.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from report import Figure, arguments, show
from tars.agents import training_thread
from tars.agents.algorithm import Lane, Population
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import COPIES, RoleEnvironment
from tars.agents.game import ACTIONS, FEATURES, HORIZON, OUTCOMES, STATES, TICKS, Role, coordination_game
from tars.agents.joint_game import JointGame
from tars.agents.replay_buffer import ReplayBuffer
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, Value

ROLE: Final[Mapping[str, Role]] = {algorithm: role for role, algorithm in GAME_ROLES.items()}  # type: ignore[misc] # its keys are the roles
LANES: Final = 32
FLOORS: Final = {
    "dqn": ((14, 20), (2.2, 3)),
    "a2c": ((17, 24), (2.8, 4)),
    "ppo": ((9, 13), (2.2, 3)),
    "ddpg": ((12, 18), (2.2, 3)),
}
"""Floor and target at 32 lanes, and at one."""
JOINT_LANES: Final = 64
DEVICE_LANES: Final = (32, 256, 2048)
MIB: Final = 2**20


class NumpyGame(VecEnv):
    """A role of the game in 16 copies, as Stable-Baselines3 wants it: RoleEnvironment's tables and steps in numpy."""

    def __init__(self, role: Role) -> None:
        game = coordination_game()
        self._random, self._infos = np.random.default_rng(0), [dict[str, Any]() for _ in range(COPIES)]
        self._observation = game.observation.float().numpy()
        self._next, self._start = game.successor.reshape(-1).numpy(), game.start.numpy()
        self._expected: Callable[[], tuple[np.ndarray, np.ndarray]]
        action: spaces.Space[Any]
        if role in ACTIONS:
            action = spaces.Discrete(ACTIONS[role])
            outcome, reward = game.faced(role, game.reference)
            self._tables = [_cumulative(outcome), reward.float().reshape(-1).numpy()]
            self._expected = partial(self._looked_up, ACTIONS[role])
        else:
            action = spaces.Box(-1, 1, (1,), np.float32)
            outcomes, rewards = game.faced_capacity(game.reference)
            self._tables = [*map(_cumulative, outcomes), *(part.float().reshape(-1).numpy() for part in rewards)]
            self._need, self._expected = game.need.float().numpy(), self._computed
        super().__init__(COPIES, spaces.Box(0, 1, (FEATURES,), np.float32), action)

    def reset(self) -> Any:
        """Begin in one of the 16 start states."""
        self._at, self._state = 0, self._start[self._random.integers(len(self._start), size=COPIES)]
        return self._observation[self._state]

    def step_async(self, actions: np.ndarray) -> None:
        """Note what is to be done."""
        self._action = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Draw an outcome, then a tick; at the time limit say so and begin anew."""
        cumulative, reward = self._expected()
        outcome = (self._random.random(COPIES, np.float32)[:, None] >= cumulative).sum(1)
        tick = self._random.integers(TICKS, size=COPIES)
        self._state, self._at = self._next[(outcome * STATES + self._state) * TICKS + tick], self._at + 1
        observation = self._observation[self._state]
        if self._at < HORIZON:
            return observation, reward, np.zeros(COPIES, bool), self._infos
        infos = [{"terminal_observation": seen, "TimeLimit.truncated": True} for seen in observation]
        return self.reset(), reward, np.ones(COPIES, bool), infos

    def _looked_up(self, actions: int) -> tuple[np.ndarray, np.ndarray]:
        """Cumulative outcomes [E, O - 1] and rewards [E] of discrete actions."""
        pair = self._state * actions + self._action
        cumulative, reward = self._tables
        return cumulative[pair], reward[pair]

    def _computed(self) -> tuple[np.ndarray, np.ndarray]:
        """The same of capacities."""
        given = (self._action[:, 0] + 1) / 2
        adequacy = np.exp(-8 * np.maximum(self._need[self._state] - given, 0) ** 2)
        base, slope, paid, more = (table[self._state] for table in self._tables)
        return base + slope * adequacy[:, None], paid + more * adequacy - 2.5 * given**2 - 0.4 * given

    def close(self) -> None:
        """Nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """SB3 asks for render_mode."""
        del attr_name, indices
        return [None] * COPIES

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Nothing is kept."""

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """No method is known."""
        del method_name, args, indices, kwargs
        return [None] * COPIES

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """No wrapper."""
        del wrapper_class, indices
        return [False] * COPIES


def _cumulative(outcome: Tensor) -> np.ndarray:
    last = len(OUTCOMES) - 1
    found: np.ndarray = outcome.cumsum(-1)[..., :last].reshape(-1, last).float().numpy()
    return found


def theirs(algorithm: str) -> BaseAlgorithm:
    """SB3's model of the same values, networks and updates."""
    values: dict[str, Any] = dict(DECLARED[algorithm].game_defaults)
    values.pop("exploration_fraction", None)  # of a length that SB3 is not told; random actions cost it the same
    if algorithm == "ddpg":
        sigma, _, _ = (values.pop(name) for name in ("noise_sigma", "actor_learning_rate", "critic_learning_rate"))
        one = NormalActionNoise(np.zeros(1), np.full(1, sigma))
        values |= {"action_noise": VectorizedActionNoise(one, COPIES)}
    if algorithm in {"dqn", "ddpg"}:
        values |= {"policy_kwargs": {"net_arch": [64, 64]}}  # as A2C's and PPO's are by default
    kind: type[BaseAlgorithm] = getattr(stable_baselines3, algorithm.upper())
    model: BaseAlgorithm = kind("MlpPolicy", NumpyGame(ROLE[algorithm]), seed=0, device="cpu", **values)
    return model


def ours(algorithm: str, lanes: int, device: str = "cpu") -> Population:
    """A population of that many lanes with the game's values."""
    values: Mapping[str, Value] = dict(DECLARED[algorithm].game_defaults)
    environment = RoleEnvironment(ROLE[algorithm], device=device)
    return ALGORITHMS[algorithm](environment, [Lane(seed, values) for seed in range(lanes)])


def cpu_seconds(work: Callable[[], object], times: int = 1) -> float:
    """CPU time of this process for one piece of work."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def median_seconds(work: Callable[[], object], times: int) -> float:
    """The median of as many single calls, after some to warm up."""
    for _ in range(times // 10):
        work()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def against_sb3(algorithm: str, rounds: int) -> Iterator[Figure]:
    """CPU time per lane of one episode, SB3's over ours: the median of rounds in which all take their turn."""
    model, populations = theirs(algorithm), {lanes: ours(algorithm, lanes) for lanes in (LANES, 1)}
    episode = HORIZON * COPIES
    model.learn(3 * episode, log_interval=None)  # type: ignore[arg-type] # None: no logging, which SB3 allows
    more = partial(model.learn, 2 * episode, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type] # as above
    for population in populations.values():
        for _ in range(3):
            population.episode()
    base: list[float] = []
    took: dict[int, list[float]] = {lanes: [] for lanes in populations}
    for _ in range(rounds):
        base.append(cpu_seconds(more) / 2)
        for lanes, population in populations.items():
            took[lanes].append(cpu_seconds(population.episode, 1 if lanes > 1 else 3) / lanes)
    for lanes, (floor, target) in zip(populations, FLOORS[algorithm], strict=True):
        ratios = [b / own for b, own in zip(base, took[lanes], strict=True)]
        times = f"{statistics.median(took[lanes]) * 1e3:.2f} ms, SB3 {statistics.median(base) * 1e3:.1f} ms"
        note = f"{times}; {min(ratios):.1f} to {max(ratios):.1f} in {rounds} rounds"
        name = f"{algorithm}_{lanes}_lane{'s' if lanes > 1 else ''}_vs_sb3"
        yield Figure(name, statistics.median(ratios), floor, target, more=True, note=note)


def trial(algorithm: str, episodes: int, evaluated: int) -> float:
    """CPU seconds of one trial: 32 are made, trained and evaluated together."""

    def whole() -> None:
        population = ours(algorithm, LANES)
        for _ in range(episodes):
            population.episode()
        population.evaluate(evaluated, range(LANES))

    return cpu_seconds(whole) / LANES


def trials(*, quick: bool) -> Iterator[Figure]:
    """A quick trial and, without `quick`, a full one: of the slowest algorithm."""
    kinds = {"full_trial_cpu_s": ((50, 10), (0.6, 0.4)), "quick_trial_cpu_s": ((10, 5), (0.15, 0.1))}
    for name, (episodes, bounds) in kinds.items():
        if not (quick and name == "full_trial_cpu_s"):
            took = {algorithm: trial(algorithm, *episodes) for algorithm in ALGORITHMS}
            yield Figure(name, max(took.values()), *bounds, note=_each(took))


def joint_steps(rounds: int) -> Figure:
    """Steps of one copy with all four roles, per CPU second; their actions are drawn beforehand."""
    game, shape = JointGame(torch.float32, "cpu"), (HORIZON, JOINT_LANES, COPIES)
    game.open(range(JOINT_LANES))
    drawn: dict[Role, Tensor] = {role: torch.randint(count, shape) for role, count in ACTIONS.items()}
    drawn["resource"] = torch.rand(*shape, 1) * 2 - 1
    steps = [{role: actions[at] for role, actions in drawn.items()} for at in range(HORIZON)]

    def episode() -> None:
        game.begin()
        for actions in steps:
            game.step(actions)

    episode()
    took = statistics.median(cpu_seconds(episode) for _ in range(rounds))
    note = f"{JOINT_LANES} lanes, {took * 1e3:.1f} ms an episode"
    return Figure(
        "game_joint_steps_per_s", HORIZON * JOINT_LANES * COPIES / took, 400_000, 800_000, more=True, note=note
    )


def nash_conv(rounds: int) -> Figure:
    """A joint policy assessed: best responses of all roles."""
    game = coordination_game()
    game.assess(game.reference)
    took = statistics.median(cpu_seconds(lambda: game.assess(game.reference)) for _ in range(rounds))
    return Figure("nash_conv_ms", took * 1e3, 50, 25)


@torch.inference_mode()
def act(calls: int) -> Figure:
    """The best action of one lane in one copy's state."""
    took = {}
    for algorithm in ALGORITHMS:
        population = ours(algorithm, 1)
        population.begin()
        took[algorithm] = median_seconds(partial(population.greedy, torch.zeros(1, 1, 1)), calls) * 1e6
    return Figure("act_p50_us", max(took.values()), 100, 50, note=_each(took))


def write_column(calls: int) -> Figure:
    """One live value of one lane, set."""
    population = ours("dqn", LANES)
    return Figure(
        "write_column_us", median_seconds(partial(population.write, 0, "learning_rate", 2e-3), calls) * 1e6, 10, 3
    )


def memory() -> Figure:
    """MiB of tensors that one more lane adds beside its replay buffer, of the largest algorithm."""
    added = {
        algorithm: (_bytes(algorithm, LANES) - _bytes(algorithm, LANES // 2)) * 2 / LANES for algorithm in ALGORITHMS
    }
    mib = {algorithm: found / MIB for algorithm, found in added.items()}
    return Figure("mb_per_lane", max(mib.values()), 2, None, note=_each(mib))


def products(rounds: int) -> Figure:
    """What the ratios at 32 lanes rest on: the speed of the largest products, which depends on more than the machine.

    torch's MKL takes its kernel for AVX2 on AMD's processors, whatever they can do (docs/decisions, 0007).
    """
    rows, width = 64, 64
    x, weight = torch.randn(LANES, rows, width), torch.randn(LANES, width, width)
    took = statistics.median(cpu_seconds(partial(torch.bmm, x, weight), 50) for _ in range(rounds))
    able = torch.backends.cpu.get_cpu_capability()
    return Figure(
        "batched_products_gflop_per_s", 2 * x.numel() * width / took / 1e9, None, None, more=True,
        note=f"{LANES} of [{rows}, {width}] by [{width}, {width}]; torch's own operations use {able}, its MKL may not",
    )  # fmt: skip


def _bytes(algorithm: str, lanes: int) -> int:
    """Of all tensors that a population holds after two episodes, the game's shared tables among them."""
    population = ours(algorithm, lanes)
    for _ in range(2):
        population.episode()
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
        for t in _tensors(population, set())
        if t.layout == torch.strided
    }
    return sum(storages.values())


def _tensors(held: object, seen: set[int]) -> Iterator[Tensor]:
    """All that can be reached, but through replay buffers."""
    if id(held) in seen or isinstance(held, ReplayBuffer):
        return
    seen.add(id(held))
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, Mapping):
        for part in held.values():
            yield from _tensors(part, seen)
    elif isinstance(held, list | tuple):
        for part in held:
            yield from _tensors(part, seen)
    elif type(held).__module__.startswith("tars."):
        yield from _tensors(vars(held), seen)


def devices(device: str) -> Iterator[Figure]:
    """Episodes of one lane per second of wall time, on this processor's one thread and on the device."""
    for algorithm in ALGORITHMS:
        for lanes in DEVICE_LANES:
            rate = {where: lanes / _episode_seconds(algorithm, lanes, where) for where in ("cpu", device)}
            note = f"{rate[device] / rate['cpu']:.2f} times the processor's {rate['cpu']:.0f}"
            yield Figure(
                f"{algorithm}_{lanes}_lane_episodes_per_s_{device}", rate[device], None, None, more=True, note=note
            )


def _episode_seconds(algorithm: str, lanes: int, device: str) -> float:
    population = ours(algorithm, lanes, device)
    for _ in range(2):  # off-policy lanes learn from their second episode on
        population.episode().cpu()
    began = time.perf_counter()
    population.episode().cpu()  # waits for the device
    return time.perf_counter() - began


def _each(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def measure(*, quick: bool) -> Sequence[Figure]:
    """Everything on one thread of the processor."""
    ratios = [figure for algorithm in ALGORITHMS for figure in against_sb3(algorithm, 4 if quick else 15)]
    rounds, calls = (5, 300) if quick else (25, 3000)
    few = [products(rounds), joint_steps(rounds), nash_conv(rounds), act(calls), write_column(calls), memory()]
    return [*ratios, *trials(quick=quick), *few]


def options() -> argparse.Namespace:
    """What every benchmark takes, and a device."""
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: also compare with the processor"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, show, write."""
    chosen = options()
    training_thread.prepare()
    figures = list(measure(quick=chosen.quick))
    if chosen.device == "cuda" and torch.cuda.is_available():
        figures += devices("cuda")
    elif chosen.device == "cuda":
        print("cuda: torch finds no such device here, so it is left out")
    show("engine", figures, chosen.json)


if __name__ == "__main__":
    main()
