"""Rollouts of attached learners: real Stable-Baselines3 models, whose reports leave in bursts."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import tars
from reporting_fleet import ended, release
from sb3_models import model_of
from tars.runtime.bus import Bus
from tars.runtime.journal import Journal
from tars.runtime.leases import hold
from tars.runtime.running_agents import running_agents
from tars.runtime.servers import Server
from tars.schemas.effect import Plan
from tars.schemas.update import (
    UpdateJudged,
    UpdateStarted,
)
from tars.sync_worker.lifecycle import Stage
from tars.sync_worker.rollout import Rollout

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
AGENT = "ppo-7"
EPISODES = 100
"""Reported before anything is changed: they take PPO some seconds, and say too little of its level yet."""
OVER = (Stage.CONFIRMED, Stage.ROLLED_BACK, Stage.FAILED)


@asynccontextmanager
async def training(server: Server) -> AsyncIterator[None]:
    """A PPO model with the rollouts of its defaults, that learns CartPole for the length of the block."""
    model = model_of("ppo", 1, n_steps=2048, batch_size=64, n_epochs=10)
    link, going = tars.attach(model, agent_id=AGENT, broker=server.url), threading.Event()
    going.set()

    def learn() -> None:
        with link:
            while going.is_set():
                model.learn(2048, callback=link.callback(), reset_num_timesteps=False)

    thread = threading.Thread(target=learn, daemon=True)
    thread.start()
    try:
        yield
    finally:
        going.clear()
        await asyncio.to_thread(thread.join, 30)


async def reported(bus: Bus) -> None:
    """Wait until the agent has reported a while."""
    async with asyncio.timeout(60):
        while (await bus.jetstream.stream_info("REPORTS")).state.messages < EPISODES:
            await asyncio.sleep(0.1)


async def test_a_rollout_of_an_attached_learner_is_watched_and_says_what_it_can_find(
    bus: Bus, nats_server: Server
) -> None:
    rollout = Rollout(bus, apply_seconds=30.0, plan=Plan(pre=15, length=20))
    holding = asyncio.create_task(hold(bus, "run-rollout", "h", rollout, ack_wait=2))
    async with training(nats_server):
        await reported(bus)
        running = await running_agents(Journal(bus), [AGENT])
        await release(bus, AGENT, values={"ent_coef": 0.001}, agents=running)
        events = await ended(bus, *OVER, seconds=150)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    started = next(event for event in events if isinstance(event, UpdateStarted))
    assert started.unwatched == ""
    assert (started.slot_seconds or 0) >= 1
    assert (started.smallest_harm or 0) > 0
    assert not started.normalised
    assert ["against their own past" in event.reason for event in events if isinstance(event, UpdateJudged)] == [True]
