"""What was sent once can be read for ever: the samples in tests/wire are never edited, only added to.

`<kind>.json` is the first of a kind, from tests/examples.py; fields that came later stand in `<kind>.2.json` and so on,
from tests/newer_examples.py.
"""

import json
from pathlib import Path

import pytest
from newer_examples import NEWER_EXAMPLES

from examples import EXAMPLES
from tars.schemas.streams import KINDS, decode

WIRE = Path(__file__).with_name("wire")
SAMPLES = sorted(path.stem for path in WIRE.glob("*.json"))
OF = {**EXAMPLES, **NEWER_EXAMPLES}
"""Name of a sample -> its message."""


def _read(name: str) -> bytes:
    return (WIRE / f"{name}.json").read_bytes()


def is_kept(old: object, new: object) -> bool:
    """Say whether all that `old` says stands in `new`: an additive change may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and is_kept(value, new[key]) for key, value in old.items())
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(is_kept, old, new))
    return type(old) is type(new) and old == new


def test_each_kind_has_its_example_and_each_example_its_sample() -> None:
    assert set(EXAMPLES) == set(KINDS)
    assert set(OF) == set(SAMPLES)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_field_of_a_kind_stands_in_a_sample(kind: str) -> None:
    """One that was added with a default is in no older sample: write a newer one beside."""
    samples = (json.loads(_read(name)) for name in SAMPLES if OF[name].kind == kind)
    assert {field for sample in samples for field in sample} == set(type(EXAMPLES[kind]).model_fields)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_decodes_to_its_example(name: str) -> None:
    assert decode(OF[name].subject, _read(name)) == OF[name]


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_of_a_sample_is_lost_when_it_is_encoded_again(name: str) -> None:
    """A field that was renamed or dropped needs a new version of its kind."""
    again = decode(OF[name].subject, _read(name)).model_dump_json()
    assert is_kept(json.loads(_read(name)), json.loads(again))


@pytest.mark.parametrize("name", SAMPLES)
def test_an_example_travels_unchanged(name: str) -> None:
    message = OF[name]
    assert decode(message.subject, message.model_dump_json().encode()) == message
