"""A hosted world: how well its four agents play together."""

from typing import Literal

from tars.schemas.message import Id, Report


class GameReported(Report):
    """The joint play of a world, measured now and then."""

    kind: Literal["game.reported.v1"] = "game.reported.v1"
    game_id: Id
    """The world."""
    episode: int
    conflicts: dict[str, float]
    """Per step, by kind: `veto`, `starved`."""
    latency: float
    """Latency-like cost per step."""
    nash_conv: float
    """What the roles could gain together by answering the others best; 0 at an equilibrium."""
    gains: dict[str, float]
    """The same by role, mean reward per step."""
