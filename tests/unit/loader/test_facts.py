"""The kept facts of an ELF file come back as they were, or are refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvmxen.errors import KvmxenError
from kvmxen.loader import facts as module
from kvmxen.loader.elf import ElfKernel
from kvmxen.loader.elf_reader import read
from kvmxen.loader.facts import Facts, Load
from tests.unit.loader.images import elf

IMAGE = elf()
FACTS = read(memoryview(IMAGE))
WORDS = st.integers(0, (1 << 64) - 1)


def vouched(said: object) -> bytes:
    """A file with `said` as its facts and a matching checksum."""
    body = json.dumps(said).encode()
    return module._first_line(body) + body


def told(**changes: Any) -> dict[str, Any]:
    """The contents of a file of FACTS, with `changes`."""
    said: dict[str, Any] = json.loads(FACTS.encode().partition(b"\n")[2])
    return said | changes


@given(
    st.builds(
        Facts,
        WORDS,
        st.lists(st.builds(Load, WORDS, WORDS, WORDS, WORDS, WORDS), max_size=3).map(tuple),
        st.dictionaries(st.integers(0, (1 << 32) - 1), st.binary(max_size=20), max_size=4),
    )
)
def test_facts_come_back(facts: Facts) -> None:
    assert Facts.decode(facts.encode()) == facts


def test_no_byte_can_be_another() -> None:
    whole = FACTS.encode()
    for at in range(len(whole)):
        for byte in (whole[at] ^ 1, whole[at] ^ 0x80, 0x20):
            if byte != whole[at]:
                with pytest.raises(ValueError, match="damaged"):
                    Facts.decode(whole[:at] + bytes([byte]) + whole[at + 1 :])


def test_no_byte_can_be_missing() -> None:
    whole = FACTS.encode()
    for at in range(len(whole)):
        with pytest.raises(ValueError, match="damaged"):
            Facts.decode(whole[:at])
    with pytest.raises(ValueError, match="damaged"):
        Facts.decode(whole + b" ")


def test_another_format(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FACTS.encode()
    monkeypatch.setattr(module, "_FORMAT", module._FORMAT + 1)
    with pytest.raises(ValueError, match="another format"):
        Facts.decode(whole)
    assert Facts.decode(FACTS.encode()) == FACTS


@pytest.mark.parametrize(
    "said",
    [
        None,
        [],
        "entry",
        told(entry=True),
        told(entry=1.5),
        told(entry="0x10"),
        told(entry=-1),
        told(entry=1 << 64),
        told(loads=None),
        told(loads="text"),
        told(loads=[1]),
        told(loads=[[1, 2, 3, 4]]),
        told(loads=[[1, 2, 3, 4, 5, 6]]),
        told(loads=[[1, 2, 3, 4, -5]]),
        told(loads=[{"paddr": 1}]),
        told(notes=None),
        told(notes=[]),
        told(notes={"x": ""}),
        told(notes={"-1": ""}),
        told(notes={"1": "0"}),
        told(notes={"1": "zz"}),
        told(notes={"1": 5}),
        {"entry": 1, "loads": []},
    ],
    ids=str,
)
def test_no_facts(said: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - all are refused, for whatever reason
        Facts.decode(vouched(said))


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"\xff", b'{"entry": ' + b"9" * 9999])
def test_no_json(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Facts.decode(module._first_line(body) + body)


HOSTILE = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | WORDS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["entry", "loads", "notes"]), HOSTILE, max_size=2),
    st.lists(st.lists(WORDS, min_size=5, max_size=5), max_size=3),
    st.dictionaries(st.integers(0, 20).map(str), st.binary(max_size=9).map(bytes.hex), max_size=4),
    st.booleans(),
)
def test_facts_that_lie_are_a_kernel_or_refused(
    changes: dict[str, Any], loads: list[list[int]], notes: dict[str, str], formed: bool
) -> None:
    """Anyone who can write to the cache can also compute the checksum."""
    said = told(loads=[*told()["loads"], *loads], notes=told()["notes"] | notes)
    with suppress(ValueError, KvmxenError):
        facts = Facts.decode(vouched(said if formed else told(**changes)))
        kernel = ElfKernel.of(IMAGE, facts)
        assert kernel.start <= kernel.entry < kernel.end
        assert all(segment.data.obj is IMAGE for segment in kernel.segments)
