"""What a command may ask for, and what makes two messages equal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from examples import EVIDENCE, EXAMPLES, GRACE, NOON, READ_BACK, RUNNING
from tars.schemas.evidence import Verdict
from tars.schemas.message import By, Message
from tars.schemas.study import StartStudy
from tars.schemas.update import ProposeUpdate, UpdateProposed, UpdateReleased, content_of


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_a_message_cannot_be_changed(kind: str) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(EXAMPLES[kind], "kind", "other")  # noqa: B010 - mypy knows that it cannot be assigned


@pytest.mark.parametrize("kind", sorted(EXAMPLES))
def test_the_class_is_named_as_its_kind(kind: str) -> None:
    """One word from class to wire: ApproveUpdate <-> update.approve.v1."""
    noun, verb, _ = kind.split(".")
    words = {word.lower() for word in _words(type(EXAMPLES[kind]).__name__)}
    assert words == {noun, *verb.split("-")}


def _words(name: str) -> list[str]:
    return "".join(f" {letter}" if letter.isupper() else letter for letter in name).split()


@pytest.mark.parametrize(
    "aims",
    [{}, {"role": "policy", "algorithm": "dqn"}, {"role": "policy", "agents": ("a",)}, {"agents": ()}],
)
def test_a_study_has_exactly_one_aim(aims: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="exactly one of role, agents and algorithm"):
        StartStudy.model_validate({"study_id": "s", **aims})


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"trials": 1001}, {"trials": 2.0}, {"seed": -1}, {"sampler": "best"}])
def test_a_study_outside_its_limits_is_no_study(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        StartStudy.model_validate({"study_id": "s", "role": "policy", **wrong})


@pytest.mark.parametrize("agents", [(), ("a", "a"), ("a b",), ("a.b",), ("a" * 65,)])
def test_a_proposal_names_real_agents_once(agents: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        ProposeUpdate(update_id="u", agents=agents, values={"gamma": 0.9})


def test_a_proposal_without_values_is_none() -> None:
    with pytest.raises(ValidationError):
        ProposeUpdate(update_id="u", agents=("a",), values={})


PROPOSED = EXAMPLES["update.proposed.v1"].model_copy(
    update={"values": {"gamma": 0.9, "tau": 1.0}, "base": {"a": 1, "b": 2}}
)
SAME: dict[str, dict[str, object]] = {
    "the order of values": {"values": {"tau": 1.0, "gamma": 0.9}},
    "the order of agents": {"base": {"b": 2, "a": 1}},
    "the reason": {"reason": "another"},
}
OTHER: dict[str, dict[str, object]] = {
    "a value": {"values": {"gamma": 0.91, "tau": 1.0}},
    "a version": {"base": {"a": 1, "b": 3}},
    "an agent": {"base": {"a": 1}},
    "no evidence": {"evidence": None},
    "other evidence": {"evidence": EVIDENCE.model_copy(update={"gain": 0.5})},
    "who proposed it": {"by": GRACE},
    "its expiry": {"expires_at": NOON},
}


def digest_with(change: dict[str, object]) -> str:
    proposed = PROPOSED.model_copy(update=change)
    assert isinstance(proposed, UpdateProposed)
    return content_of(proposed).digest()


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in SAME.items()])
def test_an_approval_does_not_depend_on(change: dict[str, object]) -> None:
    assert digest_with(change) == digest_with({})


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in OTHER.items()])
def test_an_approval_is_of_one_content_alone_so_not_of_one_with(change: dict[str, object]) -> None:
    assert digest_with(change) != digest_with({})


def test_a_content_keeps_its_digest_through_the_ledger() -> None:
    assert isinstance(PROPOSED, UpdateProposed)
    stored = UpdateProposed.model_validate_json(PROPOSED.model_dump_json())
    assert content_of(stored).canonical() == content_of(PROPOSED).canonical()


@given(st.permutations(sorted(RUNNING)))
def test_evidence_has_one_digest_whatever_the_order_of_its_keys(keys: list[str]) -> None:
    shuffled = EVIDENCE.model_copy(update={"incumbent": {key: RUNNING[key] for key in keys}})
    assert shuffled.digest() == EVIDENCE.digest()


@pytest.mark.parametrize("verdict", [Verdict.NOT_BETTER, Verdict.INCONCLUSIVE])
def test_only_real_better_evidence_carries_a_change_without_a_person(verdict: Verdict) -> None:
    assert EVIDENCE.promotable
    assert not EVIDENCE.model_copy(update={"verdict": verdict}).promotable
    assert not EVIDENCE.model_copy(update={"training": "surrogate"}).promotable


def test_a_read_back_is_equal_to_32_bit_floats_and_not_further() -> None:
    near = {**READ_BACK.requested, "learning_rate": 0.0012 * (1 + 1e-9)}
    far = {**READ_BACK.requested, "learning_rate": 0.00121}
    assert READ_BACK.model_copy(update={"effective": near}).equal
    assert not READ_BACK.model_copy(update={"effective": far}).equal
    assert not READ_BACK.model_copy(update={"effective": {"learning_rate": 0.0012}}).equal


def test_who_is_marked_until_a_signature_proves_it() -> None:
    assert str(By(principal="ada")) == "ada (unsigned)"
    assert str(By(principal="ada", signed=True)) == "ada"


def test_a_message_knows_its_noun_key_and_subject() -> None:
    message: Message = UpdateReleased(update_id="u-1", by=By(principal="ada"))
    assert (message.noun, message.key) == ("update", "u-1")
    assert message.subject == "tars.event.update.released.v1.u-1"
