"""Options of commands that start studies."""

import re
from collections.abc import Sequence
from typing import Annotated, Final, cast, get_args

import typer

from tars.cli import completion
from tars.schemas.evidence import Objective
from tars.schemas.hyperparameters import AlgorithmName
from tars.schemas.study import Sampler
from tars.schemas.trial import Normalize

UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Read `90`, `90s`, `10m` or `2h`; raises typer.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is no time: write 90s, 10m or 2h")
    return float(found[1]) * UNITS[found[2]]


def normalized(names: Sequence[str]) -> tuple[Normalize, ...]:
    """Read what is to be normalised; raises typer.BadParameter."""
    for name in names:
        if name not in get_args(Normalize):
            raise typer.BadParameter(f"{name} cannot be normalised; {' and '.join(get_args(Normalize))} can")
    return tuple(cast("Normalize", name) for name in names)


Agents = Annotated[
    list[str] | None, typer.Option("--agent", help="An agent; repeat it.", autocompletion=completion.agents)
]
Role = Annotated[
    str | None, typer.Option("--role", help="All live agents of a role.", autocompletion=completion.game_roles)
]
Learner = Annotated[AlgorithmName | None, typer.Option("--algorithm", help="No target: only search.")]
Environment = Annotated[
    str | None, typer.Option("--environment", help="What to train in, with --algorithm or for attached agents.")
]
ScoreRange = Annotated[tuple[float, float] | None, typer.Option("--score-range", help="Returns that count as 0 and 1.")]
Normalized = Annotated[
    list[str] | None, typer.Option("--normalize", help="observations or rewards; repeat it for both.")
]
Trainer = Annotated[str, typer.Option("--trainer", help="population, sb3, or module:function.")]
Trials = Annotated[int, typer.Option("--trials", min=1, max=1000)]
Quick = Annotated[bool | None, typer.Option("--quick/--full", help="Length of search trials.")]
By = Annotated[Sampler, typer.Option("--sampler")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Structural = Annotated[bool, typer.Option("--structural", help="Search the shape of training too.")]
Snapshot = Annotated[bool, typer.Option("--snapshot", help="Trials go on from the running agent's newest snapshot.")]
Aim = Annotated[
    Objective,
    typer.Option("--objective", help="reward; penalty: less conflicts and latency; pareto: all three apart."),
]
ConflictWeight = Annotated[
    float | None, typer.Option("--conflict-weight", min=0, help="What a conflict a step costs, in a penalty.")
]
LatencyWeight = Annotated[
    float | None, typer.Option("--latency-weight", min=0, help="What a full backlog costs, in a penalty.")
]
WallSeconds = Annotated[
    float | None,
    typer.Option("--wall-seconds", parser=seconds, metavar="TIME", help="End the search then: 90, 90s, 10m, 2h."),
]
WarmStart = Annotated[
    bool, typer.Option("--warm-start/--no-warm-start", help="Try champions of earlier studies first.")
]
Explain = Annotated[bool, typer.Option("--explain/--no-explain", help="Measure what each key of a champion is worth.")]
Propose = Annotated[bool, typer.Option("--propose/--no-propose", help="Propose a BETTER champion to the agents.")]
StudyId = Annotated[str | None, typer.Option("--id", help="Its id; made up unless given.")]
Wait = Annotated[bool, typer.Option("--wait", help="Follow it to its result; with --json that alone is printed.")]
