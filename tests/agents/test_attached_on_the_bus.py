"""Attached learners on a real NATS server: configured, read back, reported; and a loop that never waits for it."""

import asyncio
import json
import logging
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

import tars
from clusters import Link
from sb3_models import model_of
from tars.agents.attach import Link as Attached
from tars.runtime.bus import Bus, connect_bus
from tars.runtime.journal import History, Journal
from tars.runtime.servers import Server, start_nats
from tars.schemas.agent import (
    AgentAccepted,
    AgentBeat,
    AgentEvent,
    AgentRefused,
    AgentReloaded,
    AgentReported,
    AgentRestored,
    AgentStarted,
    AgentStopped,
    ConfigureAgent,
)
from tars.schemas.hyperparameters import Value
from tars.schemas.message import By
from tars.schemas.snapshot import SnapshotRef
from tars.schemas.streams import configure_subject

pytestmark = pytest.mark.anyio
AGENT = "ppo-7"
SECONDS = 30


class Training:
    """A user's run in a thread of its own: a model that learns until it is told to stop."""

    def __init__(self, link: Attached, model: Any) -> None:
        self.link, self.model = link, model
        self.error: Exception | None = None
        self._going = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self.link:
                while self._going:
                    self.model.learn(256, callback=self.link.callback(), reset_num_timesteps=False)
        except Exception as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    async def stop(self) -> None:
        self._going = False
        await asyncio.to_thread(self._thread.join, SECONDS)
        assert not self._thread.is_alive()
        assert self.error is None


async def events(bus: Bus, enough: Callable[[list[AgentEvent]], object], agent_id: str = AGENT) -> list[AgentEvent]:
    """What the agent said, once it is enough."""
    async with asyncio.timeout(SECONDS):
        while True:
            history: History[AgentEvent] = await Journal(bus).read("agent", agent_id)
            if enough(list(history.events)):
                return list(history.events)
            await asyncio.sleep(0.02)


def said(kind: type[Any], times: int = 1) -> Callable[[list[AgentEvent]], bool]:
    return lambda found: sum(isinstance(event, kind) for event in found) >= times


async def configure(bus: Bus, base: int, values: dict[str, Value], agent_id: str = AGENT, **more: Any) -> int:
    about: dict[str, Any] = {"agent_id": agent_id, "update_id": f"u-{base}", "purpose": "update", "base": base}
    command = ConfigureAgent(**about, values=values, by=By(principal="ada"), **more)
    return await bus.publish(command, id=f"{agent_id}-{base}", after=(configure_subject(agent_id), base))


async def test_a_model_that_trains_is_configured_over_the_bus_and_reports(bus: Bus, nats_server: Server) -> None:
    model = model_of("ppo")
    link = tars.attach(model, agent_id=AGENT, role="pilot", broker=nats_server.url)
    training = Training(link, model)
    (started, *_) = await events(bus, said(AgentStarted))
    assert isinstance(started, AgentStarted)
    assert (started.role, started.algorithm, started.world, started.applied_version) == ("pilot", "ppo", None, 0)
    assert started.values == link.values
    version = await configure(bus, 0, {**started.values, "gamma": 0.9, "n_steps": 64})
    _, accepted, reloaded = await events(bus, said(AgentReloaded))
    assert isinstance(accepted, AgentAccepted)
    assert isinstance(reloaded, AgentReloaded)
    assert (accepted.version, accepted.applies, reloaded.version) == (version, "rebuild", version)
    assert reloaded.effective == {**started.values, "gamma": 0.9, "n_steps": 64}
    assert reloaded.weights_before == reloaded.weights_after
    assert link.version == version
    reported = AgentReported.model_validate_json(await report(bus, "reported"))
    assert (reported.run_id, reported.finite) == (started.run_id, True)
    assert reported.score > 5
    assert AgentBeat.model_validate_json(await report(bus, "beat")).run_id == started.run_id
    await training.stop()
    (*_, last) = await events(bus, said(AgentStopped))
    assert isinstance(last, AgentStopped)
    assert last.cause == "finished"
    assert link.problems == ()


async def report(bus: Bus, verb: str) -> bytes:
    """Wait for the agent's newest report of a kind: an episode, or a beat."""
    async with asyncio.timeout(30):
        while (found := await bus.last("REPORTS", f"tars.report.agent.{verb}.v1.{AGENT}")) is None:
            await asyncio.sleep(0.05)
    return found[2]


async def test_a_configuration_it_cannot_run_is_refused_and_it_goes_on(bus: Bus, nats_server: Server) -> None:
    model = model_of("ppo")
    training = Training(link := tars.attach(model, agent_id=AGENT, broker=nats_server.url), model)
    (started, *_) = await events(bus, said(AgentStarted))
    assert isinstance(started, AgentStarted)
    base = await configure(bus, 0, {**started.values, "batch_size": 20, "gamma": 0.9})
    (*_, refused) = await events(bus, said(AgentRefused))
    assert isinstance(refused, AgentRefused)
    assert refused.reasons == ("batch_size = 20 does not divide the rollout of 32 steps",)
    await configure(bus, base, {**started.values, "gamma": 0.9})
    await events(bus, said(AgentReloaded))
    await training.stop()
    assert link.values == {**started.values, "gamma": 0.9}


async def test_it_keeps_the_values_of_its_code_unless_it_adopts(bus: Bus, nats_server: Server) -> None:
    wanted = {**tars.attach(model_of("dqn"), broker=None).values, "gamma": 0.9}
    version = await configure(bus, 0, wanted)
    drifting = tars.attach(model_of("dqn"), agent_id=AGENT, broker=nats_server.url)
    (started, *_) = await events(bus, said(AgentStarted))
    assert isinstance(started, AgentStarted)
    assert (started.heard_version, started.applied_version, started.values["gamma"]) == (version, 0, 0.99)
    drifting.close()
    await events(bus, said(AgentStopped))
    model = model_of("dqn")
    adopting = tars.attach(model, agent_id=AGENT, broker=nats_server.url, adopt=True)
    training = Training(adopting, model)
    found = await events(bus, said(AgentReloaded))
    assert [event.kind.split(".")[1] for event in found] == ["started", "stopped", "started", "accepted", "reloaded"]
    await training.stop()
    assert (adopting.version, adopting.values) == (version, wanted)


async def test_a_loop_that_never_reads_a_value_accepts_and_then_refuses_it(bus: Bus, nats_server: Server) -> None:
    weight = nn.Parameter(torch.ones(1))
    args = Namespace(clip_coef=0.2, gamma=0.99)
    link = tars.attach(
        optimizer=optim.SGD([weight], lr=0.1), hyperparameters=args, agent_id=AGENT, broker=nats_server.url
    )
    optimizer = link._learner.adapter._state.optimisers["optimiser"]  # type: ignore[attr-defined]  # noqa: SLF001

    async def iterate(until: asyncio.Task[list[AgentEvent]]) -> list[AgentEvent]:
        while not until.done():
            weight.grad = torch.ones(1)
            optimizer.step()
            del args.clip_coef
            args.clip_coef = 0.2
            link.step(episode_return=1.0)
            await asyncio.sleep(0.005)
        return until.result()

    await events(bus, said(AgentStarted))
    await configure(bus, 0, {**link.values, "gamma": 0.9})
    *_, accepted, refused = await iterate(asyncio.create_task(events(bus, said(AgentRefused))))
    assert isinstance(accepted, AgentAccepted)
    assert isinstance(refused, AgentRefused)
    assert refused.reasons == ("gamma: no effect, nothing read gamma in 1 iteration after it was set",)
    assert args.gamma == 0.99
    assert link.apply({"gamma": 0.9}).state.startswith("refused: this agent is on the bus")
    await asyncio.to_thread(link.close)


async def test_a_rollout_takes_its_snapshot_and_goes_back_to_it(bus: Bus, nats_server: Server) -> None:
    for number, where in enumerate((None, "bus")):
        agent_id, model = f"dqn-{number}", model_of("dqn")
        link = tars.attach(model, agent_id=agent_id, broker=nats_server.url, snapshots=where)  # type: ignore[arg-type]
        training, before = Training(link, model), link.values
        await events(bus, said(AgentStarted), agent_id)
        base = await configure(bus, 0, {**before, "gamma": 0.9}, agent_id, snapshot_first=True)
        (*_, reloaded) = await events(bus, said(AgentReloaded), agent_id)
        assert isinstance(reloaded, AgentReloaded)
        ref = reloaded.snapshot
        assert isinstance(ref, SnapshotRef)
        await configure(bus, base, before, agent_id, restore=ref)
        found = await events(bus, said(AgentReloaded, 2), agent_id)
        (restored,) = [event for event in found if isinstance(event, AgentRestored)]
        assert restored.weights == reloaded.weights_before
        await training.stop()
        assert link.values == before


async def test_a_run_that_ends_before_its_first_word_was_acknowledged_still_says_that_it_ended(
    bus: Bus, nats_server: Server
) -> None:
    link = Link(int(nats_server.url.rpartition(":")[2]), answers_after=0.1)
    attached = tars.attach(model_of("dqn"), agent_id=AGENT, broker=f"nats://127.0.0.1:{await link.listen()}")
    await events(bus, said(AgentStarted))  # stored; its agent does not know yet
    await asyncio.to_thread(attached.close)
    found = await events(bus, said(AgentStopped))
    assert [type(event) for event in found] == [AgentStarted, AgentStopped]
    await link.close()


async def looping(bus: Bus, nats_server: Server) -> tuple[Attached, nn.Parameter]:
    """A plain loop's learner on the bus, and all its weights."""
    weight = nn.Parameter(torch.ones(1))
    sgd = optim.SGD([weight], lr=0.1)
    link = tars.attach(optimizer=sgd, algorithm="ppo", agent_id=AGENT, broker=nats_server.url)
    await events(bus, said(AgentStarted))
    return link, weight


async def test_a_return_that_is_no_number_is_reported_as_a_failed_episode_of_the_same_run(
    bus: Bus, nats_server: Server
) -> None:
    link, _ = await looping(bus, nats_server)
    for returned in (7.0, float("nan"), float("inf"), 3):
        link.step(episode_return=returned)
    reported = await reports(bus, 4)
    assert [(each.score, each.failed, each.value) for each in reported] == [
        (7.0, False, 7.0), (0.0, True, -inf), (0.0, True, -inf), (3.0, False, 3.0),
    ]  # fmt: skip
    await asyncio.to_thread(link.close)
    found = await events(bus, said(AgentStopped))
    assert [type(event) for event in found] == [AgentStarted, AgentStopped]
    assert link.problems == ()


async def test_a_diverged_learner_whose_returns_are_no_numbers_says_that_it_diverged(
    bus: Bus, nats_server: Server
) -> None:
    link, weight = await looping(bus, nats_server)
    weight.data.fill_(float("nan"))
    link.step(episode_return=float("nan"))
    (reported,) = await reports(bus, 1)
    assert (reported.failed, reported.finite) == (True, False)
    await asyncio.to_thread(link.close)


async def reports(bus: Bus, number: int) -> list[AgentReported]:
    """The agent's episodes, once there are so many."""
    async with asyncio.timeout(SECONDS):
        while len(found := await Journal(bus).messages("REPORTS", f"tars.report.agent.reported.*.{AGENT}")) < number:
            await asyncio.sleep(0.05)
    return [entry.event for entry in found]


@pytest.mark.slow
async def test_without_a_server_attaching_takes_no_time_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    model, began = model_of("dqn"), time.monotonic()
    link = tars.attach(model, agent_id=AGENT, broker="nats://127.0.0.1:9")
    assert time.monotonic() - began < 2  # it does not wait for a connection
    model.learn(200, callback=link.callback())
    async with asyncio.timeout(SECONDS):
        while not link.problems:
            await asyncio.sleep(0.05)
    assert "no NATS server answers at nats://127.0.0.1:9" in link.problems[0]
    await asyncio.to_thread(link.close)
    told = [record for record in caplog.records if record.levelno >= logging.WARNING and "no NATS" in record.message]
    assert len(told) == 1


@pytest.mark.slow
async def test_while_nats_is_away_the_loop_goes_on_and_afterwards_it_says_what_happened(
    bus: Bus, nats_server: Server, tmp_path: Path
) -> None:
    model = model_of("dqn")
    link = tars.attach(model, agent_id=AGENT, broker=nats_server.url)
    training = Training(link, model)
    await events(bus, said(AgentStarted))
    nats_server.kill()
    steps = model.num_timesteps
    async with asyncio.timeout(SECONDS):
        while model.num_timesteps < steps + 500:
            await asyncio.sleep(0.02)
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    async with asyncio.timeout(SECONDS):
        while not bus.client.is_connected:
            await asyncio.sleep(0.02)
    await configure(bus, 0, {**link.values, "gamma": 0.9})
    await events(bus, said(AgentReloaded))
    await training.stop()
    found = await events(bus, said(AgentStopped))
    assert [type(event) for event in found] == [AgentStarted, AgentAccepted, AgentReloaded, AgentStopped]
    await bus.client.close()
    again.stop()


async def test_learners_of_one_process_share_a_thread_and_one_that_ends_leaves_the_others(
    bus: Bus, nats_server: Server
) -> None:
    before = threading.active_count()
    links = {name: tars.attach(model_of("ppo"), agent_id=name, broker=nats_server.url) for name in ("a", "b", "c")}
    for name in links:
        await events(bus, said(AgentStarted), name)
    assert threading.active_count() <= before + 1
    await asyncio.to_thread(links["a"].close)
    await events(bus, said(AgentStopped), "a")
    await configure(bus, 0, {**links["b"].values, "gamma": 0.9}, "b")
    await events(bus, said(AgentAccepted), "b")
    for link in links.values():
        await asyncio.to_thread(link.close)


@pytest.mark.slow
async def test_it_follows_a_tars_up_that_starts_again_at_another_address(
    bus: Bus, nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TARS_DATA", str(tmp_path))
    monkeypatch.delenv("NATS_URL", raising=False)
    told = tmp_path / "endpoints.json"
    told.write_text(json.dumps({"nats": nats_server.url}))
    model = model_of("dqn")
    training = Training(link := tars.attach(model, agent_id=AGENT), model)
    await events(bus, said(AgentStarted))
    await bus.client.close()
    nats_server.kill()
    again = start_nats(tmp_path / "nats")
    told.write_text(json.dumps({"nats": again.url}))
    new = await connect_bus(again.url, "test", patience=5)
    await events(new, said(AgentStarted, 2))
    await configure(new, 0, {**link.values, "gamma": 0.9})
    await events(new, said(AgentReloaded))
    await training.stop()
    await new.close()
    again.stop()


async def test_a_run_that_ends_by_an_error_says_so(bus: Bus, nats_server: Server) -> None:
    link = tars.attach(model_of("ppo"), agent_id=AGENT, broker=nats_server.url)
    await events(bus, said(AgentStarted))

    def run() -> None:
        with link:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        await asyncio.to_thread(run)
    (*_, stopped) = await events(bus, said(AgentStopped))
    assert isinstance(stopped, AgentStopped)
    assert (stopped.cause, stopped.detail) == ("error", "RuntimeError: out of memory")
