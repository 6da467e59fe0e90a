"""The game's doors keep the promises of PettingZoo and Gymnasium, and lead to the same game."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from pettingzoo.test import parallel_api_test, parallel_seed_test
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from tars.agents.doors import IDS, RoleEnv
from tars.agents.game import ROLES, Role, adequacy, coordination_game, parallel_env, price


def test_pettingzoo_finds_nothing_wrong() -> None:
    parallel_api_test(parallel_env(), num_cycles=200)
    parallel_seed_test(parallel_env)


@pytest.mark.parametrize("role", ROLES)
def test_gymnasium_finds_nothing_wrong(role: Role) -> None:
    check_env(RoleEnv(role), skip_render_check=True)


def test_stable_baselines_finds_nothing_wrong() -> None:
    check_for_sb3(RoleEnv("policy"))


@pytest.mark.slow
def test_an_id_that_names_its_module_needs_no_import() -> None:
    made = "; ".join(f"gymnasium.make('tars.agents.doors:{env_id}').reset(seed=1)" for env_id in IDS)
    subprocess.run([sys.executable, "-P", "-W", "error", "-c", f"import gymnasium; {made}"], check=True, timeout=60)


def test_a_step_pays_every_role_what_the_games_tables_say() -> None:
    game, env, dice = coordination_game(), parallel_env(), np.random.default_rng(3)
    env.reset(seed=3)
    for _ in range(32):
        actions: dict[str, Any] = {role: env.action_space(role).sample() for role in ("policy", "consensus", "ethical")}
        actions["resource"] = dice.random(1).astype(np.float32)
        s, capacity = env.state_number, torch.tensor(float(actions["resource"][0]), dtype=torch.float64)
        m = adequacy(game.need[s], capacity)
        at = (s, int(actions["policy"]), int(actions["consensus"]), int(actions["ethical"]))
        _, rewards, _, _, infos = env.step(actions)
        expected = [float(game.reward.at(m)[(i, *at)]) for i in range(4)]
        expected[3] += float(price(capacity))
        assert list(rewards.values()) == pytest.approx(expected, abs=1e-12)
        assert infos["policy"]["conflicts"]["veto"] == pytest.approx(float(game.veto[at]), abs=1e-12)
        assert infos["policy"]["conflicts"]["starved"] == pytest.approx(float(game.starved.at(m)[at]), abs=1e-12)
        assert infos["policy"]["latency"] == pytest.approx(float(game.latency[at]), abs=1e-12)


def references(state: int) -> dict[str, Any]:
    """What the reference policies do."""
    reference = coordination_game().reference
    chosen: dict[str, Any] = {role: int(reference[i][state].argmax()) for i, role in enumerate(ROLES[:3])}
    return {**chosen, "resource": np.array([reference.resource[state]])}


def test_episodes_are_worth_what_dynamic_programming_says() -> None:
    env, exact = parallel_env(), coordination_game().assess(coordination_game().reference)
    means = []
    for episode in range(300):
        env.reset(seed=episode)
        rewards = []
        while env.agents:
            rewards.append(list(env.step(references(env.state_number))[1].values()))
        assert len(rewards) == 32
        means.append(np.mean(rewards, 0))
    spread = 4 * np.std(means, 0) / np.sqrt(len(means))
    assert np.all(np.abs(np.mean(means, 0) - list(exact.values.values())) < spread)


def test_a_role_against_the_references_gets_its_own_reward() -> None:
    alone, joint = RoleEnv("policy"), parallel_env()
    observation, _ = alone.reset(seed=5)
    joint.reset(seed=5)
    truncated = False
    for _ in range(32):
        assert not truncated
        number = int(np.flatnonzero((joint._tables.observation == observation).all(1))[0])  # noqa: SLF001
        joint._state = number  # noqa: SLF001 - the same state, whatever chance each has drawn
        expected = joint.step({**references(number), "policy": 2})[1]["policy"]
        observation, reward, terminated, truncated, _ = alone.step(2)
        assert reward == pytest.approx(expected, abs=1e-12)
        assert not terminated
    assert truncated


@pytest.mark.parametrize(
    ("role", "action", "why"),
    [
        ("policy", 4, "policy has the actions 0 to 3, not 4"),
        ("ethical", -1, "ethical has the actions 0 to 2, not -1"),
        ("resource", np.array([1.5]), "resource gives a capacity from 0 to 1, not 1.5"),
        ("resource", np.array([np.nan]), "not nan"),
    ],
)
def test_an_action_that_a_role_does_not_have_is_refused_by_name(role: str, action: Any, why: str) -> None:
    env = parallel_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=why):
        env.step({**references(env.state_number), role: action})
