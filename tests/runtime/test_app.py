"""A worker process seen from outside: healthy at once, ready when it can work, back after an outage."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from tars.runtime import app
from tars.runtime.app import CannotListen, Worker, listen
from tars.runtime.bus import Bus, Unreachable, connect_bus
from tars.runtime.provision import NotProvisioned, check_provisioned
from tars.runtime.servers import Server, start_nats
from tars.runtime.settings import Settings
from tars.runtime.stack import answers
from tars.sync_worker.handlers import router

pytestmark = pytest.mark.anyio


class Running:
    """A worker that serves in this process."""

    def __init__(self, worker: Worker) -> None:
        self._port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(worker.serve(0, started=self._port.set_result))

    async def is_up(self, path: str, host: str = "127.0.0.1") -> bool:
        return await answers(f"http://{host}:{await self._port}/{path}")

    async def until(self, path: str, wanted: bool, host: str = "127.0.0.1") -> None:
        async with asyncio.timeout(20):
            while await self.is_up(path, host) is not wanted:
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_a_worker_is_healthy_and_becomes_ready(bus: Bus, settings: Settings) -> None:
    running = Running(Worker("sync", settings, durables=("update-command",)))
    await running.until("health", wanted=True)
    await running.until("ready", wanted=True)
    assert await running.is_up("metrics")
    await running.stop()


async def test_without_nats_a_worker_waits_healthy_but_not_ready(settings: Settings) -> None:
    lonely = settings.model_copy(update={"nats_url": "nats://127.0.0.1:9"})
    running = Running(Worker("sync", lonely))
    await running.until("health", wanted=True)
    assert not await running.is_up("ready")
    await running.stop()


async def test_a_worker_outlives_a_killed_nats_server(
    bus: Bus, settings: Settings, nats_server: Server, tmp_path: Path
) -> None:
    running = Running(Worker("sync", settings, durables=("update-command",)))
    await running.until("ready", wanted=True)
    nats_server.kill()
    await running.until("ready", wanted=False)
    assert await running.is_up("health")
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    await running.until("ready", wanted=True)
    await running.stop()
    again.stop()


async def test_a_worker_outlives_a_nats_server_that_dies_while_it_starts(
    bus: Bus, settings: Settings, nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = asyncio.Event()

    async def looks(*what: Any) -> None:
        if not killed.is_set():
            nats_server.kill()
            killed.set()
        await check_provisioned(*what)

    monkeypatch.setattr(app, "check_provisioned", looks)
    running = Running(Worker("sync", settings, durables=("update-command",)))
    await killed.wait()
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    await running.until("ready", wanted=True)
    await running.stop()
    again.stop()


@pytest.mark.slow
async def test_a_worker_holds_no_more_after_a_long_outage_than_before(
    bus: Bus, settings: Settings, nats_server: Server, tmp_path: Path
) -> None:
    """Its subscribers wait for the server; none of them is started anew again and again."""
    durables = ("update-command", "propose-champion", "run-rollout")
    running = Running(Worker("sync", settings, durables=durables, routers=(router,)))
    await running.until("ready", wanted=True)
    nats_server.kill()
    await running.until("ready", wanted=False)
    await asyncio.sleep(1)
    before = tasks()
    await asyncio.sleep(4)
    assert tasks() - before < 10
    again = start_nats(tmp_path / "nats", port=int(nats_server.url.rpartition(":")[2]))
    await running.until("ready", wanted=True)
    await running.stop()
    again.stop()


def tasks() -> int:
    """Loops of subscribers that somebody still holds, done or not."""
    gc.collect()
    held = [held for held in gc.get_objects() if issubclass(type(held), asyncio.Task)]  # asks no object for its class
    return sum("_consume_pull" in getattr(task.get_coro(), "__qualname__", "") for task in held)


async def test_a_worker_without_its_durables_ends_with_what_to_run(nats_server: Server, settings: Settings) -> None:
    with pytest.raises(NotProvisioned, match="tars provision"):
        await Worker("sync", settings, durables=("update-command",)).serve(0)


async def test_a_task_that_breaks_ends_the_worker(bus: Bus, settings: Settings) -> None:
    async def breaks(_: Worker) -> None:
        raise ZeroDivisionError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        await Worker("sync", settings, tasks=(breaks,)).serve(0)
    assert caught.group_contains(ZeroDivisionError)


async def test_a_script_does_not_wait_for_ever() -> None:
    with pytest.raises(Unreachable, match="no NATS server answers at nats://127.0.0.1:9"):
        await connect_bus("nats://127.0.0.1:9", "test", patience=0.5)


async def test_a_password_in_an_address_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    address = "nats://ada:sec@ret@127.0.0.1:9,nats://token@127.0.0.1:9"
    waiting = asyncio.create_task(connect_bus(address, "a worker"))
    async with asyncio.timeout(30):
        while not (urls := [vars(record)["url"] for record in caplog.records if "url" in vars(record)]):
            await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    with pytest.raises(Unreachable) as caught:
        await connect_bus(address, "test", patience=0.5)
    for shown in (urls[0], str(caught.value)):
        assert "nats://127.0.0.1:9,nats://127.0.0.1:9" in shown


async def test_a_taken_port_gives_way_to_a_free_one() -> None:
    first = listen(0)
    port = first.getsockname()[1]
    second = listen(port)
    assert second.getsockname()[1] != port
    first.close()
    second.close()


async def test_in_a_container_a_worker_can_be_asked_from_outside(bus: Bus, settings: Settings) -> None:
    running = Running(Worker("sync", settings.model_copy(update={"listen_address": "127.0.0.2"})))
    await running.until("ready", wanted=True, host="127.0.0.2")
    assert not await running.is_up("health")
    await running.stop()


async def test_an_address_of_another_machine_is_named_with_the_setting() -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1 .*LISTEN_ADDRESS"):
        listen(0, "192.0.2.1")
