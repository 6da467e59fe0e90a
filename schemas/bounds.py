"""Is a set of hyperparameter values allowed? Pure checks that the worker, the page and the command line share."""

import math
from collections.abc import Callable
from typing import Literal

from tars.schemas.hyperparameters import ALGORITHMS, Algorithm, Hyperparameter, Value, Values

Strictness = Literal["low", "medium", "high"]
STEP = 1.5
"""The largest factor of one change at strictness high."""

PARALLEL = 16
"""Environments that a lane, or a hosted agent, steps at once."""
EPISODE_STEPS = 32
"""Steps in each of them of an episode."""

Invariant = Callable[[Values], str | None]


def interval(declared: Hyperparameter, strictness: Strictness, current: Value) -> tuple[float, float] | None:
    """Where a new value may lie, ends included; None: the key may not change at this strictness."""
    if strictness == "low":
        return declared.low
    if strictness == "medium":
        return declared.medium
    if declared.high_risk:
        return None
    return _step_interval(declared, current)


def _step_interval(declared: Hyperparameter, current: Value) -> tuple[float, float]:
    """At most x1.5 from `current`, inside medium; from outside medium, only steps towards it."""
    low, high = declared.medium
    if current is None:  # no ratio to nothing: the first value is anything in medium
        return low, high
    if declared.one_minus:
        distance = max(1 - current, declared.floor or 0.0)
        step_low, step_high = 1 - distance * STEP, 1 - distance / STEP
        if 1 - current <= (declared.floor or 0.0):
            step_high = max(step_high, current)
    else:
        size = max(current, declared.floor or 0.0)
        step_low, step_high = size / STEP, size * STEP
        if declared.floor and size <= declared.floor * STEP:  # a value at its floor may go to 0, and stay there
            step_low = min(low, step_low)
    if declared.type is int:
        step_low, step_high = math.ceil(step_low), max(math.floor(step_high), current + 1)
    if current > high:
        return max(low, step_low), current
    if current < low:
        return current, min(high, step_high)
    return max(low, step_low), min(high, step_high)


def ill_typed(declared: Hyperparameter, value: Value) -> str | None:
    """Why `value` has not the declared type; None: it has."""
    if value is None:
        return None if declared.default is None else f"{declared.name} = None: it must be a number"
    if not math.isfinite(value):
        return f"{declared.name} = {value!r}: it must be a finite number"
    if declared.type is int and not (isinstance(value, int)):
        return f"{declared.name} = {value!r}: it must be a whole number, written without a point"
    return None


def out_of_bounds(declared: Hyperparameter, value: Value, current: Value, strictness: Strictness) -> str | None:
    """Why `value` may not follow `current` at this strictness; None: it may."""
    if value is None or value == current:
        return None
    allowed = interval(declared, strictness, current)
    if allowed is None:
        return f"{declared.name} may not change at strictness {strictness}: {declared.high_risk}"
    low, high = allowed
    if low <= value <= high or math.isclose(value, low) or math.isclose(value, high):
        return None
    why = f"at most x{STEP} from {current:g}" if strictness == "high" and current is not None else "its bounds"
    return f"{declared.name} = {value:g} is outside [{low:g}, {high:g}], what strictness {strictness} allows ({why})"


def objections(
    algorithm: Algorithm,
    change: Values,
    current: Values,
    strictness: Strictness,
    environments: int | None = PARALLEL,
) -> list[str]:
    """Why `change` may not be laid over `current`: types, bounds of what changes, invariants of the result.

    `current` is the whole set an agent runs. environments: how many it steps at once; None: it alone knows (a foreign
    learner), and checks what depends on it by itself. Empty: it is allowed.
    """
    unknown = [
        f"{name} is no hyperparameter of {algorithm.name}; it has {', '.join(algorithm.names)}"
        for name in change
        if name not in algorithm.names
    ]
    known = {name: value for name, value in change.items() if name in algorithm.names}
    typed = {name: text for name, value in known.items() if (text := ill_typed(algorithm[name], value))}
    numbers = {name: value for name, value in known.items() if name not in typed}  # the rules below compare numbers
    bounded = [
        text
        for name, value in numbers.items()
        if (text := out_of_bounds(algorithm[name], value, current.get(name), strictness))
    ]
    result = {**current, **numbers}
    return (
        unknown
        + list(typed.values())
        + bounded
        + [text for rule in INVARIANTS[algorithm.name] if (text := rule(result))]
        + ([text] if (text := draws_no_more_than_a_rollout(result, environments)) else [])
    )


def explores_less_with_time(values: Values) -> str | None:
    """Exploration that grows with time forgets what was learnt; SB3 accepts it silently."""
    first, last = values.get("exploration_initial_eps"), values.get("exploration_final_eps")
    if first is None or last is None or 0 <= last <= first <= 1:
        return None
    return f"exploration_final_eps = {last:g} must lie in 0..exploration_initial_eps = {first:g} <= 1"


def draws_no_more_than_it_keeps(values: Values) -> str | None:
    """A batch larger than the buffer only repeats rows, without an error."""
    batch, buffer = values.get("batch_size"), values.get("buffer_size")
    if batch is None or buffer is None or batch <= buffer:
        return None
    return f"batch_size = {batch} is larger than buffer_size = {buffer}"


def discounts(values: Values) -> str | None:
    """Outside 0..1 the value targets can diverge."""
    gamma = values.get("gamma")
    return None if gamma is None or 0 <= gamma <= 1 else f"gamma = {gamma:g} must lie in 0..1"


def moves_towards_the_online_network(values: Values) -> str | None:
    """A tau of 0 freezes the target network, and one above 1 extrapolates."""
    tau = values.get("tau")
    return None if tau is None or 0 < tau <= 1 else f"tau = {tau:g} must lie above 0 and at most at 1"


def is_positive(name: str, *, least: float = 0.0) -> Invariant:
    """`name` must be above `least`: at or below it the learner freezes, reverses or hangs."""

    def rule(values: Values) -> str | None:
        value = values.get(name)
        return None if value is None or value > least else f"{name} = {value:g} must be above {least:g}"

    return rule


def is_not_negative(name: str) -> Invariant:
    """`name` may be 0, but below it what was a cost becomes a reward."""

    def rule(values: Values) -> str | None:
        value = values.get(name)
        return None if value is None or value >= 0 else f"{name} = {value:g} must not be negative"

    return rule


def looks_ahead(values: Values) -> str | None:
    """Outside 0..1 the advantages can diverge."""
    share = values.get("gae_lambda")
    return None if share is None or 0 <= share <= 1 else f"gae_lambda = {share:g} must lie in 0..1"


def draws_no_more_than_a_rollout(values: Values, environments: int | None) -> str | None:
    """A minibatch larger than the rollout is never filled; SB3 then makes one of what there is, without a warning."""
    batch, steps = values.get("batch_size"), values.get("n_steps")
    if batch is None or steps is None or environments is None or batch <= steps * environments:
        return None
    return f"batch_size = {batch} is larger than a rollout of n_steps = {steps} in {environments} environments"


_GRADIENT: tuple[Invariant, ...] = (discounts, is_positive("learning_rate"))
_REPLAY: tuple[Invariant, ...] = (
    draws_no_more_than_it_keeps,
    moves_towards_the_online_network,
    is_positive("batch_size"),
    is_positive("buffer_size"),
    is_positive("train_freq"),
    is_positive("gradient_steps"),
    is_positive("learning_starts", least=-1),
)
_ROLLOUT: tuple[Invariant, ...] = (
    looks_ahead,
    is_positive("max_grad_norm"),
    is_positive("n_steps"),
    is_not_negative("ent_coef"),
    is_not_negative("vf_coef"),
)
INVARIANTS: dict[str, tuple[Invariant, ...]] = {
    "dqn": (
        explores_less_with_time,
        *_GRADIENT,
        *_REPLAY,
        is_positive("max_grad_norm"),
        is_positive("exploration_fraction"),
        is_positive("target_update_interval"),
    ),
    "a2c": (*_GRADIENT, *_ROLLOUT),
    "ppo": (
        *_GRADIENT,
        *_ROLLOUT,
        is_positive("clip_range"),
        is_positive("target_kl"),
        is_positive("n_epochs"),
        is_positive("batch_size", least=1),
    ),
    "ddpg": (
        *_GRADIENT,
        *_REPLAY,
        is_positive("actor_learning_rate"),
        is_positive("critic_learning_rate"),
        is_not_negative("noise_sigma"),
    ),
}
"""What holds at every strictness, for the resulting set of values."""

assert set(INVARIANTS) == set(ALGORITHMS)  # noqa: S101 - a new algorithm without invariants must not start
