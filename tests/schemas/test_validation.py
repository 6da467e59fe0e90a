"""Each rule of validation says why not, in words a person can act on."""

from dataclasses import replace
from datetime import timedelta

import pytest

from story import AGENTS, NOW, VALUES, agent, evidence
from tars.schemas.evidence import Verdict
from tars.schemas.hyperparameters import Value
from tars.schemas.running import RunningAgent
from tars.schemas.validation import RULES, Proposal, objections

GOOD = Proposal(
    agents=("a", "b"), values={"learning_rate": 1e-3}, base={"a": 0, "b": 0}, evidence=None,
    expires_at=NOW + timedelta(days=1), time=NOW, running=AGENTS, strictness="medium",
)  # fmt: skip


def why(**changes: object) -> str:
    return "; ".join(objections(replace(GOOD, **changes)))  # type: ignore[arg-type]


def test_a_good_proposal_has_no_objection() -> None:
    assert objections(GOOD) == []


def test_an_agent_must_exist_run_and_learn() -> None:
    still = RunningAgent(agent_id="a", run_id="r", role="ethical", algorithm=None, alive=True)
    stopped = replace(agent("b"), alive=False)
    assert "there is no agent c" in why(agents=("c",), base={"c": 0})
    assert "a follows a reference policy" in why(running={**AGENTS, "a": still})
    assert "b does not run" in why(running={**AGENTS, "b": stopped})


def test_a_base_that_moved_is_named_with_both_versions() -> None:
    assert "a has moved on: it is at version 9, this was made for 0" in why(
        running={**AGENTS, "a": agent("a", heard=9)}
    )


def test_a_base_must_be_about_the_agents() -> None:
    assert "a version for each of its agents" in why(base={"a": 0})


def test_a_proposal_must_change_something() -> None:
    assert "already run these values" in why(values={"gamma": VALUES["gamma"]})


@pytest.mark.parametrize(
    ("values", "strictness", "part"),
    [
        ({"learning_rate": 0.5}, "low", "learning_rate = 0.5 is outside"),
        ({"gamma": 0.5}, "medium", "gamma = 0.5 is outside [0.9, 0.9999]"),
        ({"learning_rate": 2e-4}, "high", "at most x1.5 from 0.0001"),
        ({"buffer_size": 2000}, "high", "buffer_size may not change at strictness high"),
        ({"batch_size": 64.0, "tau": None}, "medium", "tau = None: it must be a number"),
        (
            {"exploration_final_eps": 0.2, "exploration_initial_eps": 0.1},
            "low",
            "exploration_final_eps = 0.2 must lie in",
        ),
        ({"batch_size": 512, "buffer_size": 500}, "medium", "batch_size = 512 is larger than buffer_size = 500"),
    ],
)
def test_bounds_and_invariants_are_said_with_key_value_and_strictness(
    values: dict[str, Value], strictness: str, part: str
) -> None:
    assert part in why(values=values, strictness=strictness)


def test_what_is_wrong_for_one_agent_alone_names_it() -> None:
    text = why(running={**AGENTS, "b": agent("b", learning_rate=9e-4)}, strictness="high")
    assert text.startswith("a: learning_rate = 0.001 is outside")


def test_learning_starts_is_not_raised_on_a_running_agent() -> None:
    assert "raised on a running agent: a, b" in why(values={"learning_starts": 2000})
    assert why(values={"learning_starts": 100}) == ""


def test_it_must_not_be_born_expired() -> None:
    assert "before it was proposed" in why(expires_at=NOW - timedelta(seconds=1))


def test_evidence_counts_only_for_the_values_it_was_found_with() -> None:
    assert "evidence is about other values of gamma" in why(values={"gamma": 0.95}, evidence=evidence(Verdict.BETTER))
    assert why(evidence=evidence(Verdict.BETTER)) == ""


def test_every_rule_is_asked() -> None:
    worst = replace(
        GOOD, agents=("a", "ghost"), base={"a": 3, "ghost": 0}, values={"learning_rate": 9.0, "learning_starts": 9999},
        expires_at=NOW, evidence=evidence(Verdict.BETTER),
    )  # fmt: skip
    silent = {rule.__name__ for rule in RULES if not rule(worst)}
    assert silent == {"keeps_to_one_algorithm", "changes_something"}
