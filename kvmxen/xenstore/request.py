"""A request's payload as the operations take it apart, as leniently as Xen's C xenstored."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError
from kvmxen.xenstore.session import Session
from kvmxen.xenstore.transactions import Transaction

DOMID_MAX = 0xFFFF

_ATOI = re.compile(r"[ \t-\r]*([+-]?[0-9]+)").match


@dataclass(slots=True, eq=False)
class Request:
    """A request and whose it is: `transaction` is None for one on the live store."""

    session: Session
    transaction: Transaction | None
    tx_id: int
    payload: bytes

    @property
    def strings(self) -> list[str]:
        """The payload's strings that end with a NUL; what follows the last is left out."""
        return self.payload.decode("latin-1").split("\0")[:-1]

    @property
    def one(self) -> str:
        """The payload as exactly one string; raises XenstoreError(EINVAL)."""
        if self.payload.find(b"\0") != len(self.payload) - 1 or not self.payload:
            raise XenstoreError(errno.EINVAL)
        return self.payload[:-1].decode("latin-1")

    @property
    def access(self) -> Access:
        """The nodes as the client may use them."""
        if self.transaction is None:
            return self.session.access
        return Access(self.transaction, self.session.domain)

    def path(self, text: str, *, special: bool = False) -> str:
        """`text` as a canonical path; raises XenstoreError(EINVAL)."""
        return self.session.path(text, special=special)


def number(text: str) -> int:
    """What atoi() makes of `text`: its leading number, 0 where there is none.

    Where C leaves it undefined, the result is the nearest that an int can hold.
    """
    match = _ATOI(text)
    return max(-(2**31), min(int(match[1]), 2**31 - 1)) if match else 0


def domain_id(text: str) -> int:
    """A domain's number, all of `text`; raises XenstoreError(EINVAL)."""
    if not text:
        return 0
    match = _ATOI(text)
    if not match or match.end() != len(text) or not 0 <= int(match[1]) <= DOMID_MAX:
        raise XenstoreError(errno.EINVAL)
    return int(match[1])
