"""What a study knows about its champion: scores on held-out seeds, paired, and the verdict they allow."""

from enum import StrEnum
from typing import Literal

from pydantic import StrictFloat, StrictInt

from tars.schemas.hyperparameters import AlgorithmName
from tars.schemas.message import Frozen


class Verdict(StrEnum):
    """What the sequential paired test found."""

    BETTER = "BETTER"
    NOT_BETTER = "NOT_BETTER"
    INCONCLUSIVE = "INCONCLUSIVE"


Start = Literal["scratch", "snapshot"]
"""Trials start from fresh weights, or from those of the running agent."""


class PairedScore(Frozen):
    """Incumbent and candidate trained on the same held-out seed; normalised scores."""

    seed: StrictInt
    incumbent: float
    candidate: float


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
    search_gain: float
    """The gain the search reported: the luckiest of many, shown beside the held-out one."""

    @property
    def promotable(self) -> bool:
        """It may carry a change to a live agent without a person."""
        return self.verdict is Verdict.BETTER and self.training == "real"
