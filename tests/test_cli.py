"""The command line: tables for people, JSON for programs, one line and an exit code when something is wrong."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from ledgers import SNAPSHOT
from nats.aio.msg import Msg

from examples import AGENT, EXAMPLES
from played_studies import better_by, play, started
from tars.automl_worker.app import worker as coordinator
from tars.consumers.app import worker as consumers
from tars.producers.async_client import AsyncClient, NobodyAnswers
from tars.runtime.bus import connect_bus
from tars.runtime.delivery import Unreadable, put_aside
from tars.runtime.provision import provision
from tars.runtime.servers import Server, start_nats
from tars.runtime.settings import Settings
from tars.schemas.errors import Poison
from tars.schemas.message import Message
from tars.schemas.streams import BUCKETS, DURABLES, STREAMS
from tars.schemas.study import StartStudy, StudyFinished, StudyStopped
from tars.schemas.trial import TrialFailed
from tars.schemas.update import ProposeUpdate
from tars.sync_worker.app import worker as sync

Run = Callable[..., tuple[int, str, str]]
NOWHERE = "nats://127.0.0.1:9"


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


def test_lists_come_in_pages_and_say_where_the_next_one_begins(tars: Run, stack: BlockingPortal) -> None:
    for name in ("u1", "u2", "u3"):
        assert tars("propose", "--role", "policy", "--set", "gamma=0.95", "--id", name)[0] == 0
    ids = [row["update_id"] for row in rows(tars("updates", "--json"))]
    while len(ids) < 3:  # the view follows the ledger
        ids = [row["update_id"] for row in rows(tars("updates", "--json"))]
    page = ("updates", "--limit", "2", "--offset")
    pages = [[row["update_id"] for row in rows(tars(*page, offset, "--json"))] for offset in ("0", "2")]
    assert pages == [["u3", "u2"], ["u1"]]
    assert "older ones: --offset 2" in tars(*page, "0")[1]
    assert "older ones" not in tars(*page, "2")[1]
    assert tars(*page, "4")[1] == "no more updates\n"


def test_what_is_shown_whole_has_no_pages(tars: Run, stack: BlockingPortal) -> None:
    assert tars("propose", "--role", "policy", "--set", "gamma=0.95", "--id", "u1")[0] == 0
    while not rows(tars("updates", "--json")):  # the view follows the ledger
        pass
    for command in (("updates", "--pending", "--offset", "1"), ("history", "u1", "--limit", "1")):
        code, out, err = tars(*command)
        assert (code, out) == (2, "")
        assert "leave out --limit and --offset" in " ".join(err.replace("│", " ").split())


def test_studies_and_episodes_come_in_pages_too(tars: Run, stack: BlockingPortal) -> None:
    stack.call(_three_studies_and_episodes)
    for command, key in ((("study", "list"), "study_id"), (("history", AGENT), "episode")):
        while len(found := [row[key] for row in rows(tars(*command, "--limit", "3", "--json"))]) < 3:
            pass  # the view follows the ledger
        assert [row[key] for row in rows(tars(*command, "--limit", "2", "--offset", "1", "--json"))] == found[1:]


async def _three_studies_and_episodes() -> None:
    bus = await connect_bus(os.environ["NATS_URL"], "test", patience=5)
    begun, episode = EXAMPLES["study.started.v1"], EXAMPLES["agent.reported.v1"]
    for number in range(3):
        await bus.publish(begun.model_copy(update={"study_id": f"s{number}"}), id=f"s{number}")
        await bus.report(episode.model_copy(update={"episode": number + 1}))
    await bus.close()


def test_of_an_update_that_is_not_released_the_history_says_what_its_watch_could_find(
    tars: Run, stack: BlockingPortal
) -> None:
    stack.call(_three_studies_and_episodes)
    assert tars("propose", "--agent", AGENT, "--set", "gamma=0.95", "--id", "u1")[0] == 0
    assert _told(tars, "known once its agents have reported 15 episodes")
    assert tars("reject", "u1")[0] == 0
    assert _told(tars, "✗ rejected")
    assert "watch" not in tars("history", "u1")[1]


def _told(tars: Run, text: str) -> bool:
    """Whether the history of u1 says this soon: the view follows the ledger."""
    return any(text in " ".join(tars("history", "u1")[1].split()) for _ in range(200))


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
        "watch": "Nothing of it can be watched: its agents report no episodes.",
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
    [
        ("agents",),
        ("pipeline",),
        ("dead", "list"),
        ("stats",),
        ("conflicts",),
        ("equilibria",),
        ("updates",),
        ("updates", "--pending"),
        ("study", "list"),
        ("history", AGENT),
    ],
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


def test_conflicts_and_equilibria_are_told_by_world(tars: Run, stack: BlockingPortal, nats_server: Server) -> None:
    publish(stack, nats_server.url, EXAMPLES["game.reported.v1"])
    while not (told := rows(tars("equilibria", "--json"))):
        pass
    assert told[0]["game_id"] == EXAMPLES["game.reported.v1"].key
    assert rows(tars("conflicts", "--limit", "1", "--json"))[0]["conflicts"]
    for command, heading in (("conflicts", "veto"), ("equilibria", "NashConv")):
        code, out, _ = tars(command)
        assert code == 0
        assert heading in out


def test_a_dead_command_is_listed_shown_and_sent_again(tars: Run, stack: BlockingPortal, nats_server: Server) -> None:
    command = ProposeUpdate(update_id="u-risen", agents=(AGENT,), values={"gamma": 0.95})
    body = command.model_dump_json().encode()

    async def die() -> None:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        letter = Unreadable("COMMANDS", "update-command", 1, command.subject, body, {"Nats-Msg-Id": "c-old"})
        await put_aside(bus, letter, "attempts-exhausted", Poison("no luck"))
        await bus.close()

    stack.call(die)
    while not (listed := rows(tars("dead", "list", "--json"))):
        pass
    assert [(row["sequence"], row["not_again"]) for row in listed] == [(1, None)]
    shown = rows(tars("dead", "show", "1", "--json"))
    assert (shown["id"], shown["body"].encode()) == ("c-old", body)
    assert "`tars dead replay 1` sends it in your name" in tars("dead", "show", "1")[1]
    assert rows(tars("dead", "replay", "1", "--json"))["events"] == ["update.proposed.v1"]
    assert tars("dead", "replay", "1") == (0, "1: it was so already\n", "")
    code, _, err = tars("dead", "replay", "2")
    assert (code, err) == (1, "tars: there is no dead letter 2: `tars dead list` shows those of 30 days\n")


def test_what_strangers_wrote_is_shown_as_they_wrote_it(tars: Run, stack: BlockingPortal, nats_server: Server) -> None:
    async def die() -> None:
        bus = await connect_bus(nats_server.url, "test", patience=5)
        letter = Unreadable("COMMANDS", "update-command", 1, "tars.event.[/b]", b"")
        await put_aside(bus, letter, "not-readable", Poison("1 error [type=missing]"))
        await bus.close()

    stack.call(die)
    while not rows(tars("dead", "list", "--json")):
        pass
    code, out, _ = tars("dead", "list")
    assert code == 0
    assert "tars.event.[/b]" in out
    assert "1 error [type=missing]" in out


WEIGHED = started(
    0, study_id="s1", base={AGENT: 0}, candidates=({"learning_rate": 5e-4}, {"gamma": 0.95, "tau": 0.5}),
    start="snapshot", snapshots=(SNAPSHOT.model_copy(update={"agent_id": AGENT}),), explain=False, propose=False,
)  # fmt: skip
FINISHED, WEIGHED_TRIALS = play(WEIGHED, better_by(0.2))
SEARCHED = started(4, study_id="s2", explain=False)
SEARCH_FINISHED, SEARCH_TRIALS = play(SEARCHED, better_by(0.2))


def publish(portal: BlockingPortal, url: str, *messages: Message, cause: str = "told") -> None:
    """Store messages as their senders would, as what a command led to."""

    async def store() -> None:
        bus = await connect_bus(url, "test", patience=5)
        for number, message in enumerate(messages):
            await bus.publish(message, id=f"{cause}:{number}")
        await bus.close()

    portal.call(store)


def seen_study(tars: Run, study_id: str, stage: str) -> dict[str, Any]:
    """The study, as soon as the consumers have it in that stage."""
    while True:
        code, out, _ = tars("study", "show", study_id, "--json")
        if code == 0 and (found := json.loads(out))["study"]["stage"] == stage:
            return dict(found)


def study_messages() -> list[Message]:
    return [SEARCHED, *SEARCH_TRIALS.asked.values(), *SEARCH_TRIALS.outcomes.values(), SEARCH_FINISHED]


def test_a_finished_study_is_watched_shown_and_listed(
    tars: Run, stack: BlockingPortal, nats_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(stack, nats_server.url, *study_messages())
    found = seen_study(tars, "s2", "finished")
    assert len(found["trials"]) == len(SEARCH_TRIALS.asked)
    assert rows(tars("study", "watch", "s2", "--json"))["kind"] == "study.finished.v1"
    code, out, err = tars("study", "watch", "s2")
    assert (code, err) == (0, "")
    assert "4 trials completed, 0 pruned, 0 failed" in out
    assert "BETTER +20." in out
    shown = tars("study", "show", "s2")[1]
    assert "dqn in policy" in shown
    assert "● changed" in shown
    monkeypatch.setenv("COLUMNS", "140")
    _, _, line = tars("study", "list")[1].splitlines()
    best = f"{found['study']['best_score']:.3f}"
    assert line.split()[:8] == ["s2", "finished", "a", "4/4", best, "BETTER", "+20.0", "pp"]


CHAMPION = started(
    0, study_id="s5", base={AGENT: 41}, candidates=({"learning_rate": 2e-4},), explain=False, propose=False
)
CHAMPION_FINISHED, _ = play(CHAMPION, better_by(0.2))


def study_of(study_id: str, agent_id: str = AGENT) -> tuple[Message, Message]:
    """The ends of a study that found that change BETTER."""
    named = {"study_id": study_id}
    return CHAMPION.model_copy(update={**named, "base": {agent_id: 41}}), CHAMPION_FINISHED.model_copy(update=named)


def test_the_newest_champion_of_each_target_is_proposed_by_hand_with_its_evidence_and_once(
    tars: Run, stack: BlockingPortal, nats_server: Server
) -> None:
    publish(stack, nats_server.url, *study_of("s4"), *study_of("s5"), *study_of("s6", "gone"))
    seen_study(tars, "s6", "finished")
    (told,) = rows(tars("sync", "policy", "--json"))
    assert (told["update_id"], told["values"], told["reasons"]) == ("u-s5", {"learning_rate": 2e-4}, [])
    while (found := tars("history", "u-s5", "--json"))[0] != 0:  # the view follows the ledger
        pass
    row = json.loads(found[1])
    assert (row["study_id"], row["stage"], row["proposed_by"]) == ("s5", "pending", "ada (unsigned)")
    assert row["evidence"] == CHAMPION_FINISHED.evidence.model_dump(mode="json")  # type: ignore[union-attr] # it is BETTER
    assert tars("sync", "policy") == (0, "no champions to propose\n", "")
    for _ in ("refused", "refused before"):
        code, out, err = tars("sync")
        assert (code, err) == (1, "")
        assert "there is no agent gone" in out


def test_a_study_of_which_every_trial_failed_has_no_result_and_says_why(
    tars: Run, stack: BlockingPortal, nats_server: Server
) -> None:
    started = EXAMPLES["study.started.v1"].model_copy(update={"study_id": "s3"})
    trial = EXAMPLES["trial.run.v1"].model_copy(update={"study_id": "s3", "number": 0})
    failed = TrialFailed(
        study_id="s3", number=0, error="ValueError: NoSuch-v9: there is no such environment", holder="t-1"
    )
    finished = StudyFinished(study_id="s3", completed=0, failed=1, champion=None, evidence=None)
    publish(stack, nats_server.url, started, trial, failed, finished, cause="failing")
    assert seen_study(tars, "s3", "finished")["study"]["error"] == "no champion could be weighed: its trials say why"
    assert "no result" in tars("study", "list")[1]
    code, out, err = tars("study", "watch", "s3")
    assert (code, out) == (1, "s3: 0 trials completed, 0 pruned, 1 failed\n")
    assert err == f"tars: s3: no champion could be weighed: {failed.error}\n"


def test_a_study_is_followed_from_outside_by_a_line_at_each_change(stack: BlockingPortal, nats_server: Server) -> None:
    begun = study_messages()[:5]
    publish(stack, nats_server.url, *begun)
    with watching("s2", nats_server) as watcher:
        first = json.loads(watcher.stdout.readline())
        assert (first["phase"], first["trials"], first["study_id"]) == ("search", 4, "s2")
        publish(stack, nats_server.url, *study_messages()[len(begun) :], cause="later")
        lines = [json.loads(line) for line in watcher.stdout]
        assert lines[-1]["kind"] == "study.finished.v1"
        assert watcher.wait(10) == 0


@pytest.mark.slow
def test_ctrl_c_leaves_a_study_running_and_says_so(stack: BlockingPortal, nats_server: Server) -> None:
    publish(stack, nats_server.url, SEARCHED)
    with watching("s2", nats_server) as watcher:
        watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        _, err = watcher.communicate(timeout=10)
        assert (watcher.returncode, err) == (
            130, "s2 runs on: `tars study watch s2` follows it, `tars study stop s2` ends it\n",
        )  # fmt: skip


@contextmanager
def watching(study_id: str, server: Server) -> Iterator[Any]:
    """`tars study watch --json` as a process."""
    environment = {**os.environ, "NATS_URL": server.url}
    command = [sys.executable, "-m", "tars", "study", "watch", study_id, "--json"]
    with subprocess.Popen(
        command, env=environment, cwd=server.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watcher:
        try:
            yield watcher
        finally:
            watcher.kill()


def test_a_study_that_was_stopped_has_no_result(tars: Run, stack: BlockingPortal, nats_server: Server) -> None:
    stopped = StudyStopped(study_id="s2", by=SEARCHED.by, reason="enough seen")
    publish(stack, nats_server.url, SEARCHED, stopped)
    code, out, err = tars("study", "watch", "s2")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "enough seen" in err


@pytest.mark.parametrize("command", ["watch", "show"])
def test_a_study_that_does_not_exist_is_one_line(tars: Run, stack: BlockingPortal, command: str) -> None:
    assert tars("study", command, "nope") == (
        1, "", "tars: there is no study nope: `tars study list` shows all\n",
    )  # fmt: skip


def test_optunas_plots_are_one_file(tars: Run, stack: BlockingPortal, nats_server: Server, tmp_path: Path) -> None:
    publish(stack, nats_server.url, *study_messages())
    seen_study(tars, "s2", "finished")
    file = tmp_path / "s2.html"
    assert tars("study", "show", "s2", "--html", str(file)) == (0, f"{file}: Optuna's plots of s2\n", "")
    assert "Optimization history" in file.read_text()
    code, out, err = tars("study", "show", "s2", "--html", str(tmp_path / "none" / "s2.html"))
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "was not written" in err


def test_plots_without_their_extra_say_what_to_install(
    tars: Run, stack: BlockingPortal, nats_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(stack, nats_server.url, *study_messages())
    seen_study(tars, "s2", "finished")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    code, _, err = tars("study", "show", "s2", "--html", str(tmp_path / "s2.html"))
    assert (code, len(err.splitlines())) == (1, 1)
    assert "pip install 'tars-rl[plots]'" in err


@pytest.fixture
def answered(stack: BlockingPortal, nats_server: Server) -> Iterator[None]:
    """Whoever starts the study s1 gets the events and trials of WEIGHED, as a coordinator and trainers write them."""
    done: list[asyncio.Event] = []

    async def serve() -> None:
        bus = await connect_bus(nats_server.url, "test", patience=5)

        async def on_start(message: Msg) -> None:
            command = StartStudy.model_validate_json(message.data)
            assert (command.agents, command.start, command.trials, command.explain) == ((AGENT,), "snapshot", 0, False)
            assert command.candidates == WEIGHED.candidates
            await bus.publish(WEIGHED, id=f"{(message.headers or {})['Nats-Msg-Id']}:0")
            trials = (*WEIGHED_TRIALS.asked.values(), *WEIGHED_TRIALS.outcomes.values())
            for number, told in enumerate((*trials, FINISHED)):
                await bus.publish(told, id=f"answer:{number}")

        await bus.client.subscribe("tars.command.study.start.v1.*", cb=on_start)
        done.append(asyncio.Event())
        await done[0].wait()
        await bus.close()

    serving = stack.start_task_soon(serve)
    while not done:
        pass
    yield
    stack.call(done[0].set)
    serving.result(10)


FORK = ("fork", AGENT, "--try", "learning_rate=5e-4", "--try", "gamma=.95,tau=.5", "--id", "s1")


def test_a_fork_says_of_each_candidate_whether_it_is_better(tars: Run, answered: None) -> None:
    code, out, err = tars(*FORK)
    assert code == 0
    assert f"{AGENT}: copies go on from its snapshot of episode 50" in err
    assert "learning_rate 0.0005: BETTER" in out
    assert "gamma 0.95, tau 0.5: BETTER" in out
    assert out.count("8 held-out seeds: ○ as it is, ● changed") == 2


def test_a_fork_tells_programs_the_same(tars: Run, answered: None) -> None:
    code, out, _ = tars(*FORK, "--json")
    found = json.loads(out)
    assert (code, found["from"]["episode"], found["update_id"]) == (0, 50, None)
    assert [(one["change"], one["verdict"], one["seeds"]) for one in found["candidates"]] == [
        ({"learning_rate": 5e-4}, "BETTER", 8), ({"gamma": 0.95, "tau": 0.5}, "BETTER", 8),
    ]  # fmt: skip
    assert all(one["gain_low"] < one["gain"] < one["gain_high"] for one in found["candidates"])


def test_a_fork_of_what_has_no_snapshot_is_refused_in_one_line(
    tars: Run, stack: BlockingPortal, settings: Settings
) -> None:
    working: list[asyncio.Task[None]] = []

    async def start() -> None:
        working.append(asyncio.create_task(coordinator(settings).serve(0)))

    stack.call(start)
    code, out, err = tars(*FORK)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert f"{AGENT} has no snapshot yet" in err
    stack.call(working[0].cancel)


def test_provision_makes_everything_once(tars: Run, nats_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", nats_server.url)
    first = rows(tars("provision", "--json"))
    assert set(first.values()) == {"created"}
    assert len(first) == len(STREAMS) + len(BUCKETS) + len(DURABLES)
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
        (("study", "start", "--role", "policy", "--wall-seconds", "soon"), "'soon' is no time"),
        (("study", "start", "--role", "policy", "--objective", "luck"), "'reward', 'penalty', 'pareto'"),
        (("study", "start", "--role", "policy", "--conflict-weight", "1"), "--objective penalty"),
        (("study", "start", "--role", "policy", "--normalize", "actions"), "observations and rewards"),
        (("fork", AGENT), "--try"),
        (("fork", AGENT, "--try", "gamma"), "is not KEY=VALUE"),
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
        (("study", "watch", "s*"), "pattern"),
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


def test_keys_are_made_trusted_and_listed(tars: Run, tmp_path: Path) -> None:
    made = rows(tars("keys", "new", "grace", "--role", "approver", "--role", "proposer", "--json"))
    key = tmp_path / "none" / "keys" / "grace.key"
    assert (made["private"], made["roles"]) == (str(key), ["approver", "proposer"])
    assert key.stat().st_mode & 0o777 == 0o600
    other = "c" * 42 + "A="
    assert rows(tars("keys", "new", "linus", "--role", "viewer", "--public", other, "--json"))["private"] is None
    listed = rows(tars("keys", "list", "--json"))
    assert [(row["name"], row["public"], row["private"]) for row in listed] == [
        ("grace", made["public"], str(key)), ("linus", other, None),
    ]  # fmt: skip
    code, out, _ = tars("keys", "list")
    assert code == 0
    assert "approver, proposer" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no name", "--role", "viewer"), "'no name'"),
        (("grace", "--role", "root"), "'root'"),
        (("grace", "--role", "viewer", "--public", "AAAA"), "32 bytes"),
    ],
)
def test_a_key_that_nobody_can_have_is_one_line_and_leaves_no_file(
    tars: Run, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = tars("keys", "new", *arguments)
    assert (code, words in err, len(err.splitlines())) == (2, True, 1)
    assert not (tmp_path / "none").exists()


def test_a_key_is_not_made_twice(tars: Run) -> None:
    assert tars("keys", "new", "grace", "--role", "approver")[0] == 0
    code, _, err = tars("keys", "new", "grace", "--role", "approver")
    assert (code, "there already" in err) == (1, True)


@pytest.mark.parametrize(
    ("role", "missing", "modules"), [("agents", "torch", "tars.agents"), ("mlflow", "mlflow", "tars.consumers.mlflow")]
)
def test_a_missing_extra_is_one_line_with_what_to_install(
    tars: Run, monkeypatch: pytest.MonkeyPatch, role: str, missing: str, modules: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    package, _, module = modules.rpartition(".")
    if modules in sys.modules:  # importing it anew sets it in its package too: put it back there at the end
        monkeypatch.setattr(sys.modules[package], module, sys.modules[modules])
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


def test_help_loads_neither_torch_nor_optuna_nor_the_page_nor_a_connection() -> None:
    code = "import sys, tars.cli.main; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"torch", "optuna", "streamlit", "scipy", "faststream", "pandas", "plotly", "uvicorn", "nats"}
    assert not heavy & set(loaded)


def test_an_update_is_exported_and_checked_without_a_server(
    tars: Run, stack: BlockingPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tars("propose", "--agent", AGENT, "--set", "gamma=0.95", "--id", "u1")[0] == 0
    file = tmp_path / "u1.jsonl"
    assert rows(tars("export", "u1", "--to", str(file), "--json"))["messages"] == 2
    assert tars("export", "u1", "--to", str(file)) == (1, "", f"tars: {file} is there already: name another file\n")
    assert tars("export", "u9", "--to", str(tmp_path / "u9"))[2].startswith("tars: there is no update u9")
    monkeypatch.setenv("NATS_URL", NOWHERE)
    found = {check["name"]: check["outcome"] for check in rows(tars("replay", "u1", "--from", str(file), "--json"))}
    assert (found["history"], found["proposal"], found["read-back"]) == ("ok", "ok", "not checkable")
    file.write_text(file.read_text().replace('"gamma\\":0.95', '"gamma\\":0.94'))
    code, out, err = tars("replay", "u1", "--from", str(file))
    assert (code, err) == (1, "")
    assert "FAILED" in out
    assert tars("replay", "u1", "--from", str(tmp_path))[2].endswith("cannot be read: Is a directory\n")


def test_a_backup_is_restored_into_a_new_data_folder(
    tars: Run, stack: BlockingPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tars("propose", "--agent", AGENT, "--set", "gamma=0.95", "--id", "u1")[0] == 0
    backup = tmp_path / "backup"
    code, out, _ = tars("backup", str(backup), "--json")
    assert (code, json.loads(out)["streams"][1]["messages"]) == (0, 2)
    code, _, err = tars("restore", str(backup))
    assert (code, "EVENTS with 2 messages" in err, "restore into an empty server" in err) == (
        1,
        True,
        True,
    )
    code, out, _ = tars("restore", str(backup), "--data", str(tmp_path / "new"))
    assert code == 0
    assert "EVENTS" in out
    with start_nats(tmp_path / "new" / "nats") as server:
        monkeypatch.setenv("NATS_URL", server.url)
        assert rows(tars("export", "u1", "--to", str(tmp_path / "u1"), "--json"))["messages"] == 2
