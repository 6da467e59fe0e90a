"""Numbers, times and changes in words for people. Pure: the moment is passed in."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from tars.schemas.evidence import Objective, Start, Weights
from tars.schemas.hyperparameters import Value, Values, same
from tars.schemas.views import AgentRow, UpdateRow, UpdateStage

DASH: Final = "—"
LOST_SECONDS: Final = 15.0
"""Three beats of 5 seconds: an agent silent for longer may be lost."""
STAGE_COLOURS: Final[Mapping[UpdateStage, str]] = {
    "pending": "orange",
    "refused": "red",
    "rejected": "gray",
    "superseded": "gray",
    "approved": "blue",
    "released": "blue",
    "reloading": "blue",
    "reloaded": "blue",
    "confirmed": "green",
    "rolling back": "orange",
    "rolled back": "red",
    "failed": "red",
}
STARTED: Final[Mapping[Start, str]] = {
    "scratch": "from fresh weights",
    "snapshot": "on from a snapshot of the running agent",
}
"""What trials were trained from."""
REVERSIBLE: Final[frozenset[UpdateStage]] = frozenset({"released", "reloading", "reloaded", "confirmed"})
"""Stages that a roll back is for."""
PUNCTUATION: Final = re.compile(r"[!-/:-@\[-`{-~]")


def plain(text: str) -> str:
    """Return what somebody wrote for Streamlit's Markdown, as it is, on one line.

    Nothing in it is markup: who proposes an update must not draw badges and pictures above its evidence.
    """
    return PUNCTUATION.sub(r"\\\g<0>", " ".join(text.split()))


def number(value: Value) -> str:
    """Return a hyperparameter's value as people write it: `0.00063`, `6.3e-05`, `1,000,000`."""
    if value is None:
        return "none"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}"


def score(value: float | None) -> str:
    """Return a normalised score with two decimals."""
    return DASH if value is None else f"{value:.2f}"


def points(gain: float) -> str:
    """Return a difference of normalised scores in percentage points: `+4.2 pp`."""
    return f"{100 * gain:+.1f} pp"


def amount(value: float, *, normalised: bool) -> str:
    """Return an effect: in percentage points of a normalised score, else in the return's own unit."""
    return points(value) if normalised else f"{value:+.3g}"


def effect(update: UpdateRow) -> str:
    """Return what its newest watch found, with its 90 % interval; empty: nothing was judged."""
    found = update.judgements[-1] if update.judgements else None
    if found is None or found.effect is None or found.effect_low is None or found.effect_high is None:
        return ""
    scale = 100.0 if update.normalised else 1.0
    return (
        f"{amount(found.effect, normalised=update.normalised)} "
        f"({scale * found.effect_low:+.3g} … {scale * found.effect_high:+.3g})"
    )


def aim(objective: Objective, weights: Weights | None) -> str:
    """Return what a study looks for, with what the others cost in a penalty."""
    if objective == "penalty" and weights is not None:
        return f"score − {weights.conflict:g} conflict − {weights.latency:g} latency"  # noqa: RUF001 - minus signs
    return {"reward": "score", "penalty": "score with a penalty"}.get(objective, "score, conflict and latency apart")


def milliseconds(value: float | None) -> str:
    """Return a latency: `0.8 ms`, `12 ms`, `3.1 s`."""
    if value is None:
        return DASH
    if value < 10:  # noqa: PLR2004 - below it a decimal matters
        return f"{value:.1f} ms"
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"  # noqa: PLR2004


def size(count: int) -> str:
    """Return a number of bytes: `512 B`, `2.1 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:  # noqa: PLR2004 - what a kilo is
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def span(seconds: float) -> str:
    """Return a duration, rounded to what one would say: `3 s`, `12 min`, `5 h`, `2 d`."""
    for size, unit, most in ((1, "s", 120), (60, "min", 120), (3600, "h", 48)):
        if seconds < size * most:
            return f"{max(seconds, 0) / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def ago(at: datetime | None, now: datetime) -> str:
    """Return how long ago something was; a dash where it never was."""
    return DASH if at is None else f"{span((now - at).total_seconds())} ago"


def condition(agent: AgentRow, now: datetime) -> tuple[str, str]:
    """Return an agent's state in a word and the colour to show it in; `silent`: not heard of."""
    if agent.state == "stopped":
        return "stopped", "gray"
    if agent.seen_at is None or (now - agent.seen_at).total_seconds() > LOST_SECONDS:
        return "silent", "red"
    return ("running", "green") if agent.finite else ("diverged", "red")


def version(agent: AgentRow) -> str:
    """Return the configuration it runs, and the one it has heard where that is another."""
    running = f"v{agent.applied}" if agent.applied else "code"
    return running if agent.heard <= agent.applied else f"{running} (heard v{agent.heard})"


def drift(agent: AgentRow) -> str | None:
    """Return why an agent runs other values than those it was last sent; None: it runs them."""
    if agent.heard <= agent.applied:
        return None
    running = f"version {agent.applied}" if agent.applied else "the values of its code"
    return (
        f"It has heard version {agent.heard} and runs {running}: the moment to apply it has not come, or it refused "
        "it, or it keeps its own values (`adopt=True` adopts what was sent)."
    )


def factor(old: Value, new: Value) -> str:
    """Return by how much a value changes: `x6.3`; as a difference where there is no ratio."""
    if old is None or new is None or same(old, new):
        return ""
    if old > 0 and new > 0:
        return f"×{new / old:.3g}"  # noqa: RUF001 - a multiplication sign is meant
    return f"{new - old:+.3g}"


def assigned(values: Values) -> str:
    """Return values in a row: `learning_rate 0.0006, gamma 0.97`."""
    return ", ".join(f"{name} {number(value)}" for name, value in values.items())


def summary(update: UpdateRow) -> str:
    """Return what an update sets."""
    return assigned(update.values)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Return names in a row; from the seventh on only how many there are."""
    names = tuple(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def obstacles(update: UpdateRow, agents: Mapping[str, AgentRow], now: datetime) -> list[str]:
    """Return why an approval would come to nothing: it has expired, or its agents have moved on. Empty: nothing."""
    found = []
    if update.expires_at is not None and now > update.expires_at:
        found.append(f"It expired {ago(update.expires_at, now)}: propose it again.")
    for name, base in update.base.items():
        agent = agents.get(name)
        if agent is not None and agent.heard != base:
            found.append(f"{name} has moved on: it was made for version {base}, the agent has heard {agent.heard}.")
    return found
