"""Does a watch find harm, and leave alone what does none: fleets of really learning agents.

One population of 64 lanes for each role learns the game with the default values; its behaviour scores, one an episode,
are resampled into fleets. A reload to identical values changes nothing, so the same stream is what follows it. Harm is
those scores less 20 points from the first episode on; a collapse is real: half of the lanes are given a learning rate
of 0.1 or 1e30, and go on beside the others.
"""

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.progress import track

from report import Figure, arguments, show
from tars.agents import training_thread
from tars.agents.algorithm import Lane
from tars.agents.catalogue import ALGORITHMS
from tars.agents.environments import RoleEnvironment
from tars.agents.game import ROLES, Role
from tars.schemas.effect import Plan
from tars.schemas.hyperparameters import ALGORITHMS as DECLARED
from tars.schemas.hyperparameters import GAME_ROLES
from tars.schemas.judgement import Judgement, Verdict
from tars.schemas.watch import begin, diverge, judge, judgement, step

LANES: Final = 64
LEARNT: Final = 60
"""Episodes before a reload: beyond the steepest part of the curves."""
CANARIES: Final = {1: 1, 2: 1, 8: 1, 32: 4}
"""Of fleets of so many agents."""
COLLAPSE: Final = 5
"""Episodes within which one is to be found."""
COLLAPSING_RATES: Final = (0.1, 1e30)
HARM: Final = 0.2
PLAN: Final = Plan()

Rows = list[list[float]]


@dataclass(frozen=True)
class Streams:
    """Scores of one role's lanes."""

    role: Role
    pre: Rows
    """Before a reload [lanes, PLAN.pre]."""
    post: Rows
    """After one to identical values [lanes, PLAN.length]."""
    fallen: Rows
    """After the whole of that: a few episodes more, in which the first half of the lanes has a ruinous value."""
    diverged: list[list[bool]]
    """In which of those a lane's parameters were not finite."""

    @property
    def before_fall(self) -> Rows:
        """The window before the ruinous reload."""
        return [row[-PLAN.pre :] for row in self.post]


def learn(role: Role, lanes: int, learnt: int) -> Streams:
    """Let one population learn, and ruin half of it at the end."""
    values = DECLARED[GAME_ROLES[role]].game_defaults
    population = ALGORITHMS[GAME_ROLES[role]](
        RoleEnvironment(role), [Lane(seed, values) for seed in range(1000, 1000 + lanes)]
    )
    scores = [population.episode().tolist() for _ in range(learnt + PLAN.length)]
    pre, post = scores[learnt - PLAN.pre : learnt], scores[learnt:]
    ruined = lanes // 2
    for lane in range(ruined):
        population.write(lane, "learning_rate", COLLAPSING_RATES[lane % 2])
    fallen, diverged = [], []
    for _ in range(COLLAPSE):
        fallen.append(population.episode().tolist())
        diverged.append([not finite for finite in population.finite().tolist()])
    columns: Callable[[list[list[float]]], Rows] = lambda rows: [list(column) for column in zip(*rows, strict=True)]  # noqa: E731
    return Streams(role, columns(pre), columns(post), columns(fallen), [list(c) for c in zip(*diverged, strict=True)])


def resampled(streams: Streams, agents: int, fleets: int, loss: float) -> list[Judgement]:
    """Judge random fleets of these lanes, whose canaries lose so much."""
    draw, canaries = random.Random(agents), CANARIES[agents]  # noqa: S311 - resampling
    found = []
    for _ in range(fleets):
        fleet = draw.sample(range(len(streams.pre)), agents)
        tried, others = fleet[:canaries], fleet[canaries:]
        post = [[score - loss for score in streams.post[lane]] for lane in tried]
        pre = [streams.pre[lane] for lane in tried]
        calm = [streams.post[lane] for lane in others]
        found.append(judge(pre, post, [streams.pre[lane] for lane in others], calm, finite=True, plan=PLAN))
    return found


def ruined(streams: Streams, agents: int, fleets: int) -> list[Judgement]:
    """Judge random fleets whose canaries are ruined lanes, for a few episodes."""
    draw, canaries = random.Random(agents), CANARIES[agents]  # noqa: S311 - resampling
    half = len(streams.pre) // 2
    found = []
    for _ in range(fleets):
        tried = draw.sample(range(half), canaries)
        others = draw.sample(range(half, len(streams.pre)), min(half, agents - canaries))
        watch = begin([streams.before_fall[k] for k in tried], [streams.before_fall[k] for k in others], PLAN)
        for at in range(COLLAPSE):
            watch = step(watch, [streams.fallen[k][at] for k in tried], [streams.fallen[k][at] for k in others])
            if any(streams.diverged[k][at] for k in tried):
                watch = diverge(watch)
        found.append(judgement(watch))
    return found


def share(found: Sequence[Judgement]) -> float:
    """Of fleets whose reload was undone."""
    return statistics.fmean(judged.verdict is Verdict.ROLL_BACK for judged in found)


def told(metric: str, by_role: dict[Role, list[Judgement]], bounds: tuple[float, float], *, more: bool) -> Figure:
    """The mean over roles, and in its note the worst of them and when."""
    shares = {role: share(found) for role, found in by_role.items()}
    worst = min(shares, key=shares.__getitem__) if more else max(shares, key=shares.__getitem__)
    slots = [judged.slot for found in by_role.values() for judged in found if judged.verdict is Verdict.ROLL_BACK]
    when = f", half by episode {statistics.median(slots):.0f}" if slots else ""
    note = f"worst role {worst} {shares[worst]:.3f}{when}; {sum(map(len, by_role.values()))} fleets"
    return Figure(metric, statistics.fmean(shares.values()), *bounds, more=more, note=note)


def figures(learnt: Sequence[Streams], fleets: int) -> list[Figure]:
    """All rows."""
    few = max(20, fleets // 5)  # fleets of 32 overlap, and take longer

    def judged(agents: int, loss: float, count: int) -> dict[Role, list[Judgement]]:
        return {one.role: resampled(one, agents, count, loss) for one in learnt}

    def collapsed(agents: int) -> dict[Role, list[Judgement]]:
        return {one.role: ruined(one, agents, few) for one in learnt}

    fallen = {agents: collapsed(agents) for agents in CANARIES}
    every = {one.role: [judged for found in fallen.values() for judged in found[one.role]] for one in learnt}
    shares = ", ".join(
        f"{agents}: {statistics.fmean(share(found) for found in by_role.values()):.3f}"
        for agents, by_role in fallen.items()
    )
    last = told("watch_found_collapse_share", every, (0.9, 1.0), more=True)
    return [
        told("watch_false_rollback_share", judged(8, 0.0, fleets), (0.05, 0.025), more=False),
        told("watch_found_20pp_of_8_share", judged(8, HARM, fleets), (0.6, 0.7), more=True),
        told("watch_found_20pp_of_32_share", judged(32, HARM, few), (0.95, 1.0), more=True),
        Figure(last.metric, last.value, last.floor, last.target, more=True, note=f"{last.note}; by agents {shares}"),
    ]


def main() -> None:
    """Measure, show, write."""
    options = arguments(__doc__ or "").parse_args()
    training_thread.prepare()
    roles: Sequence[Role] = ROLES[1:2] if options.quick else ROLES
    lanes, before, fleets = (40, PLAN.pre + 10, 60) if options.quick else (LANES, LEARNT, 500)
    learnt = [learn(role, lanes, before) for role in track(roles, description="learning", console=Console(stderr=True))]
    show("watch", figures(learnt, fleets), options.json)


if __name__ == "__main__":
    main()
