"""What a Stable-Baselines3 model is, as far as it decides what may be changed; and what may not.

No torch and no SB3 here: a model in memory and a saved archive are described alike.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from tars.schemas.hyperparameters import ALGORITHMS, AlgorithmName, Moment, Value, Values

ScheduleKind = Literal["constant", "linear", "other"]
BufferKind = Literal["plain", "n-step", "other"]
NoiseKind = Literal["none", "normal", "other"]

ON_POLICY: Final = frozenset({"a2c", "ppo"})
EXPLORATION: Final = ("exploration_initial_eps", "exploration_final_eps", "exploration_fraction")
NETWORKS: Final = ("actor", "critic")


@dataclass(frozen=True)
class Facts:
    """One model."""

    algorithm: AlgorithmName
    values: Mapping[str, Value]
    """Every key that can be read; the schedule's start where one anneals it."""
    unreadable: Mapping[str, str]
    """Every other key of its algorithm, and why it cannot be managed."""
    n_envs: int = 1
    rates: ScheduleKind = "constant"
    """How learning_rate is given."""
    clips: ScheduleKind = "constant"
    """How clip_range is given (PPO)."""
    buffer: BufferKind = "plain"
    buffer_class: str = "ReplayBuffer"
    saves_memory: bool = False
    """optimize_memory_usage."""
    noise: NoiseKind = "none"
    many_noises: bool = False
    """One noise for each environment."""
    normalizes: bool = False
    """Advantages are normalised."""
    own_code: tuple[str, ...] = ()
    """Methods of SB3 that this model replaces by its own."""
    num_timesteps: int = 0


def objections(facts: Facts, change: Values) -> list[str]:
    """Why these keys cannot be changed to that on this model, beyond what its algorithm forbids."""
    changed = {name: value for name, value in change.items() if value != facts.values.get(name, object())}
    found = [f"{name}: {why}" for name in changed if (why := refusal(facts, name))]
    result = {**facts.values, **change}
    rules = (_keeps_learning, _fills_rows, _syncs_whole_steps, _divides_the_rollout, _has_two_steps)
    return found + [why for rule in rules if (why := rule(facts, changed, result))]


def refusal(facts: Facts, name: str) -> str | None:
    """Why this key cannot be changed at all on this model; None: it can."""
    if name not in facts.values:
        return facts.unreadable.get(name, f"{facts.algorithm} has no such key")
    if name == "buffer_size" and facts.buffer == "other":
        return f"the replay buffer is a {facts.buffer_class}: only SB3's own plain and n-step buffers can be rebuilt"
    if name == "buffer_size" and facts.saves_memory:
        return "optimize_memory_usage keeps no next observations to carry over"
    if name == "n_steps" and "train" in facts.own_code:
        return "train() is not SB3's: the moment after it is not known"
    if name.endswith("learning_rate") and "_update_learning_rate" in facts.own_code:
        return "this model's own _update_learning_rate decides it"
    return None


def takes_effect(algorithm: AlgorithmName, noise: NoiseKind, name: str) -> Moment:
    """As declared; a first noise object is used from the next rollout on."""
    return "boundary" if name == "noise_sigma" and noise == "none" else ALGORITHMS[algorithm][name].takes_effect["sb3"]


def notes(facts: Facts) -> list[str]:
    """What a person should know before the first reload of this model."""
    found = [f"{name} cannot be changed: {why}" for name in (*facts.values, *facts.unreadable)
             if (why := refusal(facts, name))]  # fmt: skip
    if facts.rates != "constant":
        kept = "" if facts.rates == "linear" else ", and as it is no schedule of SB3's, model.save() does not keep that"
        found.append(
            f"learning_rate is annealed: it is managed by its start, and a new one scales the whole schedule{kept}"
        )
    if facts.clips != "constant":
        found.append("clip_range is annealed: it is managed by its start, and a new one scales the whole schedule")
    if "train" in facts.own_code:
        found.append("train() is not SB3's: what it does with a value that is read back is not known")
    return found


def _keeps_learning(facts: Facts, changed: Values, _: Values) -> str | None:
    """Raised to or past the steps done, learning_starts returns the agent to random actions without learning."""
    new, old = changed.get("learning_starts"), facts.values.get("learning_starts")
    if new is None or old is None or new <= old or new < facts.num_timesteps:
        return None
    return f"learning_starts = {new} is not below the {facts.num_timesteps} steps done: the agent would stop learning"


def _fills_rows(facts: Facts, changed: Values, _: Values) -> str | None:
    """SB3 keeps buffer_size // n_envs rows for each environment."""
    size = changed.get("buffer_size")
    if size is None or size % facts.n_envs == 0:
        return None
    return f"buffer_size = {size} is no multiple of the {facts.n_envs} environments: SB3 would keep fewer rows"


def _syncs_whole_steps(facts: Facts, changed: Values, _: Values) -> str | None:
    """Below n_envs, the target network is synchronised after each vector step, whatever the interval says."""
    interval = changed.get("target_update_interval")
    if interval is None or interval >= facts.n_envs:
        return None
    return f"target_update_interval = {interval} is below the {facts.n_envs} environments of one vector step"


def _divides_the_rollout(facts: Facts, changed: Values, result: Values) -> str | None:
    """SB3 makes a last minibatch of what is left over, live without a warning; one of a single step is nan."""
    batch, steps = result.get("batch_size"), result.get("n_steps")
    if batch is None or steps is None or not {"batch_size", "n_steps"} & set(changed):
        return None
    rollout = int(steps) * facts.n_envs
    return None if rollout % batch == 0 else f"batch_size = {batch} does not divide the rollout of {rollout} steps"


def _has_two_steps(facts: Facts, changed: Values, result: Values) -> str | None:
    """Normalised, the advantage of a single step is nan."""
    steps = result.get("n_steps")
    if "n_steps" not in changed or steps is None or not facts.normalizes or steps * facts.n_envs > 1:
        return None
    return "n_steps = 1 in one environment: a single advantage cannot be normalised"
