"""Who may do what to a node (docs/misc/xenstore.txt, tools/include/xenstore_lib.h).

A node's first permission names its owner, who may do anything, and gives the rights of all domains
that no later permission names.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

from kvmxen.xenstore.errors import XenstoreError

NONE = 0
READ = 1
WRITE = 2
OWNER = 8

DOM0 = 0
DOMID_ANY = 0x7FF5  # xen/include/public/xen.h

LETTERS = {NONE: b"n", READ: b"r", WRITE: b"w", READ | WRITE: b"b"}
ACCESS_OF = {letter: access for access, letter in LETTERS.items()}
_TEXT = re.compile(rb"([nrwb])([0-9]{1,5})").fullmatch


class Permission(NamedTuple):
    """`access` (READ and WRITE bits) for `domid`; not `valid` if no such domain existed."""

    domid: int
    access: int = NONE
    valid: bool = True

    def encode(self) -> bytes:
        """The wire form: a letter and the domain, `r1`."""
        return b"%s%d" % (LETTERS[self.access], self.domid)

    @classmethod
    def decode(cls, text: bytes) -> Permission:
        """Decode the wire form; raises XenstoreError(EINVAL)."""
        match = _TEXT(text)
        if not match or int(match[2]) > 0xFFFF:
            raise XenstoreError(errno.EINVAL)
        return cls(int(match[2]), ACCESS_OF[match[1]])


Permissions = tuple[Permission, ...]


def rights(permissions: Permissions, domid: int, target: int) -> int:
    """The READ, WRITE and OWNER bits of `domid`, which may do what `target` may; dom0 has all."""
    if domid == DOM0 or permissions[0].domid in (domid, target, DOMID_ANY):
        return READ | WRITE | OWNER
    for permission in permissions[1:]:
        if permission.valid and permission.domid in (domid, target, DOMID_ANY):
            return permission.access
    return permissions[0].access
