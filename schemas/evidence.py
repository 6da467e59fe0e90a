"""What a study knows about its champion: scores on held-out seeds, paired, and the verdict they allow."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt

from tars.schemas.hyperparameters import AlgorithmName, Value
from tars.schemas.message import Frozen


class Verdict(StrEnum):
    """What the sequential paired test found."""

    BETTER = "BETTER"
    NOT_BETTER = "NOT_BETTER"
    INCONCLUSIVE = "INCONCLUSIVE"


Start = Literal["scratch", "snapshot"]
"""Trials start from fresh weights, or from those of the running agent."""


Objective = Literal["reward", "penalty", "pareto"]
"""reward: the score; penalty: score - w conflict - w latency; pareto: the three of them, and the reward on held-out
seeds."""


class Weights(Frozen):
    """What the objective penalty takes off the score."""

    conflict: Annotated[float, Field(ge=0)] = 1.0
    """For each conflict a step."""
    latency: Annotated[float, Field(ge=0)] = 1.0
    """For each unit of latency a step."""

    def penalised(self, score: float, conflict: float | None, latency: float | None) -> float | None:
        """The objective penalty; None: the environment tells of no conflicts or no latency."""
        if conflict is None or latency is None:
            return None
        return score - self.conflict * conflict - self.latency * latency


class KeyWorth(Frozen):
    """What one key of a candidate is worth: the loss on held-out seeds when it alone is put back."""

    key: str
    before: Value
    after: Value
    gain: float
    """Mean paired difference, candidate - candidate without this change."""
    gain_low: float
    """Lower end of its one-sided 95 % interval."""
    gain_high: float
    seeds: int
    kept: bool
    """Whether the proposed change has it."""


class PairedScore(Frozen):
    """Incumbent and candidate trained on the same held-out seed; normalised scores, by the study's objective."""

    seed: StrictInt
    incumbent: float
    candidate: float
    failed: Annotated[bool, Field(exclude_if=lambda failed: not failed)] = False
    """The candidate's trial failed: its score is the worst that there is. Left out where it did not, so that evidence
    of before this field keeps its digest."""


class Evidence(Frozen):
    """Why a candidate is, or is not, better than what runs. Addressed by its digest."""

    verdict: Verdict
    algorithm: AlgorithmName
    environment: str
    start: Start
    training: Literal["real", "surrogate"]
    """A surrogate's evidence is never promotable."""
    code_version: str
    train_episodes: int
    eval_episodes: int
    incumbent: dict[str, StrictInt | StrictFloat | None]
    candidate: dict[str, StrictInt | StrictFloat | None]
    scores: tuple[PairedScore, ...]
    gain: float
    """Mean held-out difference, candidate - incumbent, normalised score (0.03 = 3 percentage points)."""
    gain_low: float
    """Lower end of its one-sided 95 % interval."""
    gain_high: float
    """Upper end of its one-sided 95 % interval."""
    p_value: float
    """One-sided, of the last look."""
    threshold: float
    """The gain that BETTER needs."""
    look: int
    """Which look decided, from 1."""
    search_gain: float | None
    """The gain the search reported: the luckiest of many, shown beside the held-out one. None: nothing was searched."""
    objective: Objective = "reward"
    weights: Weights | None = None
    """Those of the objective penalty."""
    conflict_gain: float | None = None
    """Mean held-out difference in conflicts a step, candidate - incumbent; None: the environment has none."""
    latency_gain: float | None = None
    """The same of latency."""
    snapshots: tuple[str, ...] = ()
    """The sha256 of the snapshots it started from, and of which agents: `<agent>:<sha256>`."""
    worth: tuple[KeyWorth, ...] = ()
    """Of a BETTER champion, what each of its keys is worth; the candidate has only those that are `kept`."""

    @property
    def failed(self) -> int:
        """Of how many seeds the candidate's trial failed."""
        return sum(pair.failed for pair in self.scores)

    @property
    def promotable(self) -> bool:
        """It may carry a change to a live agent without a person."""
        return self.verdict is Verdict.BETTER and self.training == "real"
