"""A change without any server: applied, watched against the learner's own past, kept or taken back whole."""

import math
from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn, optim

import tars
from sb3_models import At, model_of
from tars.agents.attach import Link
from tars.agents.checkpoint import BadSnapshot
from tars.agents.learner_state import Snapshot
from tars.agents.local_watch import Attempt

torch.set_num_threads(1)
WATCHED = 20


class Learner:
    """A plain loop whose returns are told to it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.args = Namespace(gamma=0.99, clip_coef=0.2)
        self.net, self.target = nn.Linear(3, 2), nn.Linear(3, 2)
        self.optimizer = optim.Adam(self.net.parameters(), lr=1e-2)
        self.chance = torch.Generator().manual_seed(1)
        self.link = tars.attach(
            optimizer=self.optimizer, hyperparameters=self.args, modules=[self.net, self.target], broker=None
        )

    def learn(self) -> float:
        """One iteration; return the discount that it used."""
        self.optimizer.zero_grad()
        loss: Any = self.net(torch.ones(3)).square().sum() * self.args.gamma
        loss.backward()
        self.optimizer.step()
        return float(self.args.gamma)

    def run(self, level: float, episodes: int, before_step: Callable[[], object] = lambda: None) -> None:
        """So many iterations, each an episode that returns about `level`."""
        for _ in range(episodes):
            self.learn()
            before_step()
            self.link.step(episode_return=level + float(torch.randn((), generator=self.chance)))

    def learnt(self) -> list[Any]:
        kept = [*self.net.parameters(), *(v for s in self.optimizer.state.values() for v in s.values())]
        return [tensor.detach().clone() for tensor in kept]


def same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_change_that_makes_the_learner_better_is_kept_with_its_effect() -> None:
    learner = Learner()
    learner.run(10.0, 40)
    attempt = learner.link.apply({"gamma": 0.9}, watch=WATCHED)
    learner.run(16.0, 2)
    assert attempt.state == "watching"
    learner.run(16.0, WATCHED)
    assert attempt.state == "kept"
    assert attempt.effect == pytest.approx(6.0, abs=1.5)
    assert attempt.interval is not None
    assert attempt.interval[0] < 6.0 < attempt.interval[1]
    assert learner.args.gamma == 0.9
    assert attempt.over


def test_one_that_changes_nothing_to_be_seen_is_kept_unproven_or_undone_as_not_shown_safe() -> None:
    found = set()
    for seed in range(12):
        learner = Learner()
        learner.chance.manual_seed(seed)
        learner.run(10.0, 40)
        attempt = learner.link.apply({"gamma": 0.9}, watch=5)
        learner.run(10.0, 8)
        found.add(attempt.state.rpartition(": ")[0] or attempt.state)
    assert found == {"kept, not proven", "undone: not shown safe"}


def test_a_collapse_is_undone_within_some_episodes_values_weights_and_optimiser() -> None:
    learner = Learner()
    learner.run(10.0, 40)
    attempt = learner.link.apply({"gamma": 0.9}, watch=200)
    before: list[Any] = []
    learner.run(10.0, 1, lambda: before.extend(learner.learnt()))
    learner.run(-20.0, 1)
    steps = 1
    while not attempt.state.startswith("undone"):
        learner.run(-20.0, 1)
        steps += 1
    assert steps <= 5
    assert attempt.state.startswith("undone: collapse")
    assert learner.args.gamma == 0.99
    assert type(learner.args) is Namespace
    assert learner.link.problems == ()


def test_what_is_taken_back_is_what_was_before_to_the_bit() -> None:
    learner = Learner()
    learner.run(10.0, 40)
    learner.link.apply({"gamma": 0.9}, watch=200)
    before, digest = learner.learnt(), learner.link.weights_hash
    learner.link.step()  # written here: nothing was learnt since
    learner.run(-20.0, 4)  # the first one proves that the loop reads the new value
    back = learner.learnt()
    assert same(back, before)
    assert learner.link.weights_hash == digest


def test_weights_that_are_no_numbers_go_back_before_they_act() -> None:
    learner = Learner()
    learner.run(10.0, 40)
    attempt = learner.link.apply({"gamma": 0.9}, watch=200)
    learner.run(10.0, 2)

    def spoil() -> None:
        for parameter in learner.net.parameters():
            parameter.grad = torch.full_like(parameter, math.nan)
        learner.optimizer.step()
        assert all(bool(parameter.isfinite().all()) for parameter in learner.net.parameters())

    learner.run(10.0, 1, spoil)
    learner.run(10.0, 2)
    assert attempt.state.startswith("undone: diverged")
    assert learner.args.gamma == 0.99


def test_a_watch_waits_until_it_knows_what_was_before() -> None:
    learner = Learner()
    learner.run(10.0, 10)
    attempt = learner.link.apply({"gamma": 0.9}, watch=WATCHED)
    learner.run(10.0, 5)
    assert attempt.state == "waiting: 15 of 30 episodes before the change"
    assert learner.args.gamma == 0.99
    learner.run(10.0, 20)
    assert attempt.state == "watching"


def test_one_change_is_watched_at_a_time_and_a_watch_too_short_refused() -> None:
    learner = Learner()
    learner.run(10.0, 40)
    first = learner.link.apply({"gamma": 0.9}, watch=WATCHED)
    assert learner.link.apply({"gamma": 0.8}).state.startswith("refused: another change is under way")
    learner.run(10.0, WATCHED + 3)
    assert first.over
    assert "at least 5 episodes" in learner.link.apply({"gamma": 0.95}, watch=2).state
    assert learner.link.apply(learner.link.values).state == "refused: these values are in use already"


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_a_model_that_a_change_breaks_gets_everything_back(algorithm: str) -> None:
    """The learner's gradients are poisoned while the new values run; it must act on its old weights again."""
    model = model_of(algorithm)
    link, found = tars.attach(model, broker=None), list[Attempt]()
    change: dict[str, Any] = {"ppo": {"n_steps": 64, "gamma": 0.9}, "dqn": {"gamma": 0.9, "buffer_size": 1000}}[
        algorithm
    ]

    def poison(optimizer: Any, *_: Any) -> None:
        if found and link.values["gamma"] == 0.9:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.full_like(parameter, math.nan)

    model.policy.optimizer.register_step_pre_hook(poison)
    before = link.values
    model.learn(3000, callback=[At(1500, lambda: found.append(link.apply(change, watch=50))), link.callback()])
    (attempt,) = found
    assert attempt.state.startswith("undone: diverged")
    assert link.values == before
    assert all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())
    assert link.problems == ()


@pytest.mark.parametrize("algorithm", ["dqn", "a2c", "ppo", "ddpg"])
def test_a_model_goes_on_from_a_snapshot_as_the_first_one_did(algorithm: str) -> None:
    """In a new process: weights, targets, optimisers, counters, values and stored rows make the same next steps."""
    model = model_of(algorithm)
    link = tars.attach(model, broker=None)
    model.learn(200, callback=link.callback())
    link.apply({"gamma": 0.9, "learning_rate": 2e-3})
    snapshot = Snapshot.parse(link.snapshot(buffer=link._learner.adapter.stored > 0).dump())  # noqa: SLF001
    other = model_of(algorithm)
    new = tars.attach(other, broker=None)
    assert new.weights_hash != link.weights_hash
    assert new.restore(snapshot, clock=True).state == "restored"
    assert new.weights_hash == link.weights_hash == snapshot.weights_hash
    assert new.values == link.values
    assert other.num_timesteps == model.num_timesteps
    hashes = []
    for each, its in ((model, link), (other, new)):
        each.set_random_seed(5)
        each.learn(64, callback=its.callback(), reset_num_timesteps=each is model)
        hashes.append(its.weights_hash)
    del hashes  # the environments' states differ; what the learners do with equal rows is compared below
    assert same(_next_step(model, snapshot, link), _next_step(other, snapshot, new))


def _next_step(model: Any, snapshot: Snapshot, link: Link) -> list[Any]:
    """Weights after one gradient step from the snapshot, on rows and chance that are the same for everyone."""
    assert link.restore(snapshot, clock=True).state == "restored"
    model.set_random_seed(7)
    if hasattr(model, "rollout_buffer"):
        rows = model.rollout_buffer
        rows.reset()
        torch.manual_seed(3)
        for name in ("observations", "advantages", "returns", "values", "log_probs"):
            getattr(rows, name)[:] = torch.randn(getattr(rows, name).shape).numpy()
        rows.full = True
        model.train()
    else:
        model.train(gradient_steps=1, batch_size=16)
    return [tensor.clone() for tensor in model.policy.state_dict().values()]


def test_a_snapshot_goes_to_disk_and_back_and_another_learners_is_refused(tmp_path: Any) -> None:
    learner = Learner()
    learner.run(10.0, 3)
    path = tmp_path / "snapshot.safetensors"
    learner.link.snapshot().save(path)
    before, digest = learner.learnt(), learner.link.weights_hash
    learner.run(10.0, 3)
    back = learner.link.restore(Snapshot.load(path))
    learner.link.step()
    assert back.state == "restored"
    assert same(learner.learnt(), before)
    assert learner.link.weights_hash == digest
    model = tars.attach(model_of("ppo"), broker=None)
    assert "refused" in model.restore(Snapshot.load(path)).state
    path.write_bytes(b"not a snapshot")
    with pytest.raises(BadSnapshot, match="no snapshot of a learner"):
        Snapshot.load(path)
    with pytest.raises(BadSnapshot, match="a loop's buffer is its own"):
        learner.link.snapshot(buffer=True)


def test_a_snapshot_is_no_pickle() -> None:
    data = tars.attach(model_of("dqn"), broker=None).snapshot().dump()
    assert int.from_bytes(data[:8], "little") < 1 << 16  # a safetensors header
    assert b"cpickle" not in data.lower()
    assert Snapshot.parse(data).dump() == data


def test_rows_that_are_not_finite_do_not_survive_a_restore() -> None:
    model = model_of("ddpg")
    link = tars.attach(model, broker=None)
    model.learn(100, callback=link.callback())
    snapshot = link.snapshot()
    model.replay_buffer.actions[90:95] = math.nan
    assert link.restore(snapshot).state == "restored"
    assert model.replay_buffer.size() == 95
    model.learn(40, callback=link.callback())
    assert link._learner.adapter.is_finite(thorough=True)  # noqa: SLF001
