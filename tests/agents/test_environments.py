"""The environments sample what the game computes exactly, alone and jointly."""

import functools

import pytest
import torch
from torch import Tensor

from tars.agents.environments import CHANCE, COPIES, Discrete, Evaluation, RoleEnvironment
from tars.agents.game import ACTIONS, HORIZON, ROLES, STATES, Joint, Role, coordination_game
from tars.agents.joint_game import JointGame

torch.set_num_threads(1)
LANES = 400
"""The mean reward per step spreads by 0.32 in one copy, so by 0.004 in all: tolerances are three times that."""


def reference(role: Role, state: Tensor) -> Tensor:
    """What the reference policy does in states [P, E, 1]."""
    return table(role)[state[..., 0].long()]


@functools.cache
def table(role: Role) -> Tensor:
    """What it does in each state [S], or [S, 1]."""
    policy = coordination_game().reference[ROLES.index(role)]
    return (policy.float() * 2 - 1)[:, None] if role == "resource" else policy.argmax(1)


@pytest.mark.parametrize("role", ROLES)
def test_sampled_episodes_are_worth_what_dynamic_programming_says(role: Role) -> None:
    environment, game = RoleEnvironment(role), coordination_game()
    environment.open(list(range(LANES)))
    state, cuts = environment.begin(), []
    for _ in range(HORIZON):
        step = environment.step(reference(role, state))
        cuts.append(step.cut is not None)
        assert not bool(step.terminated.any())
        state = step.state
    exact = game.assess(game.reference).scores[role]
    low, high = game.scales[role]
    assert float(environment.behaviour().mean()) == pytest.approx(exact, abs=0.012 / (high - low))
    assert cuts == [False] * (HORIZON - 1) + [True]


@pytest.mark.parametrize("role", ROLES)
def test_the_exact_score_of_a_policy_is_the_games(role: Role) -> None:
    environment, game = RoleEnvironment(role, torch.float64), coordination_game()
    environment.open([0, 1])
    found = environment.exact_score(lambda state: reference(role, state))
    assert found is not None
    assert found.tolist() == pytest.approx([game.assess(game.reference).scores[role]] * 2, abs=1e-6)


@functools.cache
def other(role: Role) -> Tensor:
    """Anything but the reference policy: an action in each state [S], a capacity of resource."""
    random = torch.Generator().manual_seed(ROLES.index(role))
    if role == "resource":
        return torch.rand(STATES, generator=random, dtype=torch.float64)
    return torch.randint(ACTIONS[role], (STATES,), generator=random)


def does_other(role: Role, state: Tensor) -> Tensor:
    """What that policy does in states [P, E, 1]."""
    taken = other(role)[state[..., 0].long()]
    return (taken * 2 - 1)[..., None].to(state) if role == "resource" else taken


def evaluated(role: Role, seeds: list[int], episodes: int = 1, dtype: torch.dtype = torch.float64) -> Evaluation:
    environment = RoleEnvironment(role, dtype)
    environment.open(seeds)
    return environment.evaluate(lambda state: does_other(role, state), episodes, seeds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("role", ROLES)
def test_conflicts_and_latency_of_long_evaluations_are_what_dynamic_programming_says(
    role: Role, dtype: torch.dtype
) -> None:
    """Within four standard errors of the mean over lanes, whose spread the lanes themselves tell."""
    game = coordination_game()
    found = evaluated(role, list(range(LANES)), 10, dtype)
    exact = game.assess(game.joint({role: other(role)}))
    for measured, expected in ((found.conflict, sum(exact.conflicts.values())), (found.latency, exact.latency)):
        assert measured is not None
        assert measured.shape == (LANES,)
        error = float(measured.std()) / LANES**0.5
        assert 0 < error < 0.002
        assert float(measured.mean()) == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("role", ROLES)
def test_an_evaluation_tells_the_costs_that_joint_play_with_the_same_chance_has(role: Role) -> None:
    joint = JointGame(torch.float64)
    joint.open([3])
    state = joint.begin()
    for _ in range(HORIZON):
        actions = {each: reference(each, state) for each in ROLES}
        state = joint.step({**actions, role: does_other(role, state)})["policy"].state
    played, alone = joint.played(), evaluated(role, [3 ^ CHANCE])
    assert alone.conflict is not None
    assert alone.latency is not None
    assert alone.score.tolist() == pytest.approx([played.scores[role]], abs=1e-6)
    assert alone.conflict.tolist() == pytest.approx([sum(played.conflicts.values())], abs=1e-6)
    assert alone.latency.tolist() == pytest.approx([played.latency], abs=1e-9)


@pytest.mark.parametrize("role", ROLES)
def test_costs_repeat_to_the_last_bit_with_their_seed_whatever_other_lanes_draw(role: Role) -> None:
    first, again, alone = evaluated(role, [1, 2], 5), evaluated(role, [9, 2], 5), evaluated(role, [2], 5)
    for one, two, three in zip(first, again, alone, strict=True):
        assert one is not None
        assert two is not None
        assert three is not None
        assert float(one[1]) == float(two[1]) == float(three[0])
        assert float(one[0]) != float(two[0])


def strangers() -> Joint:
    """Partners that are no references."""
    return coordination_game().joint({role: other(role) for role in ROLES})


@pytest.mark.parametrize("role", ROLES)
def test_other_partners_are_met_in_play_and_by_dynamic_programming_on_the_scale_of_the_references(role: Role) -> None:
    game = coordination_game()
    environment = RoleEnvironment(role, torch.float64, against=strangers())
    environment.open([0, 1])
    exact, known = game.assess(strangers()), game.assess(game.joint({role: other(role)}))
    found = environment.evaluate(lambda state: does_other(role, state), 1, list(range(LANES)))
    low, high = game.scales[role]
    computed = environment.exact_score(lambda state: does_other(role, state))
    assert computed is not None
    assert found.conflict is not None
    assert found.latency is not None
    assert computed.tolist() == pytest.approx([exact.scores[role]] * 2, abs=1e-6)
    assert float(found.score.mean()) == pytest.approx(exact.scores[role], abs=0.012 / (high - low))
    assert float(found.conflict.mean()) == pytest.approx(sum(exact.conflicts.values()), abs=0.008)
    assert float(found.latency.mean()) == pytest.approx(exact.latency, abs=0.02)
    assert abs(exact.scores[role] - known.scores[role]) > 0.1


def test_joint_play_is_worth_what_dynamic_programming_says() -> None:
    joint, game = JointGame(), coordination_game()
    joint.open([5])
    exact, played = game.assess(game.reference), []
    for _ in range(60):
        state = joint.begin()
        for _ in range(HORIZON):
            state = joint.step({role: reference(role, state) for role in ROLES})["policy"].state
        played.append(joint.played())
    for role in ROLES:
        mean = sum(p.scores[role] for p in played) / len(played)
        assert mean == pytest.approx(exact.scores[role], abs=0.2)
    for kind, expected in exact.conflicts.items():
        assert sum(p.conflicts[kind] for p in played) / len(played) == pytest.approx(expected, abs=0.008)
    assert sum(p.latency for p in played) / len(played) == pytest.approx(exact.latency, abs=0.02)


def test_joint_play_against_the_references_is_the_roles_own_environment() -> None:
    joint, alone = JointGame(torch.float64), RoleEnvironment("policy", torch.float64)
    joint.open([3])
    alone.open([3])
    state = joint.begin()
    assert torch.equal(state, alone.begin())
    for _ in range(HORIZON):
        actions = {role: reference(role, state) for role in ROLES}
        actions["resource"] = actions["resource"].double()
        actions["policy"] = torch.full((1, COPIES), 2)
        found, expected = joint.step(actions)["policy"], alone.step(actions["policy"])
        assert torch.allclose(found.reward, expected.reward, atol=1e-6)
        assert torch.equal(found.after, expected.after)
        state = found.state


def test_a_diverged_resource_gives_nothing_and_spoils_nobodys_reward() -> None:
    joint = JointGame()
    joint.open([1])
    state = joint.begin()
    actions = {role: reference(role, state) for role in ROLES}
    steps = joint.step({**actions, "resource": torch.full((1, COPIES, 1), torch.nan)})
    assert all(bool(step.reward.isfinite().all()) for step in steps.values())


def test_what_was_not_played_cannot_be_told() -> None:
    joint = JointGame()
    joint.open([1])
    joint.begin()
    with pytest.raises(ValueError, match="no step of this episode was played"):
        joint.played()


def test_an_observation_shows_the_four_coordinates_of_a_state() -> None:
    environment = RoleEnvironment("policy")
    seen = environment.observe(environment.every_state())[0]
    assert seen.shape == (STATES, environment.features)
    assert seen.sum(1).tolist() == [4.0] * STATES
    assert len({tuple(row) for row in seen.tolist()}) == STATES
    assert environment.actions == Discrete(4)


def test_a_role_that_the_game_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="driver is no role of the game; choose among policy, consensus"):
        RoleEnvironment("driver")  # type: ignore[arg-type] # that is the point
