"""The reload matrix: every key of every algorithm in somebody else's learner, set while it trains.

Each is read back from where the learner uses it, and its effect is seen in what the training does afterwards: the rate
of the next gradient step, the size of the next sample, the next draw. Weights and stored transitions stay. What cannot
be changed is refused, and the learner goes on with what it had. Our own engine's matrix: tests/agents/test_reloads.py.
"""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
import torch

import tars
from loops import LOOPS
from sb3_models import At, Uses, model_of, recorded, spy
from tars.agents.attach import Link
from tars.agents.host import Applied
from tars.agents.local_watch import Attempt
from tars.schemas.hyperparameters import ALGORITHMS, Value, same

LENGTH: Final = 400
CHANGED_AT: Final = 200
torch.set_num_threads(1)
pytestmark = pytest.mark.slow


@dataclass
class Run:
    """A model that was changed while it trained."""

    model: Any
    link: Link
    attempt: Attempt
    uses: Uses

    @property
    def value(self) -> Any:
        """What the one key was set to."""
        (value,) = self.attempt.values.values()
        return value

    @property
    def applied(self) -> Applied:
        assert isinstance(self.attempt.outcome, Applied), self.attempt.state
        return self.attempt.outcome

    def gaps(self, steps: list[Any]) -> set[int]:
        return {int(gap) for gap in np.diff(steps)}


class Marks:
    """Hears of every change of values, as TensorBoard would, and marks that moment."""

    uses: Uses | None = None

    def add_scalar(self, tag: str, scalar_value: Any, global_step: Any = None) -> None:
        if self.uses is not None:
            self.uses.mark()


def changed(algorithm: str, change: dict[str, Value], length: int = LENGTH, **values: Any) -> Run:
    """Train a model, change it in the middle, train on."""
    model, writer = model_of(algorithm, **values), Marks()
    link = tars.attach(model, broker=None, writer=writer)
    found: list[Attempt] = []
    with recorded(model) as uses:
        writer.uses = uses

        def change_it() -> None:
            found.append(link.apply(change))

        model.learn(length, callback=[At(CHANGED_AT // model.n_envs, change_it), link.callback()])
    assert link.problems == ()
    return Run(model, link, found[0], uses)


def discount(run: Run) -> None:
    """What a target is made of when every next state is worth 1 and no reward is paid."""
    gamma = run.value
    rows = run.model.replay_buffer
    rows.rewards[:] = 0.0
    rows.dones[:] = 0.0
    targets = _targets(run.model)
    assert targets == pytest.approx(np.full(len(targets), gamma), abs=1e-6)


def _targets(model: Any) -> Any:
    """The targets of one gradient step whose target network says 1 everywhere."""
    target = model.q_net_target if hasattr(model, "q_net_target") else model.critic_target
    for parameter in target.parameters():
        parameter.data.zero_()
    list(target.parameters())[-1].data.fill_(1.0)
    module = __import__(type(model).train.__module__, fromlist=["F"])
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("smooth_l1_loss", "mse_loss"):
            spy(patch, module.F, name, lambda _, wanted: seen.append(wanted.numpy().ravel()))
        model.train(gradient_steps=1, batch_size=16)
    return seen[0]


def advantages(run: Run) -> None:
    """The last rollout's advantages are those of GAE with the values that were set."""
    rows = run.model.rollout_buffer
    whole: dict[str, Any] = {**run.link.values, **run.attempt.values}
    shape = (rows.n_envs, rows.buffer_size)  # flattened by train(), environment by environment
    rewards, starts = rows.rewards.T, rows.episode_starts.T
    values, found = rows.values.reshape(shape), rows.advantages.reshape(shape)
    for step in range(rows.buffer_size - 2):  # the last two hang on the state after the rollout
        alive = 1 - starts[:, step + 1]
        delta = rewards[:, step] + whole["gamma"] * values[:, step + 1] * alive - values[:, step]
        expected = delta + whole["gamma"] * whole["gae_lambda"] * alive * found[:, step + 1]
        assert found[:, step] == pytest.approx(expected, abs=1e-4)


def loss_parts(run: Run) -> None:
    """The loss of the last gradient step is the sum of its logged parts, weighted as was set."""
    logged = run.model.logger.name_to_value
    whole: dict[str, Any] = {**run.link.values, **run.attempt.values}
    policy = logged.get("train/policy_gradient_loss", logged.get("train/policy_loss"))
    expected = policy + whole["ent_coef"] * logged["train/entropy_loss"] + whole["vf_coef"] * logged["train/value_loss"]
    assert run.uses.after("loss")[-1] == pytest.approx(expected, rel=1e-4)


def rates(*networks: str) -> Callable[[Run], None]:
    """Every gradient step of these networks is made with the new rate, and of no other."""

    def check(run: Run) -> None:
        value = run.value
        for network in ("policy", "actor", "critic"):
            used = set(run.uses.after(f"{network} rate"))
            assert used in ({value}, set()) if network in networks else value not in used
        assert any(run.uses.after(f"{network} rate") for network in networks)

    return check


def used(what: str, value: Callable[[Any], Any] = lambda v: v) -> Callable[[Run], None]:
    """Everything of that kind that was used afterwards is the new value, and was another one before."""

    def check(run: Run) -> None:
        new = run.value
        assert set(run.uses.after(what)) == {value(new)}
        assert value(new) not in run.uses.before(what)

    return check


def explores(run: Run) -> None:
    """Of the actions afterwards, as many are drawn blindly as the schedule says."""
    assert run.model.exploration_rate == pytest.approx(run.model.exploration_schedule(0.0))
    blind = 1 - len(run.uses.after("greedy")) / (LENGTH - CHANGED_AT)
    progress = np.linspace(0.5, 1.0, LENGTH - CHANGED_AT)
    whole: dict[str, Any] = {**run.link.values, **run.attempt.values}
    first, last, fraction = (whole[f"exploration_{part}"] for part in ("initial_eps", "final_eps", "fraction"))
    assert blind == pytest.approx(np.interp(progress, [0, fraction], [first, last]).mean(), abs=0.08)


def keeps(run: Run) -> None:
    """The buffer has the new size, the newest rows, and wraps where it ends."""
    rows = run.model.replay_buffer
    assert rows.buffer_size == run.value
    assert rows.full
    assert (
        bool(rows.dones[rows.pos - 1, 0])
        or run.model._last_obs[0] == pytest.approx(rows.next_observations[rows.pos - 1, 0])  # noqa: SLF001
    )


def starts_learning(run: Run) -> None:
    """Nothing was learnt before, and something is afterwards."""
    assert run.uses.before("train") == []
    assert run.uses.after("train")


def syncs(run: Run) -> None:
    """The target network moves every so many steps."""
    pairs = len(run.uses.after("tau")) / 2  # parameters, and statistics of norms
    assert pairs == pytest.approx((LENGTH - CHANGED_AT) / run.value, abs=1)


def trains_every(run: Run) -> None:
    """So many steps lie between two rounds of gradient steps."""
    assert run.gaps([call[0] for call in run.uses.after("train")][1:]) == {run.value}


def rounds(run: Run) -> None:
    """A round makes so many gradient steps."""
    calls = [dict(call[1:]) for call in run.uses.after("train")]
    assert {call["gradient_steps"] for call in calls} == {run.value}


def collects(run: Run) -> None:
    """So many steps lie between two rounds."""
    assert run.gaps([call[0] for call in run.uses.after("train")]) == {run.value}


def epochs(run: Run) -> None:
    """Each rollout is passed over so often."""
    steps = len(run.uses.after("loss")) / len(run.uses.after("train"))
    assert steps == run.value * 2  # minibatches of a rollout


def stops_early(run: Run) -> None:
    """Most rounds end before all their minibatches."""
    assert len(run.uses.before("loss")) == len(run.uses.before("train")) * 4
    assert len(run.uses.after("loss")) < len(run.uses.after("train")) * 4


def minibatches(run: Run) -> None:
    """A round makes as many gradient steps as minibatches of that size fit."""
    rounds_made = len(run.uses.after("train"))
    assert len(run.uses.after("loss")) == rounds_made * 2 * 32 // run.value


def spreads(run: Run) -> None:
    """The noise that acts has that width."""
    drawn = np.array([run.model.action_noise() for _ in range(800)])
    assert np.sqrt(np.mean(np.square(drawn))) == pytest.approx(run.value, rel=0.1)


def moves_targets(run: Run) -> None:
    """SB3 moves parameters by tau, and statistics of norms by 1 always."""
    assert set(run.uses.after("tau")) == {run.value, 1.0}
    assert run.value not in run.uses.before("tau")


def clips(run: Run) -> None:
    """The ratio is clamped to 1 -+ clip_range; nothing else is clamped on both sides."""
    clip = run.value
    assert {limits for limits in run.uses.after("clamp") if limits} == {(1 - clip, 1 + clip)}


Effect = Callable[[Run], None]
SHARED: Final[dict[str, tuple[Value, Effect]]] = {
    "learning_rate": (5e-3, rates("policy", "actor", "critic")),
    "gamma": (0.9, discount),
    "batch_size": (24, used("sample")),
    "buffer_size": (120, keeps),
    "tau": (0.3, moves_targets),
    "train_freq": (8, trains_every),
    "gradient_steps": (3, rounds),
    "max_grad_norm": (0.123, used("norm")),
    "ent_coef": (0.05, loss_parts),
    "vf_coef": (0.9, loss_parts),
}
CELLS: Final[dict[tuple[str, str], tuple[Value, Effect, dict[str, Any]]]] = {
    **{(a, name): (*SHARED[name], {}) for a in ALGORITHMS for name in ALGORITHMS[a].names if name in SHARED},
    ("dqn", "exploration_initial_eps"): (0.6, explores, {"exploration_fraction": 1.0}),
    ("dqn", "exploration_final_eps"): (0.5, explores, {}),
    ("dqn", "exploration_fraction"): (0.9, explores, {}),
    ("dqn", "target_update_interval"): (10, syncs, {}),
    ("dqn", "learning_starts"): (20, starts_learning, {"learning_starts": 5000}),
    ("ddpg", "learning_starts"): (20, starts_learning, {"learning_starts": 5000}),
    ("ddpg", "actor_learning_rate"): (2e-4, rates("actor"), {}),
    ("ddpg", "critic_learning_rate"): (3e-3, rates("critic"), {}),
    ("ddpg", "noise_sigma"): (0.5, spreads, {}),
    **{(a, name): (0.9, advantages, {}) for a in ("a2c", "ppo") for name in ("gamma", "gae_lambda")},
    ("a2c", "n_steps"): (24, collects, {}),
    ("ppo", "n_steps"): (48, collects, {}),
    ("ppo", "clip_range"): (0.05, clips, {}),
    ("ppo", "target_kl"): (1e-4, stops_early, {"learning_rate": 1e-2}),
    ("ppo", "n_epochs"): (5, epochs, {}),
    ("ppo", "batch_size"): (8, minibatches, {}),
    **{("ppo", name): (*SHARED[name], {"batch_size": 32, "n_epochs": 1}) for name in ("ent_coef", "vf_coef")},
}
"""(algorithm, key): the new value, where its effect is seen, and values that the model begins with."""


def test_the_matrix_has_every_key() -> None:
    assert set(CELLS) == {(a, name) for a in ALGORITHMS for name in ALGORITHMS[a].names}


@pytest.mark.parametrize(("algorithm", "name"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_a_key_of_a_model_that_trains_is_read_back_and_used_and_what_was_learnt_stays(
    algorithm: str, name: str
) -> None:
    value, effect, values = CELLS[algorithm, name]
    run = changed(algorithm, {name: value}, **values)
    assert run.attempt.state == "applied"
    assert same(run.applied.effective[name], value)
    assert same(run.link.values[name], value)
    assert run.applied.weights_before == run.applied.weights_after
    kept = run.applied.buffer_before if name != "buffer_size" else value
    assert run.applied.buffer_after == kept
    effect(run)
    run.link.close()


LoopEffect = Callable[[Uses, Any], None]


def looped(what: str) -> LoopEffect:
    """Everything of that kind that the loop used afterwards is the new value."""

    def check(uses: Uses, value: Any) -> None:
        assert set(uses.after(what)) == {value}
        assert value not in uses.before(what)

    return check


def loop_gaps(what: str) -> LoopEffect:
    """So many iterations lie between two of that kind."""

    def check(uses: Uses, value: Any) -> None:
        assert {int(gap) for gap in np.diff(uses.after(what))} == {value}

    return check


def first_epsilon(value: float) -> LoopEffect:
    """The loop's schedule gives this at the next step."""

    def check(uses: Uses, _: Any) -> None:
        assert uses.after("epsilon")[0] == pytest.approx(value, abs=0.01)

    return check


def loop_epochs(uses: Uses, value: Any) -> None:
    assert len(uses.after("epoch")) == value * len(uses.after("iteration"))


def loop_stops(uses: Uses, _: Any) -> None:
    assert not uses.before("stopped")
    assert uses.after("stopped")


def both_rates(uses: Uses, value: Any) -> None:
    assert set(uses.after("actor rate") + uses.after("critic rate")) == {value}


def loop_learns(uses: Uses, _: Any) -> None:
    assert not uses.before("train") + uses.before("sample")
    assert uses.after("sample")


ADVANTAGE: Final[dict[str, tuple[Value, LoopEffect, dict[str, Any]]]] = {
    "learning_rate": (5e-3, looped("rate"), {}),
    "gamma": (0.9, looped("gamma"), {}),
    "gae_lambda": (0.9, looped("gae_lambda"), {}),
    "ent_coef": (0.05, looped("ent_coef"), {}),
    "vf_coef": (0.9, looped("vf_coef"), {}),
    "max_grad_norm": (0.123, looped("norm"), {}),
}
LOOP_CELLS: Final[dict[tuple[str, str], tuple[Value, LoopEffect, dict[str, Any]]]] = {
    **{(a, name): cell for a in ("ppo", "a2c") for name, cell in ADVANTAGE.items()},
    ("ppo", "clip_range"): (0.05, looped("clip"), {}),
    ("ppo", "target_kl"): (1e-4, loop_stops, {"learning_rate": 1e-2}),
    ("ppo", "n_epochs"): (5, loop_epochs, {}),
    ("ppo", "batch_size"): (16, looped("minibatch"), {}),
    ("dqn", "learning_rate"): (5e-3, looped("rate"), {}),
    ("dqn", "gamma"): (0.9, looped("gamma"), {}),
    ("dqn", "tau"): (0.3, looped("tau"), {}),
    ("dqn", "batch_size"): (24, looped("sample"), {}),
    ("dqn", "exploration_initial_eps"): (0.5, first_epsilon(0.05 + 0.45 * (1 - 130 / 150)), {}),
    ("dqn", "exploration_final_eps"): (0.5, first_epsilon(0.5 + 0.5 * (1 - 130 / 150)), {}),
    ("dqn", "exploration_fraction"): (0.9, first_epsilon(0.05 + 0.95 * (1 - 130 / 270)), {}),
    ("dqn", "learning_starts"): (20, loop_learns, {"learning_starts": 5000}),
    ("dqn", "target_update_interval"): (10, loop_gaps("sync"), {}),
    ("dqn", "train_freq"): (2, loop_gaps("train"), {}),
    ("ddpg", "learning_rate"): (5e-3, both_rates, {}),
    ("ddpg", "actor_learning_rate"): (2e-4, looped("actor rate"), {}),
    ("ddpg", "critic_learning_rate"): (3e-3, looped("critic rate"), {}),
    ("ddpg", "gamma"): (0.9, looped("gamma"), {}),
    ("ddpg", "tau"): (0.3, looped("tau"), {}),
    ("ddpg", "noise_sigma"): (0.5, looped("sigma"), {}),
    ("ddpg", "batch_size"): (24, looped("sample"), {}),
    ("ddpg", "learning_starts"): (20, loop_learns, {"learning_starts": 5000}),
}
LOOP_REFUSED: Final[dict[tuple[str, str], str]] = {
    ("ppo", "n_steps"): "allocates its storage once",
    ("a2c", "n_steps"): "allocates its storage once",
    ("dqn", "buffer_size"): "allocates its buffer once",
    ("ddpg", "buffer_size"): "allocates its buffer once",
    ("dqn", "gradient_steps"): "the Namespace has no gradient_steps",
    ("dqn", "max_grad_norm"): "the Namespace has no max_grad_norm",
    ("ddpg", "train_freq"): "the Namespace has no train_freq",
    ("ddpg", "gradient_steps"): "the Namespace has no gradient_steps",
}


@dataclass
class Looped:
    """A loop that was changed while it ran."""

    link: Link
    attempt: Attempt
    uses: Uses
    args: Any


def loop_changed(algorithm: str, change: dict[str, Value], at: int | None = None, **values: Any) -> Looped:
    """Run a loop, change it after some iterations, run on."""
    loop, given = LOOPS[algorithm]
    args, uses, links, attempts = given(**values), Uses(), list[Link](), list[Attempt]()
    when = at or {"ppo": 5, "a2c": 5, "dqn": 130, "ddpg": 130}[algorithm]

    def attach(**parts: Any) -> Callable[..., None]:
        link = tars.attach(hyperparameters=args, algorithm=algorithm, broker=None, **parts)
        links.append(link)
        begun = 0

        def step(episode_return: float | None = None) -> None:
            nonlocal begun
            begun += 1
            if begun == when:
                attempts.append(link.apply(change))
                uses.mark()
            link.step(episode_return=episode_return)

        return step

    loop(args, attach, uses)
    assert links[0].problems == ()
    links[0].close()
    return Looped(links[0], attempts[0], uses, args)


def test_the_matrix_of_loops_has_every_key() -> None:
    assert set(LOOP_CELLS) | set(LOOP_REFUSED) == set(CELLS)


@pytest.mark.parametrize(("algorithm", "name"), LOOP_CELLS, ids=["-".join(cell) for cell in LOOP_CELLS])
def test_a_key_of_a_loop_is_read_by_it_and_used_and_what_was_learnt_stays(algorithm: str, name: str) -> None:
    value, effect, values = LOOP_CELLS[algorithm, name]
    run = loop_changed(algorithm, {name: value}, **values)
    assert run.attempt.state == "applied"
    assert isinstance(run.attempt.outcome, Applied)
    assert same(run.attempt.outcome.effective[name], value)
    assert run.attempt.outcome.weights_before == run.attempt.outcome.weights_after
    assert type(run.args).__name__ == "Namespace"
    assert type(run.args) is Namespace
    effect(run.uses, value)


@pytest.mark.parametrize(("algorithm", "name"), LOOP_REFUSED, ids=["-".join(cell) for cell in LOOP_REFUSED])
def test_a_key_that_a_loop_cannot_change_is_refused_with_the_reason(algorithm: str, name: str) -> None:
    run = loop_changed(algorithm, {name: 7, "gamma": 0.9})
    assert LOOP_REFUSED[algorithm, name] in run.attempt.state
    assert run.attempt.state.startswith("refused")
    assert any(name in note and LOOP_REFUSED[algorithm, name] in note for note in run.link.notes)
    assert set(run.uses.after("gamma")) == {0.99}
