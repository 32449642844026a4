"""Who may do what, and the notation for it."""

from __future__ import annotations

import pytest

from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.permissions import (
    DOMID_ANY,
    NONE,
    OWNER,
    READ,
    WRITE,
    Permission,
    rights,
)

ALL = READ | WRITE | OWNER


@pytest.mark.parametrize(
    ("text", "permission"),
    [
        (b"n0", Permission(0)),
        (b"r1", Permission(1, READ)),
        (b"w17", Permission(17, WRITE)),
        (b"b65535", Permission(65535, READ | WRITE)),
    ],
)
def test_wire_form(text: bytes, permission: Permission) -> None:
    assert Permission.decode(text) == permission
    assert permission.encode() == text


@pytest.mark.parametrize(
    "text", [b"", b"r", b"x1", b"r1 ", b"r-1", b"r65536", b"rw1", b"1", b"r1\n"]
)
def test_what_is_no_permission(text: bytes) -> None:
    with pytest.raises(XenstoreError):
        Permission.decode(text)


@pytest.mark.parametrize(
    ("domid", "expected"),
    [(0, ALL), (1, ALL), (2, READ), (3, NONE), (4, WRITE), (9, READ | WRITE)],
)
def test_rights(domid: int, expected: int) -> None:
    permissions = (
        Permission(1, READ | WRITE),
        Permission(2, READ),
        Permission(2, WRITE),
        Permission(3, NONE),
        Permission(4, READ, valid=False),
        Permission(4, WRITE),
    )
    assert rights(permissions, domid, domid) == expected


def test_everybody() -> None:
    permissions = (Permission(0), Permission(3, WRITE), Permission(DOMID_ANY, READ))
    assert rights(permissions, 5, 5) == READ
    assert rights(permissions, 3, 3) == WRITE
