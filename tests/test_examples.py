"""The scripts in examples/ run as they stand, on a real server, and what they print is true."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tars.consumers.app import worker as consumers
from tars.runtime.bus import Bus
from tars.runtime.journal import History, Journal
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.agent import AgentEvent, AgentReloaded, AgentStarted
from tars.schemas.message import Event
from tars.sync_worker.app import worker as sync

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
EXAMPLES = Path(__file__).parents[1] / "examples"
SECONDS = 120


async def started(example: str, folder: Path, *options: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / example), *options, cwd=folder, stdout=-1, stderr=-1,
        env=os.environ | {"TARS_DATA": str(folder), "OMP_NUM_THREADS": "1"} | environment,
    )  # fmt: skip


async def ended(process: asyncio.subprocess.Process) -> tuple[str, str]:
    async with asyncio.timeout(SECONDS):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


async def said(bus: Bus, agent_id: str, kind: type[Event]) -> list[AgentEvent]:
    async with asyncio.timeout(SECONDS):
        while True:
            history: History[AgentEvent] = await Journal(bus).read("agent", agent_id)
            if any(isinstance(event, kind) for event in history.events):
                return list(history.events)
            await asyncio.sleep(0.05)


async def test_a_script_proposes_what_a_model_and_a_loop_then_run(
    bus: Bus, settings: Settings, nats_server: Server, tmp_path: Path
) -> None:
    workers = [asyncio.create_task(worker.serve(0)) for worker in (sync(settings), consumers(settings))]
    cases = (
        ("sb3_model.py", ("--steps", "2000000"), "cartpole-ppo", "gae_lambda=0.9", 0.9, "gae_lambda"),
        ("torch_loop.py", ("--iterations", "1000000"), "cartpole-loop", "ent_coef=0.02", 0.02, "ent_coef"),
    )
    for example, options, agent_id, change, value, key in cases:
        learner = await started(example, tmp_path, *options, NATS_URL=nats_server.url)
        await said(bus, agent_id, AgentStarted)
        async with asyncio.timeout(SECONDS):
            while not await bus.last("REPORTS", f"tars.report.agent.reported.v1.{agent_id}"):
                await asyncio.sleep(0.1)
        publisher = await started(
            "publish.py", tmp_path, "--agent", agent_id, "--set", change, NATS_URL=nats_server.url
        )
        events = await said(bus, agent_id, AgentReloaded)
        (reloaded,) = [event for event in events if isinstance(event, AgentReloaded)]
        assert reloaded.effective[key] == value
        for process in (publisher, learner):
            process.terminate()
            await process.wait()
    for task in workers:
        task.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def test_without_a_server_a_change_is_tried_and_a_loop_ends_as_it_would_alone(tmp_path: Path) -> None:
    tried = await started("sb3_model.py", tmp_path, "--steps", "6000", "--try", "gamma=0.95")
    alone = await started("torch_loop.py", tmp_path, "--iterations", "30", NATS_URL="nats://127.0.0.1:9")
    out, _ = await ended(tried)
    assert re.match(r"(kept|undone|watching).*: effect", out), out
    out, err = await ended(alone)
    assert out.startswith("runs version 0: {'learning_rate': 0.002")
    assert "Traceback" not in err
