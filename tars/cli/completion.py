"""What the Tab key offers: keys of hyperparameters, roles, and ids that there are now; nothing where nobody answers."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, get_args

from tars.cli.connection import connected
from tars.cli.output import quiet
from tars.schemas.hyperparameters import ALGORITHMS
from tars.schemas.message import Role
from tars.schemas.queries import Ask

PATIENCE: Final = 0.5
"""Seconds that whoever presses Tab waits for a server."""
NEWEST: Final = 50


def hyperparameters(incomplete: str) -> list[str]:
    """`KEY=`, for every key that some algorithm has."""
    names = sorted({key.name for algorithm in ALGORITHMS.values() for key in algorithm.hyperparameters})
    return _beginning(incomplete, (f"{name}=" for name in names))


def game_roles(incomplete: str) -> list[str]:
    """Roles that live agents have."""
    return _beginning(incomplete, dict.fromkeys(row.role for row in _rows("agents") if row.role))


def trust_roles(incomplete: str) -> list[str]:
    """Roles of a trust file."""
    return _beginning(incomplete, get_args(Role))


def agents(incomplete: str) -> list[str]:
    """Live agents."""
    return _beginning(incomplete, (row.agent_id for row in _rows("agents")))


def studies(incomplete: str) -> list[str]:
    """Studies, the newest first."""
    return _beginning(incomplete, (row.study_id for row in _rows("studies")))


def updates_at(*stages: str) -> Callable[[str], list[str]]:
    """A completion of updates in one of these stages, the newest first; without any: of all."""

    def complete(incomplete: str) -> list[str]:
        return _beginning(incomplete, (r.update_id for r in _rows("updates") if not stages or r.stage in stages))

    return complete


def updates_and_agents(incomplete: str) -> list[str]:
    """Whatever has a history."""
    return updates_at()(incomplete) + agents(incomplete)


def _beginning(incomplete: str, offered: Iterable[str]) -> list[str]:
    return [text for text in offered if text.startswith(incomplete)]


def _rows(query: str) -> list[Any]:
    """Ask the consumers; whatever goes wrong, a person at a prompt is told nothing of it."""
    try:
        with quiet():
            return asyncio.run(_asked(query))
    except Exception:  # noqa: BLE001 - a traceback between two words of a command line helps nobody
        return []


async def _asked(query: str) -> list[Any]:
    from tars.producers.async_client import AsyncClient  # noqa: PLC0415 - help must be quick
    from tars.producers.commands import sender  # noqa: PLC0415
    from tars.runtime.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    async with connected(settings, "completion", "person", patience=PATIENCE) as bus:
        return await AsyncClient(bus, sender(settings)).query(query, Ask(limit=NEWEST))
