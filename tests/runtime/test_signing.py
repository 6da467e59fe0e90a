"""Keys, trust files, and what a signature proves."""

import asyncio
import base64
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tars.runtime.settings import Settings
from tars.runtime.signing import (
    BadKey,
    BadTrust,
    Signer,
    TrustFile,
    add_trust,
    ensure_operator,
    four_eyes,
    key_path,
    new_signer,
    read_key,
    read_trust,
    signer_of,
    verify,
    write_key,
)
from tars.runtime.vouching import Vouching
from tars.schemas.message import By, Command, Envelope, Role, Signed
from tars.schemas.study import StartStudy
from tars.schemas.trust import RIGHTS, Trust, TrustedKey
from tars.schemas.update import ApproveUpdate, ProposeUpdate, RollBackUpdate

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ADA, EVE = new_signer("ada"), new_signer("eve")
APPROVE = ApproveUpdate(update_id="u", deadline=NOON)


def trusting(path: Path, *roles: Role, signer: Signer = ADA) -> TrustFile:
    add_trust(path / "trust.toml", signer.trusted(frozenset(roles)))
    return TrustFile(path / "trust.toml")


def sent(command: Command, signer: Signer | None, file: TrustFile, *, command_id: str = "c") -> Envelope:
    """What a worker knows of a command that was signed, or not."""
    body = command.model_dump_json().encode()
    headers = signer.sign("c", command.subject, body) if signer else {}
    envelope = Envelope(id=command_id, subject=command.subject, sequence=1, time=NOON, by=By(principal="mallory"))
    return asyncio.run(Vouching(file).of(envelope, command, headers, body))


def test_a_key_is_readable_by_its_owner_alone_and_written_once(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "ada.key"
    write_key(path, ADA)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path).public == ADA.public
    with pytest.raises(BadKey, match="there already"):
        write_key(path, EVE)


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    write_key(tmp_path / "ada.key", ADA)
    (tmp_path / "ada.key").chmod(0o640)
    with pytest.raises(BadKey, match="chmod 600"):
        read_key(tmp_path / "ada.key")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"name": "ada", "private": "AAAA"}', '{"name": "ada", "private": 7}']
)
def test_what_is_no_key_file_is_said_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.key").touch(mode=0o600)
    (tmp_path / "x.key").write_text(text)
    with pytest.raises(BadKey, match="tars keys new"):
        read_key(tmp_path / "x.key")


def test_a_trust_file_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    file = trusting(tmp_path, "approver")
    file.path.chmod(0o666)
    with pytest.raises(BadTrust, match="chmod o-w"):
        file.current()


LINE = f'name = "ada"\nkey = "{base64.b64encode(ADA.public).decode()}"\nroles = ["approver"]\n'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"[[principal]]\n{LINE}admin = true\n", "admin"),
        (f"[[principals]]\n{LINE}", "principals"),
        (f"[[principal]]\n{LINE.replace('approver', 'root')}", "roles"),
        ("[[principal]]\n" + LINE.replace('"approver"', ""), "roles"),
        (f"[[principal]]\n{LINE}\n[[principal]]\n{LINE}", "listed twice"),
        ('[[principal]]\nname = "ada"\nkey = "AAAA"\nroles = ["viewer"]\n', "32 bytes"),
        ("[[principal]", "no TOML"),
    ],
    ids=["admin", "a table of another name", "an unknown role", "no role", "a key twice", "a short key", "no TOML"],
)
def test_what_a_trust_file_may_not_say_is_named(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "trust.toml").write_text(text)
    with pytest.raises(BadTrust, match=why):
        read_trust(tmp_path / "trust.toml")


@given(st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()))
def test_any_printable_name_can_be_trusted(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = tmp_path_factory.mktemp("trust") / "trust.toml"
    add_trust(path, TrustedKey(name=name, key=base64.b64encode(EVE.public).decode(), roles=frozenset({"viewer"})))
    assert [one["name"] for one in tomllib.loads(path.read_text())["principal"]] == [name]


def test_who_is_trusted_is_read_again_when_the_file_has_changed(tmp_path: Path) -> None:
    file = trusting(tmp_path, "approver")
    assert file.current() is not None
    trusting(tmp_path, "approver", signer=EVE)
    trust = file.current()
    assert trust is not None
    assert trust.approvers == {"ada", "eve"}


def test_a_trust_file_that_has_gone_lets_nobody_through(tmp_path: Path) -> None:
    file = trusting(tmp_path, "approver")
    assert sent(APPROVE, ADA, file).barred is None
    file.path.unlink()
    assert "has gone" in (sent(APPROVE, ADA, file).barred or "")


def test_without_a_trust_file_everybody_may_and_nobody_is_proven(tmp_path: Path) -> None:
    envelope = sent(APPROVE, ADA, TrustFile(tmp_path / "trust.toml"))
    assert (envelope.barred, envelope.by) == (None, By(principal="mallory"))


def test_a_signature_proves_who_sent_a_command_whatever_its_headers_claim(tmp_path: Path) -> None:
    envelope = sent(APPROVE, ADA, trusting(tmp_path, "approver"))
    assert (envelope.barred, envelope.by) == (None, By(principal="ada", signed=True))
    assert envelope.signed is not None


def test_an_unsigned_and_a_stranger_s_command_are_barred(tmp_path: Path) -> None:
    file = trusting(tmp_path, "approver")
    assert "not signed" in (sent(APPROVE, None, file).barred or "")
    stranger = sent(APPROVE, EVE, file)
    assert "nobody's" in (stranger.barred or "")
    assert not stranger.by.signed


ALTERED = (
    {"id": "c2"},
    {"subject": "tars.command.update.approve.v1.u2"},
    {"body": "{}"},
    {"signature": "AAAA"},
    {"signature": "!"},
)


@pytest.mark.parametrize("change", ALTERED)
def test_a_signature_is_no_other_command_s(change: dict[str, str]) -> None:
    body = APPROVE.model_dump_json()
    headers = ADA.sign("c", APPROVE.subject, body.encode())
    signed = Signed(
        key=headers["Tars-Key"], id="c", subject=APPROVE.subject, body=body, signature=headers["Tars-Signature"]
    )
    trust = Trust(principal=(ADA.trusted(frozenset({"approver"})),))
    assert isinstance(verify(signed, trust), TrustedKey)
    assert "forged, or the command was altered" in str(verify(signed.model_copy(update=change), trust))


def test_a_copy_under_another_id_is_barred(tmp_path: Path) -> None:
    assert "altered" in (sent(APPROVE, ADA, trusting(tmp_path, "approver"), command_id="c2").barred or "")


def test_a_signature_without_a_deadline_could_be_used_at_any_time(tmp_path: Path) -> None:
    assert "deadline" in (sent(ApproveUpdate(update_id="u"), ADA, trusting(tmp_path, "approver")).barred or "")


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (APPROVE, "approver"),
        (ProposeUpdate(update_id="u", agents=("a",), values={"gamma": 0.9}, deadline=NOON), "proposer"),
        (StartStudy(study_id="s", role="policy", trials=1, deadline=NOON), "proposer"),
        (RollBackUpdate(update_id="u", deadline=NOON), "proposer"),
    ],
)
def test_a_command_needs_its_role(tmp_path: Path, command: Command, role: Role) -> None:
    assert sent(command, ADA, trusting(tmp_path, "viewer", "worker")).barred is not None
    (tmp_path / "trust.toml").unlink()
    assert sent(command, ADA, trusting(tmp_path, role)).barred is None


def test_every_command_of_people_needs_some_role() -> None:
    assert {command.model_fields["kind"].default.split(".")[0] for command in RIGHTS} == {"study", "update"}
    assert all(RIGHTS.values())


def test_a_gateway_may_nothing_in_its_own_name(tmp_path: Path) -> None:
    file = trusting(tmp_path, "gateway", "approver")
    assert "id token" in (sent(APPROVE, ADA, file).barred or "")


def test_an_operator_is_made_once_and_a_trust_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    ensure_operator(tmp_path, "ada")
    first = (tmp_path / "trust.toml").read_text()
    ensure_operator(tmp_path, "eve")
    assert (tmp_path / "trust.toml").read_text() == first
    assert read_key(key_path(tmp_path, "operator")).name == "ada"
    other = tmp_path / "other"
    trusting(other, "approver")
    ensure_operator(other, "eve")
    assert not key_path(other, "operator").exists()


def test_an_operator_whose_trust_was_not_written_any_more_is_trusted_at_the_next_start(tmp_path: Path) -> None:
    write_key(key_path(tmp_path, "operator"), ADA)
    ensure_operator(tmp_path, "eve")
    trust = TrustFile(tmp_path / "trust.toml").current()
    assert trust is not None
    assert trust.approvers == {"ada"}


def test_the_data_folder_s_operator_signs_unless_somebody_else_is_named(tmp_path: Path) -> None:
    settings = Settings(tars_data=tmp_path)
    assert signer_of(settings) is None
    write_key(key_path(tmp_path, "operator"), ADA)
    write_key(key_path(tmp_path, "eve"), EVE)
    found = [signer_of(settings, user) for user in (None, "ada", "eve", "mallory")]
    assert [signer and signer.name for signer in found] == ["ada", "ada", "eve", None]
    chosen = signer_of(Settings(tars_data=tmp_path, tars_key=key_path(tmp_path, "eve")))
    assert chosen is not None
    assert chosen.name == "eve"


def test_four_eyes_are_on_by_themselves_once_two_may_approve(tmp_path: Path) -> None:
    auto = Settings(four_eyes="auto")
    file = trusting(tmp_path, "approver")
    assert not four_eyes(auto, file)
    trusting(tmp_path, "approver", signer=EVE)
    assert four_eyes(auto, file)
    assert not four_eyes(Settings(four_eyes="off"), file)
    assert four_eyes(Settings(four_eyes="on"), TrustFile(tmp_path / "none.toml"))
