"""The life of a study: who may start and stop it, and what its start fixes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import ADA, EVIDENCE, GRACE, HOLDER, NOON, RUNNING
from tars.automl_worker.study import Facts, Study, decide, evolve, replay, whole
from tars.schemas.errors import Refused
from tars.schemas.hyperparameters import DQN, PPO, Value
from tars.schemas.running import RunningAgent
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import (
    StartStudy,
    StopStudy,
    StudyEvent,
    StudyFailed,
    StudyFinished,
    StudyResumed,
    StudyStarted,
    StudyStopped,
)

STOP = StopStudy(study_id="s", reason="enough")
FINISHED = StudyFinished(study_id="s", completed=4, failed=0, champion=RUNNING, evidence=EVIDENCE)
STOPPED = StudyStopped(study_id="s", by=ADA, reason="enough")
FAILED = StudyFailed(study_id="s", error="given up")
RESUMED = StudyResumed(study_id="s", holder=HOLDER, delivery=1)


def agent(name: str, *, heard: int = 0, alive: bool = True, **changes: Value) -> RunningAgent:
    """A policy agent that runs the example's values, but for some."""
    return RunningAgent(
        agent_id=name, run_id="r", role="policy", algorithm="dqn", world=f"world-{name}", heard=heard, alive=alive,
        values=RUNNING | changes,
    )  # fmt: skip


def attached(name: str) -> RunningAgent:
    """A foreign learner, with the role that attach() gives it."""
    return replace(agent(name), role="dqn", world=None)


def facts(*agents: RunningAgent, **known: object) -> Facts:
    """What a decision is told: these agents, and ada asks."""
    return replace(Facts(id="c", time=NOON, by=ADA, agents={a.agent_id: a for a in agents}), **known)  # type: ignore[arg-type] # names are checked by the dataclass


def start(**asked: object) -> StartStudy:
    return StartStudy.model_validate({"study_id": "s", **(asked or {"role": "policy"})})


def started(command: StartStudy, known: Facts) -> StudyStarted:
    (event,) = decide(Study(), command, known)
    assert isinstance(event, StudyStarted)
    return event


STARTED = started(start(), facts(agent("a")))


def refusal(command: StartStudy | StopStudy, known: Facts, *history: StudyEvent) -> str:
    with pytest.raises(Refused) as refused:
        decide(replay(history), command, known)
    return str(refused.value)


def test_a_study_pins_the_versions_and_the_whole_values_of_its_target() -> None:
    event = started(start(), facts(agent("a", heard=7), agent("b", heard=9)))
    assert event.base == {"a": 7, "b": 9}
    assert event.incumbent == RUNNING
    assert (event.algorithm, event.environment, event.by) == ("dqn", "policy", ADA)


def test_without_a_target_a_study_searches_from_the_games_defaults() -> None:
    event = started(start(algorithm="dqn"), facts())
    assert event.base == {}
    assert event.incumbent == dict(DQN.game_defaults)
    assert event.environment == "policy"


def test_a_study_of_ppo_elsewhere_starts_with_rollouts_that_fit_into_a_trial() -> None:
    """SB3's 2048 steps are those of one environment; a trial has 1600 vector steps of 16."""
    event = started(start(algorithm="ppo", environment="CartPole-v1", score_range=(0, 500)), facts())
    assert event.incumbent == {**PPO.defaults, "n_steps": 128}
    assert int(event.incumbent["n_steps"] or 0) * 4 < event.full_episodes[0] * 32


def test_a_study_for_attached_agents_trains_in_what_it_is_told_by_a_scale_that_it_is_told() -> None:
    command = start(role="dqn", environment="CartPole-v1", score_range=(0, 500), normalize=("observations",))
    event = started(command, facts(attached("a"), attached("b")))
    assert (event.environment, event.score_range, event.base) == ("CartPole-v1", (0, 500), {"a": 0, "b": 0})
    assert event.incumbent == RUNNING
    assert started(start(role="dqn", environment="policy"), facts(attached("a"))).environment == "policy"


@pytest.mark.parametrize("role", ["dqn", "CartPole-v1"])
def test_a_study_for_attached_agents_is_refused_without_environment_or_scale(role: str) -> None:
    known = facts(replace(attached("a"), role=role))
    (told,) = refusal(start(role=role), known).splitlines()
    assert "only its own code knows what a acts in: name environment (a Gymnasium id) and score_range" in told
    assert "without it a gain means nothing" in refusal(start(role=role, environment="CartPole-v1"), known)
    assert "must rise" in refusal(start(role=role, environment="CartPole-v1", score_range=(5, 5)), known)


def test_a_study_for_an_attached_agent_whose_rollouts_are_longer_than_a_trial_is_refused() -> None:
    foreign = replace(attached("a"), role="ppo", algorithm="ppo", values=dict(PPO.defaults))
    asked = start(role="ppo", environment="CartPole-v1", score_range=(0, 500))
    assert "a would learn every 2048 steps" in (told := refusal(asked, facts(foreign)))
    assert "REAL_TRAINING_EPISODES to 64 or more" in told
    assert started(asked, facts(foreign, full_episodes=(64, 10))).incumbent["n_steps"] == 2048
    quick = asked.model_copy(update={"quick": True})
    assert "QUICK_MODE_TRAIN_EPISODES to 64 or more" in refusal(quick, facts(foreign, full_episodes=(64, 10)))


def test_a_candidate_whose_rollouts_are_longer_than_a_trial_is_refused_too() -> None:
    foreign = replace(attached("a"), role="ppo", algorithm="ppo", values={**PPO.defaults, "n_steps": 128})
    asked = start(role="ppo", environment="CartPole-v1", score_range=(0, 500))
    longer = asked.model_copy(update={"candidates": ({"n_steps": 4096},)})
    assert "a would learn every 4096 steps" in refusal(longer, facts(foreign))


def test_a_study_for_hosted_agents_takes_no_environment_and_no_scale() -> None:
    known = facts(agent("a"))
    assert "a is hosted here" in refusal(start(role="policy", environment="CartPole-v1", score_range=(0, 1)), known)
    assert "the game has a scale of its own" in refusal(start(role="policy", score_range=(0, 1)), known)
    mixed = facts(agent("a"), replace(agent("b"), world=None))
    assert "of b and a only one is hosted here" in refusal(start(), mixed)


SNAPSHOT = SnapshotRef(name="a.run-1.50", agent_id="a", sha256="0" * 64, episode=50, step=1600, version=0)


def test_a_study_from_a_snapshot_pins_the_newest_of_each_agent() -> None:
    event = started(start(role="policy", start="snapshot"), facts(agent("a"), snapshots={"a": SNAPSHOT}))
    assert (event.start, event.snapshots) == ("snapshot", (SNAPSHOT,))


def test_a_study_from_a_snapshot_is_refused_where_there_is_none() -> None:
    asked, hosted = start(role="policy", start="snapshot"), agent("a")
    assert "a has no snapshot yet" in refusal(asked, facts(hosted))
    foreign = start(role="dqn", start="snapshot", environment="CartPole-v1", score_range=(0, 500))
    assert "a is not hosted here" in refusal(foreign, facts(attached("a"), snapshots={"a": SNAPSHOT}))
    by_sb3 = start(role="policy", start="snapshot", trainer="sb3")
    assert "cannot go on from a snapshot" in refusal(by_sb3, facts(hosted, snapshots={"a": SNAPSHOT}))
    assert "surrogate" in refusal(asked, facts(hosted, snapshots={"a": SNAPSHOT}, real=False))


@pytest.mark.parametrize(
    ("candidate", "why"),
    [
        ({"gamma": RUNNING["gamma"]}, "changes nothing"),
        ({"gama": 0.9}, "gama is no hyperparameter of dqn"),
        ({"learning_rate": 5.0}, "learning_rate = 5 is outside"),
        ({"batch_size": 64.5}, "whole number"),
    ],
)
def test_a_candidate_that_no_agent_could_run_is_refused(candidate: dict[str, Value], why: str) -> None:
    assert why in refusal(start(role="policy", trials=0, candidates=(candidate,)), facts(agent("a")))


def test_candidates_are_weighed_without_a_search() -> None:
    event = started(start(role="policy", trials=20, candidates=({"gamma": 0.97},)), facts(agent("a")))
    assert (event.trials, event.candidates) == (0, ({"gamma": 0.97},))


def test_what_has_no_conflicts_has_no_other_objective_than_reward() -> None:
    foreign = {"algorithm": "ppo", "environment": "CartPole-v1", "score_range": (0, 500)}
    assert "CartPole-v1 tells of no conflicts" in refusal(start(**foreign, objective="pareto"), facts())
    assert "sb3 tells of no conflicts" in refusal(start(algorithm="ppo", trainer="sb3", objective="penalty"), facts())
    assert started(start(algorithm="ppo", objective="pareto"), facts()).objective == "pareto"


def test_a_search_is_warmed_by_the_newest_distinct_champions() -> None:
    one, other = {**RUNNING, "gamma": 0.91}, {**RUNNING, "gamma": 0.92}
    known = facts(agent("a"), champions=(one, one, RUNNING, {"gamma": 0.9}, other))
    event = started(start(), known)
    assert [point["gamma"] for point in event.warm] == [0.91, 0.92]
    assert all(set(point) == set(event.searched) for point in event.warm)
    assert started(start(role="policy", warm_start=False), known).warm == ()


def test_structural_keys_are_searched_only_when_asked() -> None:
    narrow = started(start(algorithm="dqn"), facts())
    wide = started(start(algorithm="dqn", structural=True), facts())
    structural = {declared.name for declared in DQN.hyperparameters if declared.structural}
    assert set(narrow.searched) == set(DQN.game_search)
    assert set(wide.searched) == set(DQN.game_search) | structural


@pytest.mark.parametrize(("asked", "setting", "expected"), [(None, True, 3), (None, False, 8), (True, False, 3)])
def test_only_the_search_is_short(asked: bool | None, setting: bool, expected: int) -> None:
    known = facts(quick=setting, quick_episodes=(3, 2), full_episodes=(8, 4))
    event = started(start(algorithm="dqn", quick=asked), known)
    assert event.search_episodes[0] == expected
    assert event.full_episodes == (8, 4)


def test_a_surrogate_says_so() -> None:
    assert started(start(), facts(agent("a"), real=False)).training == "surrogate"


def test_the_threshold_is_the_settings() -> None:
    assert started(start(), facts(agent("a"), threshold=0.07)).threshold == 0.07


def test_agents_that_differ_are_named_with_the_keys_in_which_they_do() -> None:
    text = refusal(start(), facts(agent("a"), agent("b", gamma=0.5, tau=0.9)))
    assert "b and a run different values of gamma, tau" in text


def test_values_that_a_32_bit_learner_cannot_tell_apart_are_the_same() -> None:
    near = agent("b", learning_rate=0.0001 + 1e-14)
    assert started(start(), facts(agent("a"), near)).base.keys() == {"a", "b"}


def test_agents_of_several_roles_are_no_target() -> None:
    other = replace(agent("b"), role="resource")
    assert "b is a resource, a a policy" in refusal(start(agents=("a", "b")), facts(agent("a"), other))


def test_every_agent_that_is_unknown_dead_or_follows_a_reference_is_named() -> None:
    known = facts(agent("b", alive=False), replace(agent("c"), algorithm=None))
    text = refusal(start(agents=("a", "b", "c")), known)
    assert "no agent a" in text
    assert "b does not run" in text
    assert "c follows a reference" in text


def test_a_role_that_nobody_plays_is_refused() -> None:
    assert "no live agent has the role policy" in refusal(start(), facts())


def test_the_id_of_a_study_is_used_once() -> None:
    assert "there is a study s already" in refusal(start(trials=7, algorithm="dqn"), facts(by=GRACE), STARTED)


@pytest.mark.parametrize("command", [start(), STOP], ids=["start", "stop"])
def test_a_late_command_is_refused(command: StartStudy | StopStudy) -> None:
    assert "deadline" in refusal(command, facts(agent("a"), late=True))


def test_a_running_study_is_stopped_by_whoever_asks() -> None:
    event = StudyStopped(study_id="s", by=GRACE, reason="enough")
    assert decide(replay([STARTED, RESUMED]), STOP, facts(by=GRACE)) == [event]


def test_a_stopped_study_is_not_stopped_again() -> None:
    assert decide(replay([STARTED, STOPPED]), STOP, facts()) == []


def test_an_unknown_study_cannot_be_stopped() -> None:
    assert "there is no study s" in refusal(STOP, facts())


@pytest.mark.parametrize("end", [FINISHED, FAILED], ids=["finished", "failed"])
def test_a_study_that_has_ended_cannot_be_stopped(end: StudyEvent) -> None:
    assert "has ended" in refusal(STOP, facts(), STARTED, end)


@given(st.lists(st.sampled_from([STARTED, RESUMED, FINISHED, STOPPED, FAILED])), st.integers(0, 9))
def test_a_history_in_two_parts_adds_up_to_the_same(events: list[StudyEvent], cut: int) -> None:
    state = replay(events[:cut])
    for event in events[cut:]:
        state = evolve(state, event)
    assert state == replay(events)


def test_a_trials_values_are_the_incumbents_with_the_searched_ones_laid_over() -> None:
    assert whole(STARTED, {"gamma": 0.95}) == RUNNING | {"gamma": 0.95}
