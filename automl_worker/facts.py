"""What a decision about a study needs beside its journal."""

from typing import Annotated

from faststream import Context

from tars.automl_worker.study import Facts
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.runtime.running_agents import running_agents
from tars.runtime.settings import Settings
from tars.schemas.agent import AgentStarted
from tars.schemas.message import Envelope
from tars.schemas.running import RunningAgent
from tars.schemas.study import StartStudy, StudyCommand


async def known_agents(bus: Bus) -> list[str]:
    """Every agent that ever started, by the subjects of the ledger."""
    kind = AgentStarted.model_fields["kind"].default
    info = await bus.jetstream.stream_info("EVENTS", subjects_filter=f"tars.event.{kind}.*")
    return sorted(subject.rpartition(".")[2] for subject in info.state.subjects or {})


async def gather(
    command: StudyCommand,
    envelope: Annotated[Envelope, Context()],
    bus: Annotated[Bus, Context()],
    journal: Annotated[Journal, Context()],
    settings: Annotated[Settings, Context()],
) -> Facts:
    """Read who the study is for, and what the settings say."""
    agents: dict[str, RunningAgent] = {}
    if isinstance(command, StartStudy):
        agents = await running_agents(journal, await known_agents(bus) if command.role else command.agents)
        if command.role is not None:
            agents = {name: a for name, a in agents.items() if a.role == command.role and a.alive}
    return Facts(
        id=envelope.id,
        time=envelope.time,
        by=envelope.by,
        late=envelope.late,
        agents=agents,
        threshold=settings.autonomous_threshold,
        quick=settings.use_quick_mode,
        real=settings.use_real_training,
        quick_episodes=(settings.quick_mode_train_episodes, settings.quick_mode_eval_episodes),
        full_episodes=(settings.real_training_episodes, settings.real_eval_episodes),
    )
