"""game.* reports -> conflicts and equilibria. Pure."""

from datetime import datetime

from tars.schemas.game import GameReported
from tars.schemas.views import ConflictRow, EquilibriumRow


def conflict_row(report: GameReported, at: datetime) -> ConflictRow:
    """How often the roles got in each other's way."""
    return ConflictRow(
        at=at, game_id=report.game_id, episode=report.episode, conflicts=report.conflicts, latency=report.latency
    )


def equilibrium_row(report: GameReported, at: datetime) -> EquilibriumRow:
    """How far the joint play is from an equilibrium."""
    return EquilibriumRow(
        at=at, game_id=report.game_id, episode=report.episode, nash_conv=report.nash_conv, gains=report.gains
    )
