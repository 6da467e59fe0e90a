"""What every algorithm offers: P lanes that learn in lockstep, each with values of its own."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from tars.schemas.hyperparameters import Value, Values

Effect = Literal["live", "boundary", "rebuild"]


@dataclass(frozen=True)
class Lane:
    """One member of a population."""

    seed: int
    hyperparameters: Mapping[str, Value]
    """The whole set."""


class Population(Protocol):
    """Lanes [P] of one algorithm in one environment."""

    TAKES_EFFECT: ClassVar[Mapping[str, Effect]]
    """Of each hyperparameter: live, at the next gradient step; boundary or rebuild, at the next episode."""

    @staticmethod
    def structure(hyperparameters: Values) -> Hashable:
        """What lanes must share to be one population."""

    def begin(self) -> None:
        """Begin an episode; what was written for a boundary comes into use."""

    def step(self) -> bool:
        """Act once in every copy, and learn; say whether the episode goes on."""

    def end(self) -> Tensor:
        """Behaviour score of the episode [P], normalised."""

    def episode(self) -> Tensor:
        """A whole episode."""

    def evaluate(self, episodes: int, seeds: list[int]) -> Tensor:
        """Score of the greedy policies [P] over evaluation episodes, normalised; the same seeds, the same score."""

    def exact_score(self) -> Tensor:
        """The same by dynamic programming [P]."""

    def write(self, member: int, name: str, value: Value) -> None:
        """Set one hyperparameter of one lane."""

    def read(self, member: int, name: str) -> Value:
        """Read it back from where the learner uses it."""

    def refill(self, member: int, lane: Lane) -> None:
        """Start another trial in a lane, between episodes."""

    def weights_hash(self, member: int) -> str:
        """The sha256, in hex, of all parameters of a lane."""

    def stored(self, member: int) -> int:
        """Transitions in the lane's replay buffer."""

    def gradient_steps(self, member: int) -> int:
        """Gradient steps done."""

    def finite(self) -> Tensor:
        """Which lanes have finite parameters only [P]."""
