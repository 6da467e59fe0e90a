"""What an edit of a Stable-Baselines3 model that looks right does, and what TARS writes instead.

Observed on SB3 2.9; tests/agents/test_model_check.py makes each edit again and compares.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tars.agents.adapters.sb3_facts import EXPLORATION, ON_POLICY, Facts

Verdict = Literal["works", "silent", "partial", "crash"]


@dataclass(frozen=True)
class Naive:
    """An edit that looks right, and what it does."""

    edit: str
    verdict: Verdict
    why: str


def naive(facts: Facts, name: str) -> Naive:
    """What a naive edit of this key does on this model."""
    found = _NAIVE.get(name)
    if found is None:
        return Naive(f"model.{name} = v", "works", "it is read anew each time")
    return found(facts) if callable(found) else Naive(f"model.{name} = v", *found)


def remedy(facts: Facts, name: str) -> str:
    """What TARS writes instead."""
    found = _REMEDY.get(name, "the attribute, after every check")
    return found(facts) if callable(found) else found


def _gamma(facts: Facts) -> Naive:
    edit = "model.gamma = v"
    if facts.algorithm in ON_POLICY:
        return Naive(edit, "partial", "the bootstrap at a time limit sees it; advantages use the rollout buffer's own")
    if facts.buffer == "n-step":
        return Naive(edit, "silent", "returns over several steps are discounted by the replay buffer's own")
    return Naive(edit, "works", "it is read anew each time")


def _network_rate(network: str) -> Callable[[Facts], Naive]:
    edit = f'model.{network}.optimizer.param_groups[0]["lr"] = v'
    return lambda _: Naive(edit, "silent", "each train() writes the shared rate into both optimisers")


def _sigma(facts: Facts) -> Naive:
    if facts.noise == "none":
        return Naive("model.action_noise._sigma = v", "crash", "AttributeError: there is no noise yet")
    if facts.many_noises:
        return Naive("model.action_noise._sigma = v", "silent", "each environment has a noise of its own")
    return Naive("model.action_noise.sigma = v", "silent", "a stray attribute: what draws reads _sigma")


_NAIVE: Final[Mapping[str, Callable[[Facts], Naive] | tuple[Verdict, str]]] = {
    "learning_rate": ("silent", "train() writes model.lr_schedule into the optimiser, and that keeps the old one"),
    "actor_learning_rate": _network_rate("actor"),
    "critic_learning_rate": _network_rate("critic"),
    "gamma": _gamma,
    "gae_lambda": ("silent", "advantages use the rollout buffer's own"),
    "n_steps": ("crash", "the rollout buffer keeps its size: AssertionError or IndexError"),
    "clip_range": ("crash", "TypeError: train() calls it as a schedule"),
    "train_freq": ("crash", "AttributeError or AssertionError: it must be a TrainFreq"),
    "buffer_size": ("silent", "the replay buffer keeps its size"),
    "noise_sigma": _sigma,
    "learning_starts": ("works", "but raised past the steps done it stops all learning"),
    **dict.fromkeys(EXPLORATION, ("silent", "exploration_schedule was made from it, and keeps the old one")),
}
"""By key: verdict and why of `model.<key> = v`, or what depends on the model. Every other key works."""

_REMEDY: Final[Mapping[str, Callable[[Facts], str] | str]] = {
    "learning_rate": lambda facts: (
        "learning_rate, its schedule and every optimiser" if facts.rates == "constant" else "the whole schedule, scaled"
    ),
    "actor_learning_rate": "a hook before each gradient step of the actor",
    "critic_learning_rate": "a hook before each gradient step of the critic",
    "gamma": lambda facts: (
        "the model's and the rollout buffer's"
        if facts.algorithm in ON_POLICY
        else "the model's and the replay buffer's"
        if facts.buffer == "n-step"
        else "the attribute, after every check"
    ),
    "gae_lambda": "the model's and the rollout buffer's",
    "n_steps": "a new rollout buffer, after train() and before the next rollout",
    "clip_range": lambda facts: "a constant schedule" if facts.clips == "constant" else "the whole schedule, scaled",
    "train_freq": "a TrainFreq that counts steps",
    "buffer_size": "a new replay buffer with the newest rows, in order",
    "noise_sigma": lambda facts: "a noise object" if facts.noise == "none" else "every noise object in use",
    **dict.fromkeys(EXPLORATION, "the three attributes, the schedule and the rate in use, together"),
}
