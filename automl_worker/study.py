"""The life of a study, as two pure functions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import reduce
from typing import Final, assert_never

from tars.schemas.bounds import EPISODE_STEPS, PARALLEL, ill_typed, objections
from tars.schemas.errors import Refused
from tars.schemas.hyperparameters import ALGORITHMS, GAME_ROLES, Algorithm, Value, Values, all_same, same
from tars.schemas.message import By
from tars.schemas.running import RunningAgent
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import (
    StartStudy,
    StopStudy,
    StudyCommand,
    StudyEvent,
    StudyFailed,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    StudyStopped,
)

ROLE_OF: Final = {algorithm: role for role, algorithm in GAME_ROLES.items()}
"""What a study of an algorithm trains in, where it does not say."""
MOST_WARM: Final = 3
"""Champions of earlier studies that a search tries first."""


@dataclass(frozen=True)
class Study:
    """What the events so far add up to."""

    started: StudyStarted | None = None
    ended: StudyFinished | StudyStopped | StudyFailed | None = None


@dataclass(frozen=True)
class Facts:
    """What a decision needs beside the journal."""

    id: str
    time: datetime
    by: By
    barred: str | None = None
    """Why whoever sent it may not, where only signed commands of those with a role count."""
    late: bool = False
    agents: Mapping[str, RunningAgent] = field(default_factory=dict)
    """The agents that the study is for: those named, or all of the role."""
    threshold: float = 0.03
    quick: bool = False
    """Whether search trials are short where the study does not say."""
    real: bool = True
    quick_episodes: tuple[int, int] = (10, 5)
    full_episodes: tuple[int, int] = (50, 10)
    snapshots: Mapping[str, SnapshotRef] = field(default_factory=dict)
    """The newest snapshot of each of these agents that has one."""
    champions: Sequence[Values] = ()
    """Of earlier studies of the same algorithm in the same environment that were BETTER; the newest first."""


def decide(state: Study, command: StudyCommand, facts: Facts) -> list[StudyEvent]:
    """Say what happens because of `command`; raises Refused with every reason why nothing does."""
    if reason := facts.barred or ("it came after its deadline" if facts.late else None):
        raise Refused(reason)
    match command:
        case StartStudy():
            return _start(state, command, facts)
        case StopStudy():
            return _stop(state, command, facts)
        case _:
            assert_never(command)


def _start(state: Study, command: StartStudy, facts: Facts) -> list[StudyEvent]:
    if state.started is not None:
        raise Refused(f"there is a study {command.study_id} already")
    if reasons := _unfit(command, facts.agents) or _unable(command, facts):
        raise Refused(*reasons)
    target = next(iter(facts.agents.values()), None)
    algorithm = ALGORITHMS[(target.algorithm if target else command.algorithm) or "dqn"]
    environment = trained_in(command, target) or ROLE_OF[algorithm.name]
    in_game = environment in GAME_ROLES
    structural = tuple(d.name for d in algorithm.hyperparameters if d.structural and d.search is not None)
    quick = _is_quick(command, facts)
    incumbent = dict(target.values) if target else _defaults(algorithm, in_game=in_game)
    searched = (*_searched(algorithm, in_game=in_game), *(structural if command.structural else ()))
    return [
        StudyStarted(
            study_id=command.study_id,
            by=facts.by,
            algorithm=algorithm.name,
            environment=environment,
            base={agent_id: agent.heard for agent_id, agent in facts.agents.items()},
            incumbent=incumbent,
            searched=searched,
            trials=0 if command.candidates else command.trials,
            quick=quick,
            search_episodes=facts.quick_episodes if quick else facts.full_episodes,
            full_episodes=facts.full_episodes,
            sampler=command.sampler,
            seed=command.seed,
            structural=command.structural,
            threshold=facts.threshold,
            training="real" if facts.real else "surrogate",
            score_range=command.score_range,
            normalize=command.normalize,
            trainer=command.trainer,
            start=command.start,
            snapshots=tuple(facts.snapshots[name] for name in facts.agents) if command.start == "snapshot" else (),
            candidates=command.candidates,
            objective=command.objective,
            weights=command.weights,
            wall_seconds=command.wall_seconds,
            warm=_warm(searched, incumbent, facts.champions) if command.warm_start else (),
            explain=command.explain,
            propose=command.propose,
        )
    ]


def trained_in(command: StartStudy, target: RunningAgent | None) -> str | None:
    """What the trials of a study act in; None: the role that its algorithm learns in the game.

    A hosted agent acts in its role. What an attached one acts in, only its own code knows: its role is but a name.
    """
    return command.environment if target is None or target.world is None else target.role


def _warm(searched: Sequence[str], incumbent: Values, champions: Sequence[Values]) -> tuple[dict[str, Value], ...]:
    """The searched keys of the newest champions that differ from the incumbent and from one another."""
    found: list[dict[str, Value]] = []
    for champion in champions:
        if any(name not in champion for name in searched):
            continue
        point = {name: champion[name] for name in searched}
        if not any(all_same(point, other) for other in [*found, {name: incumbent[name] for name in searched}]):
            found.append(point)
    return tuple(found[:MOST_WARM])


def _defaults(algorithm: Algorithm, *, in_game: bool) -> dict[str, Value]:
    return dict(algorithm.game_defaults) if in_game else {**algorithm.defaults, **algorithm.parallel_defaults}


def _searched(algorithm: Algorithm, *, in_game: bool) -> tuple[str, ...]:
    """The keys that a study varies unless it is asked for more."""
    if in_game:
        return tuple(algorithm.game_search)
    return tuple(d.name for d in algorithm.hyperparameters if d.search is not None and not d.structural)


def _unfit(command: StartStudy, agents: Mapping[str, RunningAgent]) -> list[str]:
    """Why these agents cannot be one target: they must live, learn, and run the same values in the same role."""
    if command.algorithm is not None:
        return _unfit_environment(command, None)
    if not agents and command.role is not None:
        return [f"no live agent has the role {command.role}"]
    missing = [f"there is no agent {name}" for name in command.agents if name not in agents]
    dead = [f"{name} does not run" for name, agent in agents.items() if not agent.alive]
    fixed = [
        f"{n} follows a reference policy: it has nothing to tune" for n, a in agents.items() if a.algorithm is None
    ]
    unlike = missing + dead + fixed or _incomplete(agents) or _differing(agents)
    return unlike or _unfit_environment(command, next(iter(agents.values())))


def _unable(command: StartStudy, facts: Facts) -> list[str]:
    """Why what is asked cannot be done for a target that fits."""
    target = next(iter(facts.agents.values()), None)
    environment = trained_in(command, target)
    reasons = []
    if command.objective != "reward" and (environment or "policy") not in GAME_ROLES:
        reasons.append(f"{environment} tells of no conflicts and no latency: only the objective reward is possible")
    if command.objective != "reward" and command.trainer != "population":
        reasons.append(f"the trainer {command.trainer} tells of no conflicts and no latency: use population")
    if command.objective != "reward" and not facts.real:
        reasons.append("a surrogate has neither conflicts nor latency: USE_REAL_TRAINING is false")
    if command.start == "snapshot":
        reasons += _without_snapshot(command, facts)
    reasons += _without_a_rollout(command, target, facts)
    algorithm = ALGORITHMS[(target.algorithm if target else command.algorithm) or "dqn"]
    current = dict(target.values) if target else _defaults(algorithm, in_game=(environment or "policy") in GAME_ROLES)
    for change in command.candidates:
        reasons += objections(algorithm, change, current, "low")
        if all(name in current and same(value, current[name]) for name, value in change.items()):
            reasons.append(f"candidate {change} changes nothing")
    return reasons


def _without_a_rollout(command: StartStudy, target: RunningAgent | None, facts: Facts) -> list[str]:
    """Why no trial would learn: an attached agent's rollout may be longer than a trial, which has 16 environments."""
    if target is None or target.world is not None or command.trainer not in {"population", "sb3"}:
        return []
    episodes, setting = facts.full_episodes[0], "REAL_TRAINING_EPISODES"
    if _is_quick(command, facts) and not command.candidates and facts.quick_episodes[0] < episodes:
        episodes, setting = facts.quick_episodes[0], "QUICK_MODE_TRAIN_EPISODES"
    own = target.values.get("n_steps")
    rollout = max((n for n in (own, *(c.get("n_steps", own) for c in command.candidates)) if n is not None), default=0)
    needed = math.ceil(rollout / EPISODE_STEPS)
    if needed <= episodes:
        return []
    fewer = f"a trial has fewer in each of its {PARALLEL}"
    why = f"{target.agent_id} would learn every {rollout:g} steps of an environment, and {fewer}"
    return [f"{why}: set {setting} to {needed} or more for the coordinator"]


def _is_quick(command: StartStudy, facts: Facts) -> bool:
    """Whether its search trials are short."""
    return facts.quick if command.quick is None else command.quick


def _without_snapshot(command: StartStudy, facts: Facts) -> list[str]:
    """Why trials cannot go on from what runs."""
    reasons = []
    if command.trainer != "population":
        reasons.append(f"the trainer {command.trainer} cannot go on from a snapshot: use population")
    if not facts.real:
        reasons.append("a surrogate has nothing to go on from: USE_REAL_TRAINING is false")
    foreign = [name for name, agent in facts.agents.items() if agent.world is None]
    reasons += [f"{name} is not hosted here: nobody can play on in its world" for name in foreign]
    lacking = [name for name in facts.agents if name not in facts.snapshots and name not in foreign]
    reasons += [f"{name} has no snapshot yet: it makes one every few episodes, try again shortly" for name in lacking]
    return reasons


def _unfit_environment(command: StartStudy, target: RunningAgent | None) -> list[str]:
    """Why this environment cannot be trained in: a gain in points of a score needs a scale."""
    if target is not None and target.world is None and command.environment is None:
        told = f"only its own code knows what {target.agent_id} acts in"
        return [f"{told}: name environment (a Gymnasium id) and score_range, the returns that count as 0 and 1 there"]
    reasons, hosted = [], target is not None and target.world is not None
    if target is not None and hosted and command.environment is not None:
        reasons.append(f"{target.agent_id} is hosted here, its trials play its role of the game: name no environment")
    foreign = not hosted and command.environment is not None and command.environment not in GAME_ROLES
    if foreign and command.score_range is None:
        reasons.append("name score_range, the returns that count as 0 and 1: without it a gain means nothing")
    if foreign and command.score_range is not None and not command.score_range[0] < command.score_range[1]:
        reasons.append(f"score_range {command.score_range} must rise")
    if not foreign and (command.score_range is not None or command.normalize):
        reasons.append("the game has a scale of its own: name neither score_range nor normalize")
    return reasons


def _incomplete(agents: Mapping[str, RunningAgent]) -> list[str]:
    """Who does not say every value of its algorithm: a trial needs the whole set."""
    reasons = []
    for name, agent in agents.items():
        declared = ALGORITHMS[agent.algorithm].hyperparameters if agent.algorithm else ()
        if lacking := [d.name for d in declared if d.name not in agent.values or ill_typed(d, agent.values[d.name])]:
            reasons.append(f"{name} does not say its {', '.join(lacking)}")
    return reasons


def _differing(agents: Mapping[str, RunningAgent]) -> list[str]:
    first, *others = agents.values()
    reasons = []
    for other in others:
        if (other.role, other.algorithm) != (first.role, first.algorithm):
            reasons.append(f"{other.agent_id} is a {other.role}, {first.agent_id} a {first.role}")
        elif (other.world is None) != (first.world is None):
            reasons.append(f"of {other.agent_id} and {first.agent_id} only one is hosted here: start a study for each")
        elif not all_same(other.values, first.values):
            keys = [key for key in first.values | other.values if not _is_shared(key, first.values, other.values)]
            reasons.append(f"{other.agent_id} and {first.agent_id} run different values of {', '.join(keys)}")
    return reasons


def _is_shared(key: str, one: Mapping[str, Value], other: Mapping[str, Value]) -> bool:
    return key in one and key in other and same(one[key], other[key])


def _stop(state: Study, command: StopStudy, facts: Facts) -> list[StudyEvent]:
    if state.started is None:
        raise Refused(f"there is no study {command.study_id}")
    if isinstance(state.ended, StudyStopped):
        return []
    if state.ended is not None:
        raise Refused(f"study {command.study_id} has ended")
    return [StudyStopped(study_id=command.study_id, by=facts.by, reason=command.reason)]


def evolve(state: Study, event: StudyEvent) -> Study:
    """The study after `event`."""
    match event:
        case StudyStarted():
            return replace(state, started=event)
        case StudyResumed():
            return state
        case StudyFinished() | StudyStopped() | StudyFailed():
            return replace(state, ended=event)
        case _:
            assert_never(event)


def replay(events: Iterable[StudyEvent]) -> Study:
    """Fold a history into a state."""
    return reduce(evolve, events, Study())


def whole(started: StudyStarted, change: Mapping[str, Value]) -> dict[str, Value]:
    """The whole set of a trial: the incumbent's, with the searched keys laid over."""
    return {**started.incumbent, **change}
