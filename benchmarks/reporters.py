"""A process of agents that report as hosted ones do, for benchmarks/load.py.

    python benchmarks/reporters.py AGENT...

Each agent reports an episode EPISODES_PER_SECOND times and beats every BEAT_SECONDS; each four are a world, which
reports its joint play after every episode. They learn nothing: what is measured is what their reports cost the others.
"""

import asyncio
import random
import sys
from typing import Final

from tars.producers.agent_reports import Reporter
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.settings import load_settings
from tars.schemas.agent import AgentBeat, AgentReported, AgentStarted
from tars.schemas.game import GameReported
from tars.schemas.hyperparameters import DQN

RUN: Final = "r-1"
EPISODES_PER_SECOND: Final = 2.0
"""As tars.agents.world has it, which would bring torch into these processes."""
BEAT_SECONDS: Final = 5.0


async def begin(bus: Bus, name: str) -> None:
    """Say that it runs."""
    started = AgentStarted(
        agent_id=name, run_id=RUN, role="policy", algorithm="dqn", world=None, values=dict(DQN.demo_start()),
        heard_version=0, applied_version=0,
    )  # fmt: skip
    await bus.publish(started, id=f"{name}.started")


async def live(reporter: Reporter, name: str, *, first: bool) -> None:
    """Report for ever; the first of four speaks for their world."""
    dice, episode, beat = random.Random(name), 0, 0.0  # noqa: S311 - the same in every run
    await asyncio.sleep(dice.random() / EPISODES_PER_SECOND)
    clock = asyncio.get_running_loop().time
    due = clock()
    while True:
        score = dice.gauss(0.7, 0.05)
        reporter.report(
            AgentReported(agent_id=name, run_id=RUN, episode=episode, step=32 * episode, score=score, version=0)
        )
        if first:
            reporter.report(
                GameReported(
                    game_id=name, episode=episode, conflicts={"veto": 0.1, "starved": 0.1}, latency=0.2, nash_conv=0.1,
                    gains=dict.fromkeys(("policy", "consensus", "ethical", "resource"), 0.02),
                )
            )  # fmt: skip
        if clock() >= beat:
            reporter.report(AgentBeat(agent_id=name, run_id=RUN, episode=episode))
            beat = clock() + BEAT_SECONDS
        episode += 1
        due += 1 / EPISODES_PER_SECOND
        await asyncio.sleep(due - clock())


async def report(names: list[str]) -> None:
    """Let them all live until killed."""
    bus = await connect_bus(load_settings().nats, "reporters", patience=30)
    await asyncio.gather(*(begin(bus, name) for name in names))
    reporter = Reporter(bus)
    async with asyncio.TaskGroup() as group:
        group.create_task(reporter.run())
        for place, name in enumerate(names):
            group.create_task(live(reporter, name, first=place % 4 == 0))


if __name__ == "__main__":
    asyncio.run(report(sys.argv[1:]))
