"""A request's payload as the operations take it apart, as leniently as Xen's C xenstored."""

from libc.string cimport strlen

import errno
import re

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError

DOMID_MAX = 0xFFFF

_ATOI = re.compile(r"[ \t-\r]*([+-]?[0-9]+)").match


cdef class Request:
    """A request and whose it is: `transaction` is None for one on the live store."""

    def __cinit__(self, session, transaction, tx_id, bytes payload):
        self.session = session
        self.transaction = transaction
        self.tx_id = tx_id
        self.payload = payload

    @property
    def strings(self):
        """The payload's strings that end with a NUL; what follows the last is left out."""
        return self.payload.decode("latin-1").split("\0")[:-1]

    @property
    def one(self):
        """The payload as exactly one string; raises XenstoreError(EINVAL)."""
        # The bytes' own NUL comes after the last.
        cdef const char *text = self.payload
        cdef Py_ssize_t length = len(self.payload)
        if length == 0 or <Py_ssize_t>strlen(text) != length - 1:
            raise XenstoreError(errno.EINVAL)
        return text[:length - 1].decode("latin-1")

    @property
    def access(self):
        """The nodes as the client may use them."""
        if self.transaction is None:
            return self.session.access
        return Access(self.transaction, self.session.domain)

    def path(self, str text, *, bint special=False):
        """`text` as a canonical path; raises XenstoreError(EINVAL)."""
        return self.session.path(text, special=special)


def number(str text):
    """What atoi() makes of `text`: its leading number, 0 where there is none.

    Where C leaves it undefined, the result is the nearest that an int can hold.
    """
    match = _ATOI(text)
    return max(-(2**31), min(int(match[1]), 2**31 - 1)) if match else 0


def domain_id(str text):
    """A domain's number, all of `text`; raises XenstoreError(EINVAL)."""
    if not text:
        return 0
    match = _ATOI(text)
    if not match or match.end() != len(text) or not 0 <= int(match[1]) <= DOMID_MAX:
        raise XenstoreError(errno.EINVAL)
    return int(match[1])
