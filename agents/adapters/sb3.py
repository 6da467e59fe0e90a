"""A Stable-Baselines3 model (DQN, A2C, PPO, DDPG) as its link sees it: values, moments, snapshots.

`sb3_facts` says what a model is and what follows, `sb3_keys` writes and reads, `sb3_buffers` rebuilds.
"""

from collections.abc import Callable
from dataclasses import replace
from types import new_class
from typing import Any, Final

from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import VectorizedActionNoise

from tars.agents.adapters import sb3_buffers, sb3_facts, sb3_keys
from tars.agents.adapters.adapter import NotApplied, Stage, write_all
from tars.agents.adapters.sb3_facts import ON_POLICY, Facts
from tars.agents.adapters.sb3_model import (
    OWN_CLASS,
    Subject,
    class_of,
    noise_kind,
    optimisers_of,
    own_code,
    schedule_of,
    shows_episodes,
    subject_of,
)
from tars.agents.checkpoint import BadSnapshot
from tars.agents.learner_state import LearnerState, Snapshot
from tars.schemas.hyperparameters import ALGORITHMS, Moment, Value, Values

COUNTERS: Final = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls", "_current_progress_remaining")
CLOCK: Final = frozenset({"num_timesteps", "_episode_num", "_current_progress_remaining"})
"""Counters of what was lived through: going back within a run leaves them, else learn() would run for longer."""
UNSEEN: Final = "the environment has no Monitor or VecMonitor: no episode is seen, so none is reported or watched"


class StableBaselines3:
    """The adapter of one model."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self.subject = subject_of(model)
        self.model, self.algorithm = self.subject.model, self.subject.algorithm
        self.restores = Stage.NEW_ROLLOUT if self.algorithm in ON_POLICY else Stage.BOUNDARY
        self._state = LearnerState(model.policy.state_dict, optimisers_of(model))
        self.notes = (*sb3_facts.notes(facts_of(self.subject)), *(() if shows_episodes(model) else (UNSEEN,)))

    def values(self) -> dict[str, Value]:
        """Read every key that can be read, from where the learner uses it."""
        return dict(facts_of(self.subject).values)

    def objections(self, change: Values) -> list[str]:
        """Why these keys cannot be changed to that on this model."""
        return sb3_facts.objections(facts_of(self.subject), change) + _too_large(self.model, change.get("buffer_size"))

    def takes_effect(self, name: str) -> Moment:
        """Say when a change of a key is in use."""
        noise = noise_kind(self.model.action_noise) if name == "noise_sigma" else "none"
        return sb3_facts.takes_effect(self.algorithm, noise, name)

    def stage(self, name: str) -> Stage:
        """Say where a key may be written."""
        moment = self.takes_effect(name)
        if moment == "rebuild":
            return Stage.ROLLOUT_BUFFER if self.algorithm in ON_POLICY else Stage.REPLAY_BUFFER
        return Stage.ANY if moment == "live" else Stage.BOUNDARY

    def write(self, change: Values) -> None:
        """Write all or none; what makes a new buffer comes last."""
        if reasons := self.objections(change):
            raise NotApplied(*reasons)
        ordered = sorted(change.items(), key=lambda item: self.takes_effect(item[0]) == "rebuild")
        write_all(dict(ordered), self._read, self._write)

    def proof(self) -> dict[str, Value] | None:
        """Read where each value is used: SB3 reads these places anew each time, so they prove it at once."""
        return self.values()

    def before_collecting(self, then: Callable[[], None]) -> None:
        """Call `then` after the next train().

        Up to that call the model's class is one of its own: what is put on the model itself would be pickled by save().
        """
        kind = type(self.model)

        def train(model: Any, *args: Any, **kwargs: Any) -> None:
            model.__class__ = kind
            model.train(*args, **kwargs)
            then()

        alike = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
        self.model.__class__ = new_class(
            kind.__name__, (kind,), exec_body=lambda body: body.update({**alike, "train": train, OWN_CLASS: kind})
        )

    def release(self) -> None:
        """Take hooks out of the optimisers, and give the model its class back."""
        self.subject.rates.release()
        if (kind := class_of(self.model)) is not type(self.model):
            self.model.__class__ = kind

    def after_steps(self, then: Callable[[], None]) -> Callable[[], None]:
        """Call `then` after each gradient step; return what ends that."""
        return self._state.after_steps(then)

    @property
    def steps(self) -> int:
        """Gradient steps as SB3 counts them: PPO's epochs."""
        return int(self.model._n_updates)

    @property
    def stored(self) -> int:
        """Transitions in the replay buffer."""
        buffer = _replay_buffer(self.model)
        return 0 if buffer is None else buffer.size() * buffer.n_envs

    def weights_hash(self) -> str:
        """The sha256, in hex, of all networks, targets included."""
        return self._state.weights_hash()

    def is_finite(self, *, thorough: bool) -> bool:
        """No weight is NaN or infinite."""
        return self._state.is_finite(thorough=thorough)

    def snapshot(self, *, buffer: bool = False) -> Snapshot:
        """Copy networks, optimisers, counters and the chance that the model itself holds."""
        counters = {name: getattr(self.model, name) for name in COUNTERS if hasattr(self.model, name)}
        counters["action_space"] = _chance(self.model.action_space)
        copied = self._state.copy(self.algorithm, self.values(), counters)
        replay = _replay_buffer(self.model)
        if not buffer or replay is None:
            return copied
        if not sb3_buffers.can_be_rebuilt(replay):
            raise BadSnapshot(f"the rows of this {type(replay).__name__} cannot be copied")
        rows = {f"buffer.{name}": column for name, column in sb3_buffers.copied(replay).items()}
        return replace(copied, tensors={**copied.tensors, **rows})

    def restore(self, snapshot: Snapshot, *, clock: bool = False) -> None:
        """Put networks and optimisers back, and rows that the snapshot has; else drop rows that are not finite."""
        if snapshot.algorithm != self.algorithm:
            raise BadSnapshot(f"a snapshot of {snapshot.algorithm} does not fit {self.algorithm}")
        self._state.put_back(snapshot)
        for name, value in snapshot.counters.items():
            if name in COUNTERS and (clock or name not in CLOCK):
                setattr(self.model, name, value)
        if clock and (chance := snapshot.counters.get("action_space")) is not None:
            self.model.action_space.np_random.bit_generator.state = chance
        replay = _replay_buffer(self.model)
        if replay is None or not sb3_buffers.can_be_rebuilt(replay):
            return
        if rows := {key[7:]: column for key, column in snapshot.tensors.items() if key.startswith("buffer.")}:
            sb3_buffers.put_back(replay, rows)
        else:
            sb3_buffers.drop_unfinite(replay)

    def _read(self, name: str) -> Value:
        return sb3_keys.read(self.subject, name)

    def _write(self, name: str, value: Value) -> None:
        sb3_keys.write(self.subject, name, value)


def facts_of(subject: Subject) -> Facts:
    """Describe a model as it is now."""
    model, values, unreadable = subject.model, dict[str, Value](), dict[str, str]()
    for name in ALGORITHMS[subject.algorithm].names:
        try:
            values[name] = sb3_keys.read(subject, name)
        except NotApplied as error:
            unreadable[name] = str(error)
    buffer = _replay_buffer(model)
    return Facts(
        algorithm=subject.algorithm,
        values=values,
        unreadable=unreadable,
        n_envs=model.n_envs,
        rates=schedule_of(model.lr_schedule)[0],
        clips=schedule_of(model.clip_range)[0] if subject.algorithm == "ppo" else "constant",
        buffer=sb3_buffers.kind_of(buffer),
        buffer_class=type(buffer).__name__,
        saves_memory=bool(getattr(model, "optimize_memory_usage", False)),
        noise=noise_kind(model.action_noise),
        many_noises=isinstance(model.action_noise, VectorizedActionNoise),
        normalizes=bool(getattr(model, "normalize_advantage", False)),
        own_code=own_code(model),
        num_timesteps=int(model.num_timesteps),
    )


def _replay_buffer(model: Any) -> ReplayBuffer | None:
    found: ReplayBuffer | None = getattr(model, "replay_buffer", None)
    return found


def _too_large(model: Any, size: Value) -> list[str]:
    """SB3 only warns when memory is short."""
    buffer = _replay_buffer(model)
    if size is None or buffer is None or not sb3_buffers.can_be_rebuilt(buffer) or size <= model.buffer_size:
        return []
    needed, free = sb3_buffers.bytes_needed(buffer, int(size)), sb3_buffers.free_memory()
    if free is None or needed <= free:
        return []
    return [f"buffer_size = {size} needs {needed >> 20} MiB, and {free >> 20} MiB are free"]


def _chance(space: spaces.Space[Any]) -> Any:
    generator = getattr(space, "_np_random", None)
    return None if generator is None else generator.bit_generator.state
