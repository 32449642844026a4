"""XDR: values against bytes written by hand, and wrong bytes."""

from __future__ import annotations

from typing import Any

import pytest

from kvmxen.front.libvirt.wire import DOMAIN, PARAMETER
from kvmxen.front.libvirt.xdr import (
    HYPER,
    INT,
    OPAQUE,
    STRING,
    UHYPER,
    UINT,
    Array,
    Chars,
    Optional,
    Reader,
    Type,
    XdrError,
)


@pytest.mark.parametrize(
    ("kind", "value", "data"),
    [
        (INT, -2, "fffffffe"),
        (UINT, 1 << 31, "80000000"),
        (HYPER, -1, "ffffffffffffffff"),
        (UHYPER, 1 << 40, "0000010000000000"),
        (STRING, "web", "00000003 77656200"),
        (STRING, "", "00000000"),
        (STRING, "\udcff", "00000001 ff000000"),
        (Optional(STRING), None, "00000000"),
        (Optional(INT), 5, "00000001 00000005"),
        (Array(INT), [1, 2], "00000002 00000001 00000002"),
        (OPAQUE, b"\x01", "00000001 01000000"),
        (DOMAIN, ("a", bytes(16), -1), "00000001 61000000" + "00" * 16 + "ffffffff"),
        (PARAMETER, ("a", (4, 7)), "00000001 61000000 00000004 0000000000000007"),
        (Chars(3), "ab", "00000061 00000062 00000000"),
    ],
)
def test_a_value_has_these_bytes(kind: Type, value: Any, data: str) -> None:
    assert kind.write(value) == bytes.fromhex(data)
    assert kind.read(Reader(bytes.fromhex(data))) == value


@pytest.mark.parametrize(
    ("kind", "data", "why"),
    [
        (INT, "0000", "too short"),
        (STRING, "7fffffff", "too long"),
        (STRING, "00000004 61", "too short"),
        (Optional(INT), "00000002 00000000", "neither"),
        (Array(INT), "00010001", "too long"),
        (Array(INT), "00000003", "too short"),
        (PARAMETER, "00000000 00000009", "no such arm"),
    ],
)
def test_wrong_bytes_are_refused(kind: Type, data: str, why: str) -> None:
    with pytest.raises(XdrError, match=why):
        kind.read(Reader(bytes.fromhex(data)))


def test_a_text_is_cut_to_its_array() -> None:
    assert Chars(3).write("abcdef") == Chars(3).write("ab")
