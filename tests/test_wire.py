"""What was sent once can be read for ever: the samples in tests/wire are never edited, only added to."""

import json
from pathlib import Path

import pytest

from examples import EXAMPLES, GROWN
from tars.schemas.streams import KINDS, decode

WIRE = Path(__file__).with_name("wire")
SAMPLES = sorted(path.stem for path in WIRE.glob("*.json"))
MESSAGES = {**EXAMPLES, **GROWN}
"""Name of a sample -> what it says."""


def is_kept(old: object, new: object) -> bool:
    """Say whether all that `old` says stands in `new`: an additive change may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and is_kept(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(is_kept, old, new))
    return type(old) is type(new) and old == new


def test_each_kind_has_its_example() -> None:
    assert set(EXAMPLES) == set(KINDS)


@pytest.mark.parametrize("name", sorted(GROWN))
def test_what_a_kind_has_gained_has_its_sample(name: str) -> None:
    assert name in SAMPLES, f"write tests/wire/{name}.json, from the message in tests/examples.py"


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_decodes_to_its_example(kind: str) -> None:
    message = MESSAGES[kind]
    assert decode(message.subject, (WIRE / f"{kind}.json").read_bytes()) == message


@pytest.mark.parametrize("kind", SAMPLES)
def test_nothing_of_a_sample_is_lost_when_it_is_encoded_again(kind: str) -> None:
    """A field that was renamed or dropped needs a new version of its kind."""
    sample = (WIRE / f"{kind}.json").read_bytes()
    again = decode(MESSAGES[kind].subject, sample).model_dump_json()
    assert is_kept(json.loads(sample), json.loads(again))


@pytest.mark.parametrize("kind", SAMPLES)
def test_an_example_travels_unchanged(kind: str) -> None:
    message = MESSAGES[kind]
    assert decode(message.subject, message.model_dump_json().encode()) == message
