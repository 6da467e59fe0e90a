"""Deep Q-learning over the member axis: right by oracle, each lane its own, and every hyperparameter where it acts."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tars.agents import dqn
from tars.agents.algorithm import Lane
from tars.agents.dqn import DQN, STRUCTURE, WARM_UP
from tars.agents.environments import COPIES, RoleEnvironment
from tars.schemas.hyperparameters import DQN as DECLARED
from tars.schemas.hyperparameters import Value

torch.set_num_threads(1)
GAME = dict(DECLARED.game_defaults)
SMALL = GAME | {"batch_size": 8, "buffer_size": 1024, "learning_starts": 32}


def population(*lanes: dict[str, Value], seeds: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> DQN:
    environment = RoleEnvironment("policy", dtype)
    numbers = seeds or tuple(range(len(lanes)))
    return DQN(environment, [Lane(s, {**SMALL, **hp}) for s, hp in zip(numbers, lanes, strict=True)], dtype=dtype)


def weights(learner: DQN) -> Tensor:
    return torch.cat([learner._online.flat, learner._target.flat], 1)  # noqa: SLF001


def train(learner: DQN, episodes: int) -> DQN:
    for _ in range(episodes):
        learner.episode()
    return learner


def plain_step(learner: DQN, member: int, rows: Tensor) -> Tensor:
    """The paper's gradient for one member, by plain torch.nn modules; returns it flat."""
    environment = learner._environment  # noqa: SLF001
    online, target = (module_of(stack.layers, member) for stack in (learner._online, learner._target))  # noqa: SLF001
    state, after, action = rows[:, :3].long().unbind(-1)
    with torch.no_grad():
        best = target(environment.observe(after[None])[0]).max(-1).values
        y = rows[:, 3] + learner.read(member, "gamma") * best
    taken = online(environment.observe(state[None])[0])[torch.arange(len(rows)), action]
    loss: Tensor = nn.functional.smooth_l1_loss(taken, y)
    loss.backward()  # type: ignore[no-untyped-call] # torch's
    linears = [module for module in online if isinstance(module, nn.Linear)]
    grads = [(linear.weight.grad, linear.bias.grad) for linear in linears]
    return torch.cat(
        [part for w, bias in grads if w is not None and bias is not None for part in (w.T.flatten(), bias)]
    )


def module_of(layers: list[tuple[Tensor, Tensor]], member: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[2], dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight[member].T.clone(), bias[member, 0].clone()
        modules += [linear, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def test_each_members_gradient_is_the_papers() -> None:
    learner = train(population({}, {"gamma": 0.9}, {"gamma": 0.99}, dtype=torch.float64), 2)
    pick = torch.rand(3, 8, dtype=torch.float64)
    rows = learner._buffer.sample(pick)  # noqa: SLF001
    state, after, action = rows[..., :3].long().unbind(-1)
    observe = learner._environment.observe  # noqa: SLF001
    target = dqn.td_target(rows[..., 3], learner._target(observe(after)), learner._columns["gamma"])  # noqa: SLF001
    ours = learner._online.gradient(dqn.loss(learner._online.tracked(observe(state)), action, target).sum())  # noqa: SLF001
    for member in range(3):
        assert torch.allclose(ours[member], plain_step(learner, member, rows[member]), atol=1e-9)


def test_a_lane_in_a_crowd_learns_what_it_learns_alone() -> None:
    lanes: list[dict[str, Value]] = [{"learning_rate": 10**-k, "gamma": 0.9 + 0.01 * k} for k in range(2, 6)]
    crowd = train(population(*lanes), 3)
    for member in (0, 3):
        alone = train(population(lanes[member], seeds=(member,)), 3)
        assert torch.allclose(weights(alone)[0], weights(crowd)[member], atol=1e-6)


def test_other_lanes_change_nothing_to_the_last_bit_not_even_by_diverging() -> None:
    calm = train(population({}, {}, {}), 3)
    wild = train(population({}, {"learning_rate": math.inf}, {}), 3)
    assert wild.finite().tolist() == [True, False, True]
    for member in (0, 2):
        assert torch.equal(weights(calm)[member], weights(wild)[member])


def test_a_refilled_lane_is_a_fresh_one_even_after_divergence() -> None:
    fresh = train(population({}, {"gamma": 0.9}, seeds=(1, 99)), 2)
    used = train(population({}, {"learning_rate": math.inf}, seeds=(1, 5)), 2)
    used.refill(1, Lane(99, {**SMALL, "gamma": 0.9}))
    train(used, 2)
    assert torch.equal(weights(fresh)[1], weights(used)[1])


def test_exploration_falls_on_a_line_and_then_stays() -> None:
    for step in (0, 1, 100, 320, 5000):
        done = min(step / (0.2 * WARM_UP), 1.0)
        expected = 1.0 + done * (0.05 - 1.0)
        columns = (torch.tensor(1.0), torch.tensor(0.05), torch.tensor(0.2))
        assert float(dqn.epsilon(torch.tensor(step), *columns)) == pytest.approx(expected)


def test_lanes_of_unlike_structure_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="must share batch_size, buffer_size, train_freq, gradient_steps"):
        population({}, {"batch_size": 16})
    with pytest.raises(ValueError, match="batch_size is shared"):
        population({}, {}).write(0, "batch_size", 16)


NEW: dict[str, Value] = {
    "learning_rate": 5e-4, "gamma": 0.9, "tau": 0.5, "target_update_interval": 64, "max_grad_norm": 0.5,
    "exploration_initial_eps": 0.8, "exploration_final_eps": 0.1, "exploration_fraction": 0.4, "learning_starts": 0,
    "batch_size": 16, "buffer_size": 512, "train_freq": 2, "gradient_steps": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED.names)
def test_a_written_value_is_read_back_from_its_moment_on_and_weights_and_buffer_stay(name: str) -> None:
    learner = train(population({}), 3)
    before, stored = learner.weights_hash(0), learner.stored(0)
    learner.write(0, name, NEW[name])
    if learner.TAKES_EFFECT[name] != "live":
        assert learner.read(0, name) == pytest.approx(SMALL[name])
        learner.begin()
    assert learner.read(0, name) == pytest.approx(NEW[name])
    assert learner.weights_hash(0) == before
    assert learner.stored(0) == (512 if name == "buffer_size" else stored)


def effect_of(name: str, watch: Callable[[DQN], object]) -> tuple[object, object]:
    """What is watched in an episode without, and with, the new value; everything else equal."""
    found = []
    for value in (SMALL[name], NEW[name]):
        learner = train(population({}), 3)
        learner.write(0, name, value)
        found.append(watch(learner))
    return found[0], found[1]


def steps_of_an_episode(learner: DQN) -> int:
    before = learner.gradient_steps(0)
    learner.episode()
    return learner.gradient_steps(0) - before


def weights_after_one_step(learner: DQN) -> list[float]:
    learner.begin()
    learner.step()
    return weights(learner)[0].tolist()


def rows_of_a_draw(learner: DQN) -> int:
    learner.begin()
    return learner._picks.shape[-1]  # noqa: SLF001


def share_explored(learner: DQN) -> float:
    learner._vector_steps[:] = 0  # noqa: SLF001
    learner.begin()
    return float(torch.stack(list(learner._explores)).double().mean())  # noqa: SLF001


@pytest.mark.parametrize("name", ["learning_rate", "gamma", "tau", "max_grad_norm", "target_update_interval"])
def test_a_live_value_changes_the_very_next_gradient_step(name: str) -> None:
    without, with_it = effect_of(name, weights_after_one_step)
    assert without != with_it


def test_structural_values_change_the_next_episode() -> None:
    assert effect_of("train_freq", steps_of_an_episode) == (32, 16)
    assert effect_of("gradient_steps", steps_of_an_episode) == (32, 64)
    assert effect_of("batch_size", rows_of_a_draw) == (8, 16)


def test_exploration_values_change_the_next_episode() -> None:
    without, with_it = effect_of("exploration_initial_eps", share_explored)
    assert isinstance(without, float)
    assert isinstance(with_it, float)
    assert with_it < without - 0.1


def test_no_gradient_step_is_made_before_learning_starts() -> None:
    learner = train(population({"learning_starts": 33 * COPIES}), 1)
    assert learner.gradient_steps(0) == 0
    learner.episode()
    assert learner.gradient_steps(0) == 31


def test_an_evaluation_repeats_and_estimates_the_exact_score() -> None:
    learner = train(population({}, {}), 4)
    first, again = (learner.evaluate(20, [7, 8]) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.allclose(learner.evaluate(400, [1, 2]).double(), learner.exact_score(), atol=0.15)


def test_every_key_of_the_declaration_acts_somewhere() -> None:
    assert set(DQN.TAKES_EFFECT) == set(DECLARED.names)
    assert DQN.structure(SMALL) == tuple(SMALL[name] for name in STRUCTURE)
    for declared in DECLARED.hyperparameters:
        assert declared.takes_effect["ours"] == DQN.TAKES_EFFECT[declared.name]


@pytest.mark.slow
def test_it_learns_with_the_games_defaults_and_not_with_a_bad_learning_rate() -> None:
    good = train(DQN(RoleEnvironment("policy"), [Lane(seed, GAME) for seed in range(10)]), 50).exact_score()
    bad = train(
        DQN(RoleEnvironment("policy"), [Lane(s, GAME | {"learning_rate": 1e-6}) for s in range(5)]), 50
    ).exact_score()
    assert float((good >= 0.5).double().mean()) >= 0.8
    assert float(bad.max()) < 0.2
