"""One real update, exported and checked without a server; then altered in every way, which is found by name."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as forall
from hypothesis import settings as effort
from hypothesis import strategies as st

from audited import export, live_through
from examples import EXAMPLES, NOON
from identity_provider import identity_provider
from people import GRACE, MALLORY, signed, soon
from played_studies import better_by, play, started
from tars.automl_worker import audit as weighed
from tars.cli.audit import audit
from tars.runtime.export import BadExport, Export, read_export, seal_faults, sealed
from tars.runtime.servers import start_nats
from tars.runtime.signing import Signer
from tars.schemas.audit import Case, StoredMessage, Told
from tars.schemas.evidence import Evidence
from tars.schemas.message import Message
from tars.schemas.update import ApproveUpdate, UpdateProposed

Body = dict[str, Any]
WHOLE = {
    "file": "ok", "trust": "not checkable", "messages": "ok", "history": "ok", "proposal": "ok", "content": "ok",
    "signatures": "ok", "approval": "ok", "four eyes": "ok", "evidence": "ok", "verdict": "ok", "study": "ok",
    "configurations": "ok", "read-back": "ok", "stages": "ok", "watch": "not checkable", "way back": "ok",
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of an update that was approved, reloaded, confirmed and taken back."""
    folder = tmp_path_factory.mktemp("audited")
    with start_nats(folder / "nats") as server:
        asyncio.run(live_through(server.url, folder / "keys"))
        asyncio.run(export(server.url, folder / "keys", folder / "u.jsonl"))
        asyncio.run(export(server.url, folder / "keys", folder / "ledger.jsonl", None))
    return folder / "u.jsonl"


@pytest.fixture(scope="module")
def whole(file: Path) -> Export:
    return read_export(file)


@pytest.fixture(scope="module")
def at_a_page(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The export of an update that somebody approved who had logged in at a page."""
    folder = tmp_path_factory.mktemp("at-a-page")
    with identity_provider() as idp, start_nats(folder / "nats") as server:
        idp.member("bo", "tars-approvers")
        asyncio.run(live_through(server.url, folder / "keys", idp=idp))
        asyncio.run(export(server.url, folder / "keys", folder / "u.jsonl"))
    return read_export(folder / "u.jsonl")


def outcomes(found: Export) -> dict[str, str]:
    return {check.name: check.outcome for check in audit("u", found, None)}


def failed(found: Export) -> dict[str, str]:
    return {check.name: check.why for check in audit("u", found, None) if check.outcome == "FAILED"}


def resealed(found: Export, messages: Sequence[StoredMessage], by: Signer | None = None) -> Export:
    """The export with other messages, by somebody who can seal it: as nobody, or with a key of the trust file."""
    lines = b"".join(one.model_dump_json().encode() + b"\n" for one in (found.header, *messages))
    digest = sha256(lines).hexdigest()
    return replace(found, messages=tuple(messages), seal=sealed(len(messages), digest, by), sha256=digest)


def altered(found: Export, kind: str, change: Callable[[Body], None], which: int = 0) -> Export:
    """One message of a kind with another body, well sealed."""
    places = [n for n, one in enumerate(found.messages) if f".{kind}." in one.subject]
    messages = list(found.messages)
    chosen = messages[places[which]]
    body = json.loads(chosen.body)
    change(body)
    messages[places[which]] = chosen.model_copy(update={"body": json.dumps(body)})
    return resealed(found, messages, GRACE)


def put(*path: str | int, value: object) -> Callable[[Body], None]:
    """Write a value somewhere in a body."""

    def change(body: Body) -> None:
        place: Any = body
        for step in path[:-1]:
            place = place[step]
        assert place[path[-1]] != value
        place[path[-1]] = value

    return change


def test_a_real_update_holds_in_every_way_that_can_be_checked(file: Path, whole: Export) -> None:
    assert outcomes(whole) == WHOLE
    assert outcomes(read_export(file.with_name("ledger.jsonl"))) == WHOLE


def test_an_auditor_who_brings_a_trust_file_takes_nobody_s_word(whole: Export) -> None:
    trust = whole.header.trust
    assert trust is not None
    assert {check.name: check.outcome for check in audit("u", whole, trust)} == {**WHOLE, "trust": "ok"}
    strangers = trust.model_copy(update={"principal": (MALLORY.trusted(frozenset({"approver"})),)})
    found = {check.name: check.outcome for check in audit("u", whole, strangers)}
    assert found["file"] == found["signatures"] == "FAILED"


@effort(max_examples=200)
@forall(st.data())
def test_a_byte_that_was_altered_anywhere_is_found(file: Path, data: st.DataObject) -> None:
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    _is_found(file, bytes(content))


@effort(max_examples=60)
@forall(st.data())
def test_lines_that_were_left_out_doubled_or_moved_are_found(file: Path, data: st.DataObject) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    one, other = data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=2, max_size=2, unique=True))
    how = data.draw(st.sampled_from(["left out", "doubled", "moved"]))
    if how == "left out":
        del lines[one]
    elif how == "doubled":
        lines.insert(other, lines[one])
    else:
        lines[one], lines[other] = lines[other], lines[one]
    _is_found(file, b"".join(lines))


def _is_found(file: Path, content: bytes) -> None:
    tampered = file.with_name("tampered.jsonl")
    tampered.write_bytes(content)
    try:
        found = read_export(tampered)
    except BadExport:
        return
    assert isinstance(seal_faults(found, found.header.trust), list)


@pytest.mark.slow
@effort(max_examples=300)
@forall(st.data())
def test_no_contradiction_ends_the_audit(whole: Export, data: st.DataObject) -> None:
    """Whatever one value is replaced by, every check answers."""
    messages = list(whole.messages)
    number = data.draw(st.integers(0, len(messages) - 1))
    body = json.loads(messages[number].body)
    place, key = data.draw(st.sampled_from(_places(body)))
    place[key] = data.draw(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just({}))
    messages[number] = messages[number].model_copy(update={"body": json.dumps(body)})
    assert [check.name for check in audit("u", resealed(whole, messages), None)] == list(WHOLE)


def _places(value: Any) -> list[tuple[Any, str | int]]:
    """Everything in a body that can be replaced."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(value, key), *_places(value[key])]]


TAMPERED: dict[str, tuple[str, tuple[str | int, ...], object, str, str]] = {
    # what: kind, where in its body, another value, the check that fails, what it says
    "other values": ("update.proposed", ("values", "learning_rate"), 2e-3, "content", "it says"),
    "other base": ("update.proposed", ("base", "a"), 7, "proposal", "a has moved on"),
    "other values before": ("update.proposed", ("before", "a", "gamma"), 0.5, "proposal", "before is {'a': {"),
    "another proposer": ("update.proposed", ("by", "principal"), "grace", "signatures", "signed by ada, not by grace"),
    "another approver": ("update.approved", ("by", "principal"), "ada", "signatures", "signed by grace, not by ada"),
    "a longer approval": ("update.approved", ("apply_until",), "2099-01-01T00:00:00Z", "approval", "it says 2099"),
    "another content approved": ("update.approved", ("signed", "body"), "{}", "signatures", "forged"),
    "better scores": ("study.finished", ("evidence", "scores", 0, "candidate"), 9.0, "study", "worked out again"),
    "a better trial": ("trial.completed", ("score",), 0.99, "study", "its trials decide nothing yet"),
    "a luckier seed": ("trial.run", ("seed",), 5, "study", "its seed, length or start"),
    "other evidence": ("update.proposed", ("evidence", "verdict"), "NOT_BETTER", "verdict", "the scores say BETTER"),
    "other values sent": ("agent.configure", ("values", "gamma"), 0.5, "configurations", "not what is due: values"),
    "an approval left out": ("agent.configure", ("approval",), None, "configurations", "not what is due: approval"),
    "a false read-back": ("update.reloaded", ("read_backs", 0, "effective", "gamma"), 0.5, "read-back", "not what"),
    "an agent that drifted": (
        "agent.reloaded",
        ("effective", "learning_rate"),
        5e-4,
        "read-back",
        "not what the agent",
    ),
    "weights that changed": ("agent.reloaded", ("weights_after",), "f" * 64, "read-back", "not what the agent said"),
    "another canary": ("update.started", ("canary", 0), "b", "stages", "the lot says a"),
    "another snapshot": ("agent.restored", ("snapshot", "sha256"), "f" * 64, "way back", "another snapshot"),
    "other weights after going back": ("agent.restored", ("weights",), "f" * 64, "way back", "its weights were"),
    "an event of another update": ("agent.reloaded", ("update_id",), "v", "configurations", "which is not v's"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_altered_is_named_even_if_it_was_sealed_again_by_someone_trusted(whole: Export, what: str) -> None:
    kind, path, value, check, words = TAMPERED[what]
    found = failed(altered(whole, kind, put(*path, value=value)))
    assert words in found.get(check, f"nothing; but {found}")
    assert "file" not in found


def test_an_approval_given_at_a_page_holds_by_the_page_s_key_and_says_on_whose_word(at_a_page: Export) -> None:
    assert outcomes(at_a_page) == WHOLE
    [signatures] = [check.why for check in audit("u", at_a_page, None) if check.name == "signatures"]
    assert "#bo (as the page page says)" in signatures


def as_another(body: Body) -> None:
    """Put somebody else into what the page signed for, and into the event with it."""
    body["signed"]["on_behalf"] = body["signed"]["on_behalf"].replace("bo", "al")
    body["by"] = json.loads(json.dumps(body["by"]).replace("bo", "al"))


AT_A_PAGE: dict[str, tuple[Callable[[Body], None], str]] = {
    # what: how, what the check of signatures says
    "somebody else is approved for": (as_another, "its signature is not page's"),
    "nobody is approved for": (put("signed", "on_behalf", value=None), "its signature is not page's"),
    "another approver": (put("by", "principal", value="grace"), "#bo, not by grace"),
    "a login of another time": (put("by", "login", "issued_at", value="2020-01-01T00:00:00Z"), "logged in is not what"),
    "no login": (put("by", "login", value=None), "logged in is not what was signed"),
}


@pytest.mark.parametrize("what", AT_A_PAGE)
def test_an_approval_given_at_a_page_that_was_altered_is_found(at_a_page: Export, what: str) -> None:
    how, words = AT_A_PAGE[what]
    found = failed(altered(at_a_page, "update.approved", how))
    assert words in found.get("signatures", f"nothing; but {found}")
    assert "file" not in found


def test_an_event_that_was_left_out_leaves_a_gap(whole: Export) -> None:
    for kind in ("update.approved", "update.reloaded", "agent.accepted", "update.proposed"):
        rest = [one for one in whole.messages if f".{kind}." not in one.subject]
        found = failed(resealed(whole, rest, GRACE))
        assert {"history", "messages"} & set(found), kind


def test_events_in_another_order_cannot_follow_from_one_another(whole: Export) -> None:
    """Sequences and versions are made to fit: what is left is that nobody confirms what is not reloaded."""
    messages = list(whole.messages)
    places = [n for n, one in enumerate(messages) if ".update.reloaded." in one.subject or ".confirmed." in one.subject]
    last, end = messages[places[-2]], messages[places[-1]]
    messages[places[-2]] = end.model_copy(update={k: getattr(last, k) for k in ("sequence", "time", "headers")})
    messages[places[-1]] = last.model_copy(update={k: getattr(end, k) for k in ("sequence", "time", "headers")})
    found = failed(resealed(whole, messages, GRACE))
    assert "cannot follow: the update was confirmed" in found["history"]


def test_an_approval_by_a_key_that_nobody_trusts_is_found(whole: Export) -> None:
    def forge(body: Body) -> None:
        said = ApproveUpdate.model_validate_json(body["signed"]["body"])
        body["signed"] = signed(MALLORY, soon(said), "c-approve").model_dump(mode="json")

    assert "nobody's in the trust file" in failed(altered(whole, "update.approved", forge))["signatures"]


def test_what_an_export_lacks_is_said_and_is_no_failure(whole: Export) -> None:
    rest = [one for one in whole.messages if not one.subject.startswith(("tars.event.study", "tars.event.trial"))]
    found = {check.name: check for check in audit("u", resealed(whole, rest), None)}
    assert (found["study"].outcome, found["verdict"].outcome) == ("not checkable", "ok")
    assert "not in the export" in found["study"].why
    assert "nobody signed it" in found["file"].why


def test_a_search_with_an_explained_champion_comes_out_again() -> None:
    """From its trials alone: candidates, looks, worth of each key, the smaller change."""
    begun = started(12, explain=True)
    finished, board = play(begun, better_by(0.2))
    case = Case("u", told=tuple(_told([begun, *board.asked.values(), *board.outcomes.values(), finished])))
    case = replace(case, told=(*case.told, *_told([_proposal(finished.evidence)])))
    assert isinstance(found := weighed.study(case), str), found
    assert isinstance(weighed.evidence(case), str)
    worse = finished.model_copy(update={"champion": begun.incumbent})
    told = [replace(one, message=worse) if one.message is finished else one for one in case.told]
    assert any("champion" in text for text in weighed.study(replace(case, told=tuple(told))))


def _proposal(found: Evidence | None) -> UpdateProposed:
    example = EXAMPLES["update.proposed.v1"]
    assert isinstance(example, UpdateProposed)
    return example.model_copy(update={"update_id": "u", "evidence": found, "study_id": "s"})


def _told(messages: Sequence[Message]) -> list[Told]:
    return [Told(message, "", n, NOON, {}) for n, message in enumerate(messages)]
