"""Plain torch loops: what nobody reads is put back; annealing, schedulers, values behind functions, odd namespaces."""

import copy
import pickle
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, LRScheduler

import tars
from loops import dqn_args, ppo, ppo_args
from sb3_models import Uses
from tars.agents.adapters.adapter import CannotAttach
from tars.agents.attach import Link
from tars.agents.attached_learner import AttachedLearner
from tars.agents.local_watch import Attempt

torch.set_num_threads(1)


@dataclass
class Tiny:
    """A loop of one weight, which reads what it is told to read in each iteration."""

    args: Any
    reads: tuple[str, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)

    used: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the weight and its optimiser."""
        self.weight = nn.Parameter(torch.ones(3))
        self.optimizer: optim.Optimizer = optim.SGD([self.weight], lr=0.1)

    def attach(self, **given: Any) -> Link:
        optimizer = given.pop("optimizer", self.optimizer)
        self.link = tars.attach(optimizer=optimizer, hyperparameters=self.args, broker=None, **{**self.given, **given})
        return self.link

    def iterate(self, count: int = 1, *, learn: bool = True, after: Callable[[], object] = lambda: None) -> None:
        for _ in range(count):
            self.used.append({name: getattr(self.args, name) for name in self.reads})
            if learn:
                self.optimizer.zero_grad()
                loss: Any = self.weight.square().sum()
                loss.backward()
                self.used[-1]["rate"] = float(self.optimizer.param_groups[0]["lr"])
                self.optimizer.step()
            after()
            self.link.step()


def tiny(reads: tuple[str, ...] = ("gamma", "clip_coef"), **values: Any) -> Tiny:
    return Tiny(Namespace(learning_rate=0.1, clip_coef=0.2, gamma=0.99, ent_coef=0.01, **values), reads)


def begun(loop: Tiny, change: dict[str, Any], **given: Any) -> Attempt:
    """Attach, make an iteration, and ask for a change."""
    link = loop.attach(**given)
    loop.iterate()
    return link.apply(change)


def test_a_value_that_nobody_reads_has_no_effect_and_is_put_back() -> None:
    loop = tiny()
    attempt = begun(loop, {"gamma": 0.9, "ent_coef": 0.1})
    loop.iterate(2)
    why = "ent_coef: no effect, nothing read ent_coef in 1 iteration after it was set"
    assert attempt.state == f"refused: {why}"
    assert (loop.args.gamma, loop.args.ent_coef) == (0.99, 0.01)
    assert type(loop.args) is Namespace


def test_before_the_loop_learns_nothing_is_concluded_from_what_it_does_not_read_yet() -> None:
    loop = tiny(reads=())
    attempt = begun(loop, {"gamma": 0.9})
    loop.iterate(5, learn=False)
    assert not attempt.over
    loop.reads = ("gamma",)
    loop.iterate(1)
    assert attempt.state == "applied"


def test_what_is_read_only_at_target_updates_is_given_the_time_until_the_next_one() -> None:
    loop = Tiny(dqn_args(target_network_frequency=10), ("gamma",))
    attempt = begun(loop, {"tau": 0.5})
    loop.iterate(9)
    assert not attempt.over
    loop.reads = ("tau",)
    loop.iterate(1)
    assert attempt.state == "applied"
    attempt = begun(Tiny(dqn_args(target_network_frequency=3), ("gamma",)), {"tau": 0.5})
    assert not attempt.over


def test_a_loop_that_overwrites_the_value_is_found_out() -> None:
    loop = tiny()
    attempt = begun(loop, {"gamma": 0.9})
    loop.iterate(1)  # it is written at the end of this one
    loop.args.gamma = 0.95
    loop.iterate(1)
    assert attempt.state == "refused: gamma: the loop read 0.95"


def test_what_anneals_is_managed_by_its_start() -> None:
    args, uses, found = ppo_args(anneal_lr=True), Uses(), list[Attempt]()

    def attach(**parts: Any) -> Callable[..., None]:
        link = tars.attach(hyperparameters=args, broker=None, **parts)
        assert any("anneal_lr is on" in note for note in link.notes)

        def step(episode_return: float | None = None) -> None:
            if len(uses.after("iteration")) == 6 and not found:
                found.append(link.apply({"learning_rate": 2e-3}))
                uses.mark()
            link.step(episode_return=episode_return)

        return step

    ppo(args, attach, uses)
    assert found[0].state == "applied"
    assert uses.after("rate")[0] == pytest.approx(2e-3 * (1 - 6 / 12))
    assert uses.before("rate")[-1] == pytest.approx(1e-3 * (1 - 5 / 12))


def scheduled(scheduler: Callable[[optim.Optimizer], LRScheduler], *, given: bool = True) -> tuple[Tiny, Attempt]:
    loop = tiny()
    made = scheduler(loop.optimizer)
    attempt = begun(loop, {"learning_rate": 0.05}, **({"scheduler": made} if given else {}))
    loop.iterate(3, after=made.step)
    return loop, attempt


def test_schedulers_that_are_given_scale_the_new_rate() -> None:
    loop, attempt = scheduled(lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5**epoch))
    assert attempt.state == "applied"
    assert [used["rate"] for used in loop.used[2:]] == pytest.approx([0.05 * 0.5, 0.05 * 0.25])
    loop, attempt = scheduled(lambda optimizer: ExponentialLR(optimizer, 0.5))
    assert attempt.state == "applied"
    assert [used["rate"] for used in loop.used[2:]] == pytest.approx([0.05, 0.025])


def test_a_scheduler_that_is_not_given_is_found_out_and_one_that_is_not_known_refused() -> None:
    loop, attempt = scheduled(lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5**epoch), given=False)
    assert attempt.state.startswith("refused: learning_rate: something sets the rate anew, to 0.025")
    assert loop.args.learning_rate == 0.1
    _, attempt = scheduled(lambda optimizer: CosineAnnealingLR(optimizer, 10))
    assert "how a CosineAnnealingLR takes a new rate is not known" in attempt.state


def test_groups_with_other_rates_keep_their_ratios_and_a_tensor_keeps_its_identity() -> None:
    loop, rate = tiny(), torch.tensor(0.1)
    other = nn.Parameter(torch.ones(1))
    loop.optimizer = optim.Adam([{"params": [loop.weight], "lr": rate}, {"params": [other], "lr": 0.01}], foreach=False)
    attempt = begun(loop, {"learning_rate": 0.05})
    loop.iterate(2)
    assert attempt.state == "applied"
    assert loop.optimizer.param_groups[0]["lr"] is rate
    assert [float(group["lr"]) for group in loop.optimizer.param_groups] == pytest.approx([0.05, 0.005])


@dataclass(frozen=True)
class Frozen:
    """Cannot be written."""

    clip_coef: float = 0.2
    gamma: float = 0.99


@dataclass
class Args:
    """As tyro makes them."""

    clip_coef: float = 0.2
    gamma: float = 0.99


@dataclass(slots=True)
class Slotted:
    """Has no __dict__."""

    clip_coef: float = 0.2
    gamma: float = 0.99


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (Frozen(), "Frozen is a frozen dataclass"),
        (Slotted(), "reads of a Slotted cannot be counted"),
        (SimpleNamespace(clip_coef=0.2, gamma=0.99), "reads of a SimpleNamespace cannot be counted"),
        (Args, "Args is a class: give the object"),
        (Namespace(clip_coef=0.2, gamma="0.99"), "gamma is a str, not a number"),
    ],
)
def test_a_namespace_in_which_no_write_can_be_proven_is_refused_and_said_at_attach(args: Any, why: str) -> None:
    loop = Tiny(args)
    link = loop.attach(algorithm="ppo")
    assert any("gamma cannot be changed" in note and why in note for note in link.notes)
    assert why in link.apply({"gamma": 0.9}).state


def test_a_dataclass_can_be_changed_and_is_pickled_and_copied_as_itself_meanwhile() -> None:
    loop = Tiny(Args(), ("gamma",))
    attempt = begun(loop, {"gamma": 0.9})
    loop.iterate(1, after=lambda: None)
    assert pickle.loads(pickle.dumps(loop.args)) == Args(gamma=0.9)  # noqa: S301 - our own
    assert type(copy.copy(loop.args)) is Args
    loop.iterate(1)
    assert attempt.state == "applied"
    assert type(loop.args) is Args


def test_values_elsewhere_are_reached_by_keys() -> None:
    elsewhere, held = Namespace(discount=0.99), {"clip": 0.2, "steps": 128}
    loop = Tiny(Namespace(entropy=0.01), ("entropy",))
    keys = {
        "gamma": (elsewhere, "discount"),
        "clip_range": (lambda: held["clip"], lambda value: held.update(clip=value)),
        "n_steps": (lambda: held["steps"], lambda value: held.update(steps=value)),
        "ent_coef": "entropy",
    }
    link = loop.attach(algorithm="ppo", keys=keys)
    assert link.values == {"learning_rate": 0.1, "gamma": 0.99, "clip_range": 0.2, "n_steps": 128, "ent_coef": 0.01}
    loop.iterate()
    attempt = link.apply({"gamma": 0.9, "clip_range": 0.1, "n_steps": 64, "ent_coef": 0.05})
    loop.iterate()
    assert elsewhere.discount == 0.9
    loop.iterate(after=lambda: elsewhere.discount)
    assert attempt.state == "applied"
    assert held == {"clip": 0.1, "steps": 64}


def test_two_optimisers_have_rates_of_their_own_or_the_shared_one() -> None:
    args = Namespace(learning_rate=1e-3, exploration_noise=0.1)
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizers = {"actor": optim.Adam(weights[:1], lr=1e-3), "critic": optim.Adam(weights[1:], lr=2e-3)}
    link = Tiny(args).attach(optimizer=optimizers)
    own = {name: link.values[name] for name in ("learning_rate", "actor_learning_rate", "critic_learning_rate")}
    assert own == {"learning_rate": 1e-3, "actor_learning_rate": None, "critic_learning_rate": 2e-3}

    def learn() -> None:
        for weight, optimizer in zip(weights, optimizers.values(), strict=True):
            weight.grad = torch.ones(1)
            optimizer.step()
        link.step()

    learn()
    attempt = link.apply({"learning_rate": 5e-4, "critic_learning_rate": None})
    learn()
    learn()
    assert attempt.state == "applied"
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()] == [5e-4, 5e-4]
    assert args.learning_rate == 5e-4


def test_a_loop_that_is_none_is_told_what_is_missing() -> None:
    loop = tiny()
    for given, why in (
        ({"optimizer": {}}, "takes a torch optimiser, or several by name"),
        ({"algorithm": "sac"}, "algorithm = 'sac' is none of dqn, a2c, ppo, ddpg"),
        ({"keys": {"gama": "gamma"}}, "gama: no key of ppo"),
        ({"modules": [3]}, "takes torch modules"),
    ):
        with pytest.raises(CannotAttach, match=why):
            loop.attach(**given)
    with pytest.raises(CannotAttach, match="which algorithm is this"):
        Tiny(Namespace(gamma=0.9)).attach()
    with pytest.raises(CannotAttach, match=r"a plain loop has no callback: call link.step"):
        loop.attach().callback()


def test_a_raised_learning_starts_is_refused_but_what_it_learnt_with_can_come_back() -> None:
    loop = Tiny(dqn_args(learning_starts=100), ("learning_starts",))
    link = loop.attach()
    assert "learning_starts = 200 is raised" in link.apply({"learning_starts": 200}).state
    loop.iterate()
    for value in (50, 100):
        attempt = link.apply({"learning_starts": value})
        loop.iterate(2)
        assert attempt.state == "applied"


class Writer:
    """What TensorBoard's SummaryWriter would write."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, Any, int]] = []

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
        self.rows.append((tag, scalar_value, global_step))


def test_the_writer_gets_hyperparameters_at_the_start_and_at_each_change() -> None:
    loop, writer = tiny(), Writer()
    begun(loop, {"gamma": 0.9}, writer=writer)
    loop.iterate(3)
    found = [(value, step) for tag, value, step in writer.rows if tag == "hyperparameters/gamma"]
    assert found == [(0.99, 0), (0.9, 3)]


def test_nothing_of_ours_reaches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = tiny()
    begun(loop, {"gamma": 0.9})
    monkeypatch.setattr(AttachedLearner, "_work", lambda *_: 1 / 0)
    loop.iterate(3)
    assert loop.link.problems == ("at BETWEEN: ZeroDivisionError: division by zero",)
    loop.link.step(episode_return="none")  # type: ignore[arg-type]
    assert len(loop.link.problems) == 2
