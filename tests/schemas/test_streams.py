"""Where every message lives, and what reading one refuses."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import EXAMPLES
from tars.schemas import streams
from tars.schemas.errors import Malformed, NewerVersion, Poison, UnknownKind
from tars.schemas.message import Message
from tars.schemas.streams import (
    BUCKETS,
    DURABLES,
    KINDS,
    ROLES,
    STREAMS,
    configure_subject,
    decode,
    history_subject,
    live_subject,
    stream_of,
)
from tars.schemas.update import UpdateRejected

IRREVERSIBLE = {
    "EVENTS": (("tars.event.study.>", "tars.event.update.>", "tars.event.agent.>"), "limits", True, True, False),
    "COMMANDS": (("tars.command.study.>", "tars.command.update.>"), "workqueue", False, False, False),
    "TRIALS": (("tars.command.trial.>", "tars.event.trial.>"), "limits", False, True, False),
    "AGENTS": (("tars.command.agent.>",), "limits", False, False, False),
    "REPORTS": (("tars.report.>",), "limits", False, False, True),
    "DEAD": (("tars.dead.>",), "limits", False, False, False),
}
"""Stream -> subjects, retention, atomic batches, append only, asynchronous."""
SUBJECTS = {
    "study.start.v1": ("tars.command.study.start.v1.s-17", "COMMANDS"),
    "update.approved.v1": ("tars.event.update.approved.v1.u-s-17", "EVENTS"),
    "trial.run.v1": ("tars.command.trial.run.v1.s-17.3", "TRIALS"),
    "trial.completed.v1": ("tars.event.trial.completed.v1.s-17.3", "TRIALS"),
    "agent.configure.v1": ("tars.command.agent.configure.v1.world-1-policy", "AGENTS"),
    "agent.reported.v1": ("tars.report.agent.reported.v1.world-1-policy", "REPORTS"),
}
APPROVE = EXAMPLES["update.approve.v1"]


def matches(pattern: str, subject: str) -> bool:
    """Say whether NATS would: `*` is one token, a last `>` is one or more."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted, rest = wanted[:-1], tokens[len(wanted) - 1 :]
        if not rest:
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(w in {"*", t} for w, t in zip(wanted, tokens, strict=True))


def test_what_a_server_can_never_change_of_a_stream_is_frozen() -> None:
    """Renaming one of these means a new stream and a copy of all its messages: the ledger lives for ever."""
    found = {s.name: (s.subjects, s.retention, s.allow_atomic, s.append_only, s.asynchronous) for s in STREAMS.values()}
    assert found == IRREVERSIBLE


def test_the_stream_behind_the_snapshots_is_an_object_store_to_every_client() -> None:
    found = {bucket.name: (bucket.stream, bucket.subjects) for bucket in BUCKETS.values()}
    assert found == {"SNAPSHOTS": ("OBJ_SNAPSHOTS", ("$O.SNAPSHOTS.C.>", "$O.SNAPSHOTS.M.>"))}


def test_a_role_reads_what_there_is_and_keeps_only_buckets() -> None:
    for rights in ROLES.values():
        assert set(rights.reads) <= set(STREAMS) | set(BUCKETS)
        assert set(rights.keeps) <= set(BUCKETS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_message_is_stored_by_exactly_one_stream(kind: str) -> None:
    subject = EXAMPLES[kind].subject
    owners = [s.name for s in STREAMS.values() if any(matches(p, subject) for p in s.subjects)]
    assert owners == [stream_of(subject)]


@pytest.mark.parametrize("kind", sorted(SUBJECTS))
def test_a_subject_is_what_others_have_subscribed_to(kind: str) -> None:
    subject, stream = SUBJECTS[kind]
    assert EXAMPLES[kind].subject == subject
    assert stream_of(subject) == stream


def test_a_subject_that_no_stream_owns_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        stream_of("tars.query.agents.v1")


@pytest.mark.parametrize("kind", sorted(kind for kind, model in KINDS.items() if model.CHANNEL == "event"))
def test_a_history_holds_every_event_of_its_id(kind: str) -> None:
    message = EXAMPLES[kind]
    assert matches(history_subject(message.noun, message.key), message.subject)
    assert not matches(history_subject(message.noun, f"{message.key}x"), message.subject)


def test_an_agent_hears_its_configuration_where_it_is_republished() -> None:
    subject = EXAMPLES["agent.configure.v1"].subject
    republish = STREAMS["AGENTS"].republish
    assert republish is not None
    assert matches(configure_subject("world-1-policy"), subject)
    heard = subject.replace(republish[0].removesuffix(">"), republish[1].removesuffix(">"))
    assert matches(live_subject("world-1-policy"), heard)


def test_each_durable_reads_its_own_stream_and_is_worked_on_by_one_role() -> None:
    for durable in DURABLES.values():
        assert all(stream_of(subject) == durable.stream for subject in durable.subjects)
        assert [name for name, role in ROLES.items() if durable.name in role.durables]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_message_may_be_sent_by_some_role(kind: str) -> None:
    subject = EXAMPLES[kind].subject
    assert [name for name, role in ROLES.items() if any(matches(p, subject) for p in role.publishes)]


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("tars.command.update.approve.v2.u-s-17", NewerVersion),
        ("tars.command.update.approve.v99.u-s-17", NewerVersion),
        ("tars.command.update.approve.v0.u-s-17", UnknownKind),
        ("tars.command.update.sing.v1.u-s-17", UnknownKind),
        ("tars.event.update.approve.v1.u-s-17", UnknownKind),  # a command where events live
        ("tars.command.update.approve.u-s-17", UnknownKind),
        ("tars.command.update.approve.v1.u-18", Malformed),
        ("tars.command.update.approve.v1.u-s-17.x", Malformed),
        ("tars", UnknownKind),
        ("", UnknownKind),
    ],
)
def test_a_body_on_the_wrong_subject_is_poison_with_the_reason(subject: str, error: type[Poison]) -> None:
    with pytest.raises(error) as caught:
        decode(subject, APPROVE.model_dump_json().encode())
    assert caught.value.reason == error.reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b'{"update_id":',
        b"{}",
        b'{"update_id":"u-s-17","kind":"update.reject.v1"}',
        b'{"update_id":"u-s-17","extra":1}',
        b'{"update_id":"u-s-17","deadline":"2026-11-24T12:00:00"}',  # no time zone: nobody knows when that is
        b'{"update_id":"u.s"}',
        b'{"update_id":""}',
    ],
)
def test_a_body_that_is_no_such_message_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed, match="update.approve.v1"):
        decode(APPROVE.subject, body)


@given(st.binary(max_size=200))
def test_random_bytes_are_poison(body: bytes) -> None:
    """Hardly any bytes are a message, so all must be poison; a crash would take the worker with it."""
    with pytest.raises(Poison):
        decode(APPROVE.subject, body)


def test_an_event_with_a_field_of_tomorrow_is_still_read_and_a_command_is_not() -> None:
    released = EXAMPLES["update.released.v1"]
    more = released.model_dump_json().replace("{", '{"tomorrow":1,', 1).encode()
    assert decode(released.subject, more) == released
    with pytest.raises(Malformed, match="tomorrow"):
        decode(APPROVE.subject, APPROVE.model_dump_json().replace("{", '{"tomorrow":1,', 1).encode())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("kind", ["update.propose.v1", "agent.configure.v1", "trial.completed.v1", "agent.reported.v1"])
def test_a_number_that_is_not_finite_is_malformed_wherever_it_stands(kind: str, number: str) -> None:
    text = EXAMPLES[kind].model_dump_json()
    broken = text.replace("0.0012", number).replace('"score":0.75', f'"score":{number}')
    broken = broken.replace('"score":0.5', f'"score":{number}')
    assert broken != text
    with pytest.raises(Malformed, match=kind):
        decode(EXAMPLES[kind].subject, broken.encode())


class Rejected1(UpdateRejected):
    """As it was written before: the next version has a reason of its own."""

    def upcast(self) -> Message:
        """Say the same as the next version does."""
        return Rejected2(update_id=self.update_id, by=self.by, reason=self.reason, because=self.reason)


class Rejected2(UpdateRejected):
    """As it is written now."""

    kind: Literal["update.rejected.v2"] = "update.rejected.v2"  # type: ignore[assignment] # a version of its own
    because: str


def test_a_version_that_was_succeeded_is_read_as_the_newest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"update.rejected.v1": Rejected1, "update.rejected.v2": Rejected2}
    monkeypatch.setattr(streams, "KINDS", {**streams.KINDS, **kinds})
    old = EXAMPLES["update.rejected.v1"]
    found = decode(old.subject, old.model_dump_json().encode())
    assert isinstance(found, Rejected2)
    assert found.because == getattr(old, "reason", None)
