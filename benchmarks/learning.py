"""Do the algorithms learn: with the game's default values, not with a bad one, and beyond the game.

A normalised score of 0 is the best constant action, 1 the best response; here it is exact, by dynamic programming. One
that cannot tell a good learning rate from 1e-6 proves nothing, so both are shown.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure as Picture
from rich.console import Console
from rich.progress import track
from rich.table import Table

from report import Figure, arguments, show
from tars.agents import training_thread
from tars.agents.algorithm import Lane
from tars.agents.catalogue import ALGORITHMS
from tars.agents.dqn import WARM_UP
from tars.agents.environments import RoleEnvironment
from tars.agents.game import ROLES, Role
from tars.agents.gymnasium_environment import GymnasiumEnvironment
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES, AlgorithmName, Value

EPISODES: Final = 50
EVERY: Final = 5
BAD: Final = 1e-6
LEARNT: Final = 0.5


@dataclass(frozen=True)
class Task:
    """A Gymnasium environment, and what is usually needed there (values as in RL Zoo's tuned files, for our copies)."""

    environment: str
    algorithm: AlgorithmName
    steps: int
    """Environment steps."""
    copies: int
    reached: float
    """Mean return that counts."""
    values: Mapping[str, Value]


TASKS: Final = (
    Task("CartPole-v1", "ppo", 100_000, 8, 400.0, {
        "learning_rate": 1e-3, "gamma": 0.98, "gae_lambda": 0.8, "clip_range": 0.2, "n_steps": 32, "n_epochs": 20,
        "batch_size": 256,
    }),
    Task("CartPole-v1", "dqn", 50_000, 1, 400.0, {
        "learning_rate": 2.3e-3, "gamma": 0.99, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000,
        "target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_final_eps": 0.04,
        "exploration_fraction": 0.16 * 50_000 / WARM_UP, "tau": 1.0,
    }),
    Task("Pendulum-v1", "ddpg", 20_000, 1, -300.0, {
        "learning_rate": 1e-3, "gamma": 0.98, "buffer_size": 200_000, "learning_starts": 1000, "noise_sigma": 0.1,
        "batch_size": 256, "tau": 0.005,
    }),
)  # fmt: skip


def curve(role: Role, seeds: int, **changes: Value) -> list[list[float]]:
    """Exact scores of all lanes, before training and after every EVERY episodes."""
    values: dict[str, Value] = {**DECLARED[GAME_ROLES[role]].game_defaults, **changes}
    lanes = [Lane(seed, values) for seed in range(seeds)]
    population = ALGORITHMS[GAME_ROLES[role]](RoleEnvironment(role), lanes)
    found = []
    for episode in range(EPISODES + 1):
        if episode:
            population.episode()
        if episode % EVERY == 0:
            score = population.exact_score()
            assert score is not None  # noqa: S101 - the game is finite
            found.append([float(value) for value in score])
    return found


def game(seeds: int, picture: Path | None) -> list[Figure]:
    """Share of lanes that learn with default values, and the score of a bad learning rate."""
    good = {role: curve(role, seeds) for role in track(ROLES, description="default values")}
    bad = {role: curve(role, seeds, learning_rate=BAD) for role in track(ROLES, description=f"learning rate {BAD:g}")}
    tell(good, bad)
    if picture is not None:
        draw(good, bad, picture)
    figures = []
    for role in ROLES:
        name, last = GAME_ROLES[role], good[role][-1]
        share = sum(score >= LEARNT for score in last) / len(last)
        note = f"median {statistics.median(last):.2f}, lowest {min(last):.2f}, {seeds} seeds, {EPISODES} episodes"
        figures.append(Figure(f"{name}_learns_share", share, 0.8, 0.8, more=True, note=note))
        figures.append(Figure(f"{name}_bad_lr_score", statistics.median(bad[role][-1]), 0.2, 0.2))
    return figures


def tell(good: Mapping[Role, list[list[float]]], bad: Mapping[Role, list[list[float]]]) -> None:
    """Print the curves: lower quartile, median and upper quartile."""
    table = Table(
        title="exact score by episode: quartiles with default values; median with a bad learning rate", box=None
    )
    table.add_column("episode", justify="right")
    for role in ROLES:
        table.add_column(f"{role} ({GAME_ROLES[role]})", justify="right")
        table.add_column("bad", justify="right", style="dim")
    for row in range(len(good[ROLES[0]])):
        cells = []
        for role in ROLES:
            low, middle, high = statistics.quantiles(good[role][row], n=4)
            cells += [f"{low:.2f} {middle:.2f} {high:.2f}", f"{statistics.median(bad[role][row]):.2f}"]
        table.add_row(str(row * EVERY), *cells)
    Console().print(table)


def draw(good: Mapping[Role, list[list[float]]], bad: Mapping[Role, list[list[float]]], path: Path) -> None:
    """The same as a picture."""
    picture = Picture(figsize=(14, 3.6), layout="constrained")
    episodes = [row * EVERY for row in range(len(good[ROLES[0]]))]
    for axes, role in zip(picture.subplots(1, len(ROLES), sharey=True), ROLES, strict=True):
        for curves, colour, label in ((good, "tab:blue", "default values"), (bad, "tab:red", f"learning rate {BAD:g}")):
            quartiles = [statistics.quantiles(scores, n=4) for scores in curves[role]]
            low, middle, high = (list(part) for part in zip(*quartiles, strict=True))
            axes.plot(episodes, middle, color=colour, label=label)
            axes.fill_between(episodes, low, high, color=colour, alpha=0.2)
        axes.axhline(LEARNT, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=f"{role}: {GAME_ROLES[role].upper()}", xlabel="episode", ylim=(-2, 1))
        axes.legend(loc="lower right")
    picture.supylabel("exact score")
    picture.savefig(path)


def environments(seeds: int) -> list[Figure]:
    """How many seeds reach the usual return in each of TASKS."""
    return [beyond(task, seeds) for task in track(TASKS, description="environments")]


def beyond(task: Task, seeds: int) -> Figure:
    """Train one lane a seed, then play 20 episodes."""
    values: dict[str, Value] = {**DECLARED[task.algorithm].defaults, **task.values}
    environment = GymnasiumEnvironment(task.environment, copies=task.copies)
    population = ALGORITHMS[task.algorithm](environment, [Lane(seed, values) for seed in range(seeds)])
    for _ in range(task.steps // (task.copies * environment.horizon)):
        population.episode()
    returns = population.evaluate(20, list(range(seeds))).score.tolist()
    reached = sum(value >= task.reached for value in returns)
    name = f"{task.environment.partition('-')[0].lower()}_{task.algorithm}_seeds_reached"
    note = f"{task.reached:g} in {task.steps:,} steps; mean returns {', '.join(f'{value:.0f}' for value in returns)}"
    return Figure(name, reached, 3, seeds, more=True, note=note)


def measure(options: Sequence[str], *, quick: bool, picture: Path | None) -> list[Figure]:
    """The game, or what lies beyond it."""
    return environments(5) if "environments" in options else game(8 if quick else 20, picture)


def main() -> None:
    """Measure, show, write."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--picture", type=Path, metavar="PATH", help="draw the curves there (png, svg or pdf)")
    parser.add_argument("--environments", action="store_true", help="CartPole-v1 and Pendulum-v1 instead; 5 minutes")
    options = parser.parse_args()
    training_thread.prepare()
    wanted = ["environments"] if options.environments else []
    show("learning", measure(wanted, quick=options.quick, picture=options.picture), options.json)


if __name__ == "__main__":
    main()
