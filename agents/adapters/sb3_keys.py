"""Each key of a Stable-Baselines3 model: how it is written so that it takes effect, and where its use is read.

Checked on SB3 2.9, whose train() and collect_rollouts() decide what is read where. On a read that is impossible
NotApplied says why.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise as Wandering
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import Schedule, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import FloatSchedule, LinearSchedule

from tars.agents.adapters.adapter import NotApplied
from tars.agents.adapters.sb3_buffers import resized
from tars.agents.adapters.sb3_facts import EXPLORATION
from tars.agents.adapters.sb3_model import Subject, noise_kind, noises_of, schedule_of
from tars.schemas.hyperparameters import ALGORITHMS, Value

Read = Callable[[Subject], Value]
Write = Callable[[Subject, int | float], None]
OWN_SCHEDULE: Final = "_tars_own"
"""Where a schedule that was scaled keeps the one that it was made from."""


def read(subject: Subject, name: str) -> Value:
    """Read a key from where the learner uses it; raises NotApplied."""
    return READS[name](subject)


def write(subject: Subject, name: str, value: Value) -> None:
    """Write a key. Its type is the declared one: numpy's numbers, and ints where SB3 wants a float, crash later."""
    if value is None:
        _write_none(subject, name)
        return
    writer = WRITES.get(name)
    number = ALGORITHMS[subject.algorithm][name].type(value)
    if writer is None:
        setattr(subject.model, name, number)
    else:
        writer(subject, number)


def _write_none(subject: Subject, name: str) -> None:
    if name.endswith("_learning_rate"):
        subject.rates.own[name.partition("_")[0]] = None
        subject.rates.renew()
    else:
        setattr(subject.model, name, None)


def _rate(subject: Subject) -> Value:
    """What the schedule gives: a constant at any time, any other at its start."""
    model = subject.model
    constant = schedule_of(model.lr_schedule)[0] == "constant"
    return float(model.lr_schedule(model._current_progress_remaining if constant else 1.0)) * subject.rates.scale


def _write_rate(subject: Subject, value: float) -> None:
    """A constant as such; a schedule scaled so that it starts with it, by its own numbers or before each step."""
    model, rates = subject.model, subject.rates
    kind, schedule = schedule_of(model.lr_schedule)
    scale = value / float(_rate(subject) or np.nan)
    if kind == "other":
        rates.scale *= scale
    else:
        linear = kind == "linear"
        model.learning_rate = LinearSchedule(value, schedule.end * scale, schedule.end_fraction) if linear else value
        model._setup_lr_schedule()
    rates.renew()


def _own_rate(network: str) -> tuple[Read, Write]:
    def written(subject: Subject, value: float) -> None:
        subject.rates.own[network] = value
        subject.rates.renew()

    return lambda subject: subject.rates.in_use(network), written


def _gamma(subject: Subject) -> Value:
    model = subject.model
    if isinstance(model, OnPolicyAlgorithm):
        return float(model.rollout_buffer.gamma)
    return float(getattr(model.replay_buffer, "gamma", model.gamma))


def _write_gamma(subject: Subject, value: float) -> None:
    model = subject.model
    model.gamma = value
    if isinstance(model, OnPolicyAlgorithm):
        model.rollout_buffer.gamma = value
    elif hasattr(model.replay_buffer, "gamma"):  # of returns over several steps
        model.replay_buffer.gamma = model.replay_buffer_kwargs["gamma"] = value


def _write_lambda(subject: Subject, value: float) -> None:
    subject.model.gae_lambda = subject.model.rollout_buffer.gae_lambda = value


def _clip(subject: Subject) -> Value:
    model = subject.model
    constant = schedule_of(model.clip_range)[0] == "constant"
    return float(model.clip_range(model._current_progress_remaining if constant else 1.0))


def _write_clip(subject: Subject, value: float) -> None:
    """A constant as such; a schedule scaled so that it starts with it."""
    kind, schedule = schedule_of(subject.model.clip_range)
    if kind == "linear":
        made: Schedule | float = LinearSchedule(value, schedule.end * value / schedule.start, schedule.end_fraction)
    else:
        made = value if kind == "constant" else _scaled(getattr(schedule, OWN_SCHEDULE, schedule), value)
    subject.model.clip_range = FloatSchedule(made)


def _scaled(own: Schedule, start: float) -> Schedule:
    """A schedule of the user's own times a factor; where it starts so by itself, that one.

    A function in a function and nothing of TARS's in it: save() pickles it whole, and it is loaded without TARS.
    """
    scale = start / float(own(1.0))
    if scale == 1.0:
        return own

    def scaled(progress_remaining: float) -> float:
        return scale * float(own(progress_remaining))

    setattr(scaled, OWN_SCHEDULE, own)
    return scaled


def _write_rollout(subject: Subject, value: float) -> None:
    model, old = subject.model, subject.model.rollout_buffer
    model.n_steps = value
    model.rollout_buffer = model.rollout_buffer_class(
        value, model.observation_space, model.action_space, device=model.device, gamma=old.gamma,
        gae_lambda=old.gae_lambda, n_envs=model.n_envs, **model.rollout_buffer_kwargs,
    )  # fmt: skip


def _write_replay(subject: Subject, value: float) -> None:
    model = subject.model
    model.replay_buffer = resized(model, model.replay_buffer, int(value))
    model.buffer_size = value


def _exploration(name: str, part: str) -> tuple[Read, Write]:
    def found(subject: Subject) -> Value:
        kind, schedule = schedule_of(subject.model.exploration_schedule)
        if kind != "linear":
            raise NotApplied("exploration_schedule is not SB3's LinearSchedule: your own code decides epsilon")
        return float(getattr(schedule, part))

    def written(subject: Subject, value: float) -> None:
        model = subject.model
        for key in EXPLORATION:  # from where they are used: attributes edited by hand may say something else
            setattr(model, key, value if key == name else READS[key](subject))
        model.exploration_schedule = LinearSchedule(*(getattr(model, key) for key in EXPLORATION))
        model.exploration_rate = model.exploration_schedule(model._current_progress_remaining)

    return found, written


def _train_freq(subject: Subject) -> Value:
    freq = subject.model.train_freq
    if freq.unit != TrainFrequencyUnit.STEP:
        raise NotApplied("train_freq counts episodes in this model, and steps in TARS")
    return int(freq.frequency)


def _write_train_freq(subject: Subject, value: float) -> None:
    subject.model.train_freq = TrainFreq(int(value), TrainFrequencyUnit.STEP)


def _gradient_steps(subject: Subject) -> Value:
    if subject.model.gradient_steps < 1:
        raise NotApplied("gradient_steps = -1 (as many as steps were collected) is no number to go back to")
    return int(subject.model.gradient_steps)


def _sigma(subject: Subject) -> Value:
    noise = subject.model.action_noise
    if noise_kind(noise) == "other":
        raise NotApplied(f"the action noise is a {type(noises_of(noise)[0]).__name__}: only SB3's have a known sigma")
    found = {float(sigma) for each in noises_of(noise) for sigma in np.ravel(each._sigma)}
    if len(found) > 1:
        raise NotApplied(f"the action noise has several sigmas: {', '.join(f'{s:g}' for s in sorted(found))}")
    return found.pop() if found else 0.0


def _write_sigma(subject: Subject, value: float) -> None:
    model = subject.model
    wide = np.full(model.action_space.shape, value)
    if model.action_noise is None:
        noise: ActionNoise = NormalActionNoise(np.zeros(model.action_space.shape), wide)
        model.action_noise = VectorizedActionNoise(noise, model.n_envs) if model.n_envs > 1 else noise
        return
    copied_from = [model.action_noise.base_noise] if isinstance(model.action_noise, VectorizedActionNoise) else []
    for each in noises_of(model.action_noise) + copied_from:
        each._sigma = wide.copy()
        if isinstance(each, Wandering):
            each.reset()  # else its memory goes on with the old width


def _plain(name: str) -> Read:
    def found(subject: Subject) -> Value:
        value = getattr(subject.model, name)
        return None if value is None else ALGORITHMS[subject.algorithm][name].type(value)

    return found


_ACTOR, _CRITIC = _own_rate("actor"), _own_rate("critic")
_INITIAL, _FINAL, _FRACTION = map(_exploration, EXPLORATION, ("start", "end", "end_fraction"))

WRITES: Final[dict[str, Write]] = {
    "learning_rate": _write_rate,
    "actor_learning_rate": _ACTOR[1],
    "critic_learning_rate": _CRITIC[1],
    "gamma": _write_gamma,
    "gae_lambda": _write_lambda,
    "n_steps": _write_rollout,
    "clip_range": _write_clip,
    "buffer_size": _write_replay,
    "train_freq": _write_train_freq,
    "noise_sigma": _write_sigma,
    "exploration_initial_eps": _INITIAL[1],
    "exploration_final_eps": _FINAL[1],
    "exploration_fraction": _FRACTION[1],
}
"""Every other key is an attribute that SB3 reads anew each time."""

READS: Final[dict[str, Read]] = {
    **{name: _plain(name) for algorithm in ALGORITHMS.values() for name in algorithm.names},
    "learning_rate": _rate,
    "actor_learning_rate": _ACTOR[0],
    "critic_learning_rate": _CRITIC[0],
    "gamma": _gamma,
    "gae_lambda": lambda subject: float(subject.model.rollout_buffer.gae_lambda),
    "n_steps": lambda subject: int(subject.model.rollout_buffer.buffer_size),
    "clip_range": _clip,
    "buffer_size": lambda subject: int(subject.model.replay_buffer.buffer_size * subject.model.n_envs),
    "train_freq": _train_freq,
    "gradient_steps": _gradient_steps,
    "noise_sigma": _sigma,
    "exploration_initial_eps": _INITIAL[0],
    "exploration_final_eps": _FINAL[0],
    "exploration_fraction": _FRACTION[0],
}
