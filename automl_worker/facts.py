"""What a decision about a study needs beside its journal."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Annotated

from faststream import Context

from tars.automl_worker.champions import champions
from tars.automl_worker.study import ROLE_OF, Facts, trained_in
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.runtime.running_agents import running_agents
from tars.runtime.settings import Settings
from tars.runtime.snapshots import Snapshots
from tars.schemas.agent import AgentStarted
from tars.schemas.hyperparameters import Values
from tars.schemas.message import Envelope
from tars.schemas.running import RunningAgent
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.study import StartStudy, StudyCommand


async def known_agents(bus: Bus) -> list[str]:
    """Every agent that ever started, by the subjects of the ledger."""
    kind = AgentStarted.model_fields["kind"].default
    info = await bus.jetstream.stream_info("EVENTS", subjects_filter=f"tars.event.{kind}.*")
    return sorted(subject.rpartition(".")[2] for subject in info.state.subjects or {})


async def newest_snapshots(bus: Bus, agent_ids: Iterable[str]) -> dict[str, SnapshotRef]:
    """The newest snapshot of each of these agents that has one."""
    names, snapshots = tuple(agent_ids), Snapshots(bus)
    found = await asyncio.gather(*(snapshots.newest(name) for name in names))
    return {name: ref for name, ref in zip(names, found, strict=True) if ref is not None}


def _task(command: StartStudy, agents: Mapping[str, RunningAgent]) -> tuple[str, str] | None:
    """What algorithm in what environment the study is about; None: nothing that it could be about."""
    target = next(iter(agents.values()), None)
    algorithm = command.algorithm if target is None else target.algorithm
    return None if algorithm is None else (algorithm, trained_in(command, target) or ROLE_OF[algorithm])


async def gather(
    command: StudyCommand,
    envelope: Annotated[Envelope, Context()],
    bus: Annotated[Bus, Context()],
    journal: Annotated[Journal, Context()],
    settings: Annotated[Settings, Context()],
) -> Facts:
    """Read who the study is for, and what the settings say."""
    agents: dict[str, RunningAgent] = {}
    snapshots: dict[str, SnapshotRef] = {}
    known: list[Values] = []
    if isinstance(command, StartStudy):
        agents = await running_agents(journal, await known_agents(bus) if command.role else command.agents)
        if command.role is not None:
            agents = {name: a for name, a in agents.items() if a.role == command.role and a.alive}
        if command.start == "snapshot":
            snapshots = await newest_snapshots(bus, agents)
        if command.warm_start and (task := _task(command, agents)) is not None:
            known = await champions(bus, journal, *task)
    return Facts(
        id=envelope.id,
        time=envelope.time,
        by=envelope.by,
        barred=envelope.barred,
        late=envelope.late,
        agents=agents,
        threshold=settings.autonomous_threshold,
        quick=settings.use_quick_mode,
        real=settings.use_real_training,
        quick_episodes=(settings.quick_mode_train_episodes, settings.quick_mode_eval_episodes),
        full_episodes=(settings.real_training_episodes, settings.real_eval_episodes),
        snapshots=snapshots,
        champions=known,
    )
