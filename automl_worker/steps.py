"""What a coordinator is to do next."""

from dataclasses import dataclass

from tars.schemas.trial import RunTrial


@dataclass(frozen=True)
class Ask:
    """Write these trials."""

    trials: tuple[RunTrial, ...]


@dataclass(frozen=True)
class Wait:
    """Trials that were asked are not answered yet."""
