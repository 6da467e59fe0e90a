"""`tars up`, as a person starts it: everything on one machine, through bad input, faults, a stop and a second start."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tars.producers.client import Client, connect
from tars.producers.commands import CommandRefused, OutcomeUnknown
from tars.runtime.bus import connect_bus
from tars.runtime.view_store import RedisViews
from tars.schemas.hyperparameters import Value

pytestmark = pytest.mark.slow
START_SECONDS = 90.0
ROLLOUT_SECONDS = 240.0
"""Window before the change, and short watches after it, at an episode a second."""
ENDS = {"update.confirmed.v1", "update.rolled-back.v1"}
"""What a watch of live learners finds differs from run to run."""
ENVIRONMENT = os.environ | {
    "ACK_WAIT_SECONDS": "3", "RATE_LIMIT_PER_MINUTE": "0", "TARS_USER": "ada", "WATCH_EPISODES": "10",
}  # fmt: skip


def until(condition: Callable[[], object], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


def endpoints(folder: Path) -> dict[str, object]:
    try:
        return dict(json.loads((folder / "endpoints.json").read_text()))
    except FileNotFoundError:
        return {}


@contextmanager
def up(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run `tars up` until the block ends, then stop it as Ctrl-C does."""
    command = [sys.executable, "-m", "tars", "up", "--no-browser", "--data", str(folder)]
    with (folder.parent / "up.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=ENVIRONMENT)
        try:
            until(lambda: endpoints(folder) or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, (folder.parent / "up.log").read_text()[-2000:]
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("TARS_DATA", str(folder))  # where scripts find the operator's key
                yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def values(rate: float) -> dict[str, Value]:
    return {"learning_rate": rate, "gamma": 0.95}


def rates(bus: Client) -> set[Value]:
    """Learning rates that the policy agents run."""
    return {row.values["learning_rate"] for row in bus.agents() if row.role == "policy"}


def take_back(bus: Client, update_id: str) -> None:
    """Roll back, and wait for it; its watch may have been faster."""
    with suppress(CommandRefused):
        bus.roll_back(update_id, "only to see")
    assert bus.wait_for_update(update_id, timeout=60, rolled_back=True).kind == "update.rolled-back.v1"


def pid_of(folder: Path, server: str) -> int:
    return int((folder / server / "lock").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One running stack for the tests of this module."""
    data = tmp_path_factory.mktemp("up") / "data"
    with up(data):
        yield data


def test_every_worker_is_ready_and_says_what_it_counts(folder: Path) -> None:
    workers = endpoints(folder)["workers"]
    assert isinstance(workers, dict)
    assert set(workers) == {"coordinator", "trainer-1", "trainer-2", "sync", "consumers", "agents"}
    for address in workers.values():
        for path in ("health", "ready", "metrics"):
            with urllib.request.urlopen(f"{address}/{path}", timeout=5) as reply:
                assert reply.status == 200


def test_a_second_start_on_the_same_folder_is_refused_and_told_by_whom(folder: Path) -> None:
    command = [sys.executable, "-m", "tars", "up", "--no-browser", "--data", str(folder)]
    second = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60, check=False)
    assert second.returncode == 1
    assert "is in use by `tars up` with pid" in second.stderr.splitlines()[-1]
    assert endpoints(folder)


def test_a_script_proposes_approves_waits_and_rolls_back(folder: Path) -> None:
    with connect(str(endpoints(folder)["nats"]), user="ada") as bus:
        update = bus.propose(values(1e-3), role="policy", reason="by hand")
        update.approve("small")
        until(lambda: 1e-3 in rates(bus), ROLLOUT_SECONDS)
        assert update.roll_back("only to see").kind == "update.rolled-back.v1"
        until(lambda: (row := bus.update(update.update_id)) is not None and row.stage == "rolled back")
        row = bus.update(update.update_id)
    assert row is not None
    assert [entry.by for entry in row.history if entry.by] == ["ada"] * 5
    assert all(back.equal and back.weights_kept and back.buffer_kept for back in row.read_backs)


def test_who_has_no_key_is_refused_and_a_single_operator_is_marked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(endpoints(folder)["nats"])
    with connect(address) as bus:
        update = bus.propose(values(4e-3), agents=("policy-0",))
        monkeypatch.setenv("TARS_DATA", str(folder / "elsewhere"))
        with connect(address, user="mallory") as nobody, pytest.raises(CommandRefused, match="it is not signed"):
            nobody.approve(update.update_id)
        update.approve("my own")
        take_back(bus, update.update_id)
        until(lambda: (row := bus.update(update.update_id)) is not None and row.stage == "rolled back")
        row = bus.update(update.update_id)
    assert row is not None
    assert row.approved_by == "ada (single operator)"
    assert [entry.kind for entry in row.history if "refused" in entry.kind] == []  # who proves no name leaves no trace
    assert (folder / "keys" / "operator.key").stat().st_mode & 0o777 == 0o600


def test_everything_wrong_with_a_proposal_is_said_at_once(folder: Path) -> None:
    with connect(str(endpoints(folder)["nats"])) as bus, pytest.raises(CommandRefused) as caught:
        bus.propose({"learning_rate": 7.0, "gama": 0.9, "batch_size": 1.5}, agents=("policy-0", "nobody", "ethical-0"))
    text = str(caught.value)
    for part in (
        "learning_rate = 7 is outside",
        "gama is no hyperparameter",
        "batch_size = 1.5",
        "no agent nobody",
        "its agents learn by dqn and ppo",
    ):
        assert part in text


def test_approving_and_rejecting_at_once_has_one_outcome(folder: Path) -> None:
    with connect(str(endpoints(folder)["nats"])) as bus, connect(str(endpoints(folder)["nats"])) as other:
        update = bus.propose(values(2e-3), agents=("policy-0",))
        outcomes: list[str] = []

        def attempt(what: Callable[[str], object], name: str) -> None:
            try:
                what(update.update_id)
                outcomes.append(name)
            except CommandRefused as refused:
                outcomes.append(f"{name} refused: {refused}")

        threads = [
            threading.Thread(target=attempt, args=(bus.approve, "approve")),
            threading.Thread(target=attempt, args=(other.reject, "reject")),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if "approve" in outcomes:
            take_back(bus, update.update_id)
        last = update.wait(60)
    assert sum("refused" not in outcome for outcome in outcomes) == 1, outcomes
    assert last.kind == ("update.rolled-back.v1" if "approve" in outcomes else "update.rejected.v1")


def test_an_unknown_and_a_finished_update_cannot_be_approved(folder: Path) -> None:
    with connect(str(endpoints(folder)["nats"])) as bus:
        with pytest.raises(CommandRefused, match="there is no update nobody"):
            bus.approve("nobody")
        update = bus.propose(values(3e-3), agents=("policy-1",))
        update.reject("no")
        with pytest.raises(CommandRefused, match="update is rejected"):
            update.approve()


def test_an_unreadable_configuration_is_put_aside_and_the_agent_goes_on(folder: Path) -> None:
    nats_url = str(endpoints(folder)["nats"])

    async def send() -> None:
        bus = await connect_bus(nats_url, "test", patience=5)
        await bus.jetstream.publish("tars.command.agent.configure.v1.policy-1", b'{"agent_id":', stream="AGENTS")
        await bus.jetstream.publish("tars.command.update.sing.v1.u1", b"{}", stream="COMMANDS")
        await bus.close()

    with connect(nats_url) as bus:
        before = next(row.episode for row in bus.agents() if row.agent_id == "policy-1")
        asyncio.run(send())
        until(lambda: {row.reason for row in bus.dead()} >= {"malformed", "unknown-kind"})
        until(lambda: next(row.episode for row in bus.agents() if row.agent_id == "policy-1") > before)
        update = bus.propose(values(6e-3), agents=("policy-1",))
        update.approve("the next one goes through")
        until(lambda: 6e-3 in rates(bus), ROLLOUT_SECONDS)
        take_back(bus, update.update_id)


def test_redis_that_dies_is_rebuilt_from_the_ledger(folder: Path) -> None:
    address = str(endpoints(folder)["redis"])
    with connect(str(endpoints(folder)["nats"])) as bus:
        os.kill(pid_of(folder, "valkey"), signal.SIGKILL)

        def rebuilt() -> bool:
            wanted = {row.update_id: row.stage for row in bus.updates()}  # rollouts of earlier tests may still go on
            views = RedisViews(address)
            try:
                return {row.update_id: row.stage for row in views.updates()} == wanted and len(views.agents()) == 8
            except redis.RedisError:
                return False
            finally:
                views.close()

        until(rebuilt)


def test_a_killed_nats_server_comes_back_and_nothing_is_lost(folder: Path) -> None:
    with connect(str(endpoints(folder)["nats"])) as bus:
        known = {row.update_id for row in bus.updates()}
        os.kill(pid_of(folder, "nats"), signal.SIGKILL)

        def proposed() -> bool:
            try:
                return bool(bus.propose(values(4e-3), agents=("policy-0",), update_id="after-the-fault").update_id)
            except (CommandRefused, OutcomeUnknown):
                raise
            except Exception:  # noqa: BLE001 - away: nothing was sent
                return False

        until(proposed)
        bus.approve("after-the-fault")
        until(lambda: 4e-3 in rates(bus), ROLLOUT_SECONDS)
        take_back(bus, "after-the-fault")
        until(lambda: known | {"after-the-fault"} == {row.update_id for row in bus.updates()})


def test_a_second_start_goes_on_with_ledger_values_and_the_rollout_in_hand(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with up(data) as process, connect(str(endpoints(data)["nats"])) as bus:
        before = rates(bus)
        update = bus.propose(values(5e-3), role="policy")
        update.approve()
        until(lambda: 5e-3 in rates(bus), ROLLOUT_SECONDS)
    assert process.returncode == 0
    assert endpoints(data) == {}
    with up(data), connect(str(endpoints(data)["nats"])) as bus:
        last = bus.wait_for_update(update.update_id, timeout=ROLLOUT_SECONDS)
        assert last.kind in ENDS
        until(lambda: rates(bus) == ({5e-3} if last.kind == "update.confirmed.v1" else before))
        assert [row.update_id for row in bus.updates()] == [update.update_id]
