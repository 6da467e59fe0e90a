"""Messages that nobody should send: arbitrary bytes and JSON, bent samples, odd headers, odd subjects."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hypothesis import strategies as st

from tars.schemas.errors import NewerVersion, Poison, UnknownKind
from tars.schemas.message import Message
from tars.schemas.streams import KINDS, decode

SAMPLES: Final = {path.stem: path.read_bytes() for path in (Path(__file__).with_name("wire")).glob("*.json")}
LARGE: Final = 4 << 20
"""Bytes that a message may have, with its headers."""
SCALARS: Final = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS: Final = st.sampled_from(["u-s-17", "s-17", "world-1-policy", "a0", "n", "x" * 64, "x" * 65, "ä", "a.b", "~"])
HEADER_NAMES: Final = st.sampled_from(
    ["traceparent", "tracestate", "Tars-By", "Tars-Reply", "Tars-Key", "Tars-Signature", "Tars-Dead-Reason", "ce-id",
     "ce-type", "content-type", "Status", "Nats-Stream", "Nats-Sequence", "Nats-Subject", "Nats-Time-Stamp", "x!#"]
)  # fmt: skip
PRINTABLE: Final = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
REPLIES: Final = st.sampled_from(
    ["tars.reply.a b", "tars.reply.", "tars.reply.>", "tars.command.update.x", "$JS.API.INFO"]
)


@dataclass(frozen=True)
class Noise:
    """One message as it is sent."""

    subject: str
    body: bytes
    headers: dict[str, str]

    @property
    def meant(self) -> Message | None:
        """What it says, if it can be read after all."""
        try:
            return decode(self.subject, self.body)
        except Poison:
            return None

    @property
    def is_newer(self) -> bool:
        """Whether a newer release may read it: what leases, or is to be trained, waits for that one."""
        try:
            decode(self.subject, self.body)
        except (NewerVersion, UnknownKind):
            return True
        except Poison:
            return False
        return False


@st.composite
def bent(draw: st.DrawFn, kind: str) -> bytes:
    """A sample with one or two places changed."""
    body: Any = json.loads(SAMPLES[kind])
    for _ in range(draw(st.integers(1, 2))):
        key = draw(st.sampled_from(sorted(body)) | st.text(max_size=6)) if body else "kind"
        how = draw(st.sampled_from(("drop", "replace", "nest")))
        if how == "drop":
            body.pop(key, None)
        else:
            body[key] = draw(JSON) if how == "replace" else {key: body.get(key)}
    whole = json.dumps(body).encode()
    cut = draw(st.integers(0, len(whole)) | st.just(len(whole)))
    return whole[:cut]


def bodies(kind: str) -> st.SearchStrategy[bytes]:
    """What lies on a subject where this kind was expected."""
    some = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | st.just(SAMPLES[kind])
    return bent(kind) | bent(kind) | some


@st.composite
def noise(draw: st.DrawFn, channel: str, kinds: Sequence[str]) -> Noise:
    """A message on a subject of these kinds, or close to one."""
    kind = draw(st.sampled_from(kinds))
    noun, verb, version = kind.split(".")
    verb = draw(st.just(verb) | st.just(verb) | st.sampled_from(["approve", "invent", "ü", "*x"]))
    version = draw(st.just(version) | st.just(version) | st.sampled_from(["v2", "v", "v99999999999999999999", "1"]))
    sample = json.loads(SAMPLES[kind]).get(f"{noun}_id", "n")
    key = draw(st.just(sample) | st.just(sample) | KEYS)
    headers = draw(st.dictionaries(HEADER_NAMES, PRINTABLE, max_size=3))
    if "Tars-Reply" in headers:
        headers["Tars-Reply"] = draw(REPLIES)
    return Noise(f"tars.{channel}.{noun}.{verb}.{version}.{key}", draw(bodies(kind)), headers)


def kinds_of(channel: str, *nouns: str) -> list[str]:
    """Kinds of messages about these nouns."""
    return sorted(kind for kind, model in KINDS.items() if channel == model.CHANNEL and kind.split(".")[0] in nouns)
