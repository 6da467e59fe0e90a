"""The command line: tables for people, JSON for programs, one line and an exit code when something is wrong."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from examples import AGENT, EXAMPLES
from tars.cli import main as cli
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.runtime.bus import connect_bus
from tars.runtime.provision import provision
from tars.runtime.servers import Server
from tars.runtime.settings import Settings
from tars.schemas.streams import DURABLES, STREAMS
from tars.sync_worker.app import worker as sync

Run = Callable[..., tuple[int, str, str]]
NOWHERE = "nats://127.0.0.1:9"


@pytest.fixture
def tars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `tars ...` in this process, through the door that the program has: (exit code, stdout, stderr)."""
    monkeypatch.setenv("TARS_USER", "ada")
    monkeypatch.setenv("TARS_DATA", str(tmp_path / "none"))
    monkeypatch.setattr("tars.producers.async_client.PATIENCE", 0.3)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tars", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return run


@pytest.fixture
def stack(nats_server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[BlockingPortal]:
    """A server with the sync worker, the consumers, and an agent that says it runs."""
    monkeypatch.setenv("NATS_URL", nats_server.url)

    async def prepare() -> None:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        await provision(bus.jetstream, ack_wait=settings.ack_wait_seconds)
        await bus.publish(EXAMPLES["agent.started.v1"], id="a1")
        await bus.close()

    async def seen() -> bool:
        async with AsyncClient.connect(nats_server.url) as client:
            with suppress(NobodyAnswers):
                return len(await client.query("agents")) == 1
        return False

    working: list[asyncio.Task[None]] = []

    async def start() -> None:
        working.extend(asyncio.create_task(worker(settings).serve(0)) for worker in (sync, consumers))

    async def stop() -> None:
        for work in working:
            work.cancel()
        await asyncio.gather(*working, return_exceptions=True)

    with start_blocking_portal() as portal:
        portal.call(prepare)
        portal.call(start)
        while not portal.call(seen):
            pass
        yield portal
        portal.call(stop)


def rows(told: tuple[int, str, str]) -> Any:
    code, out, err = told
    assert (code, err) == (0, "")
    return json.loads(out)


def test_an_update_is_proposed_held_rejected_and_told(tars: Run, stack: BlockingPortal) -> None:
    propose = ("propose", "--role", "policy", "--set", "gamma=0.95", "--set", "batch_size=64", "--id", "u1")
    assert rows(tars(*propose, "--reason", "by hand", "--json")) == {
        "update_id": "u1", "outcome": "proposed", "event": None,
    }  # fmt: skip
    assert rows(tars("reject", "u1", "-r", "not today", "--json"))["outcome"] == "rejected"
    told = rows(tars("history", "u1", "--json"))
    while told["stage"] != "rejected":  # the view follows the ledger
        told = rows(tars("history", "u1", "--json"))
    assert [(entry["kind"], entry["by"]) for entry in told["history"]] == [
        ("update.proposed.v1", "ada (unsigned)"), ("update.rejected.v1", "ada (unsigned)"),
    ]  # fmt: skip
    assert told["values"] == {"gamma": 0.95, "batch_size": 64}
    assert rows(tars("updates", "--pending", "--json")) == []
    assert [row["update_id"] for row in rows(tars("updates", "--json"))] == ["u1"]
    code, out, _ = tars("history", "u1")
    assert code == 0
    assert "not today" in out


def test_only_an_approval_on_hold_is_released_by_apply(tars: Run, stack: BlockingPortal) -> None:
    assert tars("propose", "--agent", AGENT, "--set", "gamma=0.95", "--id", "u1")[0] == 0
    assert tars("apply", "u1")[0] == 1
    assert rows(tars("approve", "u1", "--hold", "--json"))["outcome"] == "approved, on hold"
    assert rows(tars("apply", "u1", "--json"))["outcome"] == "released"


def test_a_refused_command_is_one_line_and_no_json(tars: Run, stack: BlockingPortal) -> None:
    code, out, err = tars("propose", "--agent", AGENT, "--agent", "nobody", "--set", "gamma=0.5", "--json")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "no agent nobody" in err
    assert "gamma = 0.5 is outside [0.9, 0.9999]" in err


def test_a_dry_run_asks_every_rule_and_sends_nothing(tars: Run, stack: BlockingPortal) -> None:
    dry = ("propose", "--agent", AGENT, "--dry-run", "--json")
    assert rows(tars(*dry, "--set", "gamma=0.95")) == {
        "allowed": True, "strictness": "medium", "reasons": [], "changes": {AGENT: {"gamma": [0.99, 0.95]}},
    }  # fmt: skip
    code, out, err = tars(*dry, "--agent", "nobody", "--set", "gamma=0.5")
    assert (code, err) == (1, "")
    assert [reason.split()[0] for reason in json.loads(out)["reasons"]] == ["there", "gamma"]
    code, out, err = tars("propose", "--role", "policy", "--dry-run", "--set", "gamma=0.5")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "gamma 0.99 -> 0.5" in out
    assert rows(tars("updates", "--json")) == []
    assert rows(tars("stats", "--json"))["updates"] == 0


def test_a_dry_run_judges_by_the_strictness_it_names(
    tars: Run, stack: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALIDATION_STRICTNESS", "high")
    told = tars("propose", "--agent", AGENT, "--dry-run", "--set", "gamma=0.95")
    assert told[0] == 1
    assert "strictness high" in told[2]


@pytest.mark.parametrize(
    "command",
    [("agents",), ("stats",), ("updates",), ("updates", "--pending"), ("study", "list"), ("history", AGENT)],
    ids=" ".join,
)
def test_a_table_and_its_json_are_of_the_same_rows(tars: Run, stack: BlockingPortal, command: tuple[str, ...]) -> None:
    shown = tars(*command)
    if command[0] == "history":  # an agent without an episode yet has no history
        assert shown == (1, "", f"tars: there is no update and no agent {AGENT}\n")
    else:
        assert shown[0] == 0
        assert isinstance(rows(tars(*command, "--json")), dict if command == ("stats",) else list)


def test_agents_shows_who_runs_what(tars: Run, stack: BlockingPortal) -> None:
    (row,) = rows(tars("agents", "--json"))
    assert (row["agent_id"], row["state"], row["values"]["gamma"]) == (AGENT, "running", 0.99)


def test_provision_makes_everything_once(tars: Run, nats_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    first = rows(tars("provision", "--json"))
    assert set(first.values()) == {"created"}
    assert len(first) == len(STREAMS) + len(DURABLES)
    assert set(rows(tars("provision", "--json")).values()) == {"unchanged"}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("agents", "--nonsense"), "--nonsense"),
        (("approve",), "Missing argument"),
        (("run", "nothing"), "there is no role nothing; there are coordinator"),
        (("propose", "--set", "gamma=0.9"), "exactly one of --role and --agent"),
        (("propose", "--set", "gamma=0.9", "--role", "policy", "--agent", "a"), "exactly one of --role and --agent"),
        (("propose", "--role", "policy", "--set", "gamma"), "is not KEY=VALUE"),
        (("propose", "--role", "policy", "--set", "=1"), "is not KEY=VALUE"),
        (("propose", "--role", "policy", "--set", "gamma=nan"), "'nan' is not a finite number"),
        (("propose", "--role", "policy", "--set", "gamma=high"), "'high' is not a finite number"),
        (("propose", "--role", "policy", "--set", "batch_size=1.5"), "'1.5' is not a whole number"),
        (("study", "start", "--role", "policy", "--trials", "0"), "--trials"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(tars: Run, command: tuple[str, ...], told: str) -> None:
    code, out, err = tars(*command)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert told in err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("approve", "u 1"), "update_id"),
        (("study", "start"), "exactly one of role, agents and algorithm"),
        (("history", "x" * 65), "at most 64 characters"),
        (("propose", "--agent", "a", "--agent", "a", "--set", "gamma=0.9"), "an agent is named twice"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, tuple) else "",
)
def test_what_no_message_can_hold_is_one_line(
    tars: Run, nats_server: Server, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], told: str
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    code, out, err = tars(*command)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert told in err


@pytest.mark.parametrize("command", [("agents",), ("approve", "u1"), ("study", "stop", "s1")], ids=" ".join)
def test_without_a_server_each_command_says_what_to_start(
    tars: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("NATS_URL", NOWHERE)
    code, out, err = tars(*command)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert f"no NATS server answers at {NOWHERE}" in err


def test_without_consumers_a_query_says_what_to_start(
    tars: Run, nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    assert tars("agents") == (
        1,
        "",
        "tars: nobody answers the query agents: start the consumers (`tars run consumers`)\n",
    )


@pytest.mark.parametrize("role", ["coordinator", "trainer", "sync", "consumers", "agents", "dashboard"])
def test_a_wrong_setting_stops_each_role_with_one_line_that_names_it(
    tars: Run, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("APPROVAL_MODE", "whatever")
    code, out, err = tars("run", role)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "APPROVAL_MODE='whatever' is not allowed" in err
    assert "autonomous_threshold" in err


@pytest.mark.parametrize(
    ("role", "missing", "modules"), [("agents", "torch", "tars.agents"), ("mlflow", "mlflow", "tars.consumers.mlflow")]
)
def test_a_missing_extra_is_one_line_with_what_to_install(
    tars: Run, monkeypatch: pytest.MonkeyPatch, role: str, missing: str, modules: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name.startswith(modules)]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = tars("run", role)
    assert (code, out) == (1, "")
    assert err == f"tars: {role} needs {missing}: pip install 'tars-rl[{role}]'\n"


def test_the_program_ends_with_the_exit_code_and_prints_json_alone(nats_server: Server) -> None:
    """As a process, where nothing of this test's is loaded."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {"NATS_URL": nats_server.url, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "USER": "ada"}
        command = [sys.executable, "-m", "tars", *arguments]
        return subprocess.run(
            command, env=environment, cwd=nats_server.folder, capture_output=True, text=True, timeout=60, check=False
        )

    good = run("provision", "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["EVENTS"] == "created"
    bad = run("agents", "--json")
    assert (bad.returncode, bad.stdout, len(bad.stderr.splitlines())) == (1, "", 1)
    assert run("nonsense").returncode == 2


def test_help_loads_neither_torch_nor_optuna_nor_the_page() -> None:
    code = "import sys, tars.cli.main; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "optuna", "streamlit", "scipy", "faststream", "pandas", "uvicorn"} & set(loaded)
