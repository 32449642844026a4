"""A request's payload and its parsing, as lenient as in Xen's C xenstored."""

from libc.string cimport strlen

import errno
import re

from kvmxen.xenstore.access import Access
from kvmxen.xenstore.errors import XenstoreError

DOMID_MAX = 0xFFFF

_ATOI = re.compile(r"[ \t-\r]*([+-]?[0-9]+)").match


cdef class Request:
    """A request and its client; `transaction` is None on the live store."""

    def __cinit__(self, session, transaction, tx_id, bytes payload):
        self.session = session
        self.transaction = transaction
        self.tx_id = tx_id
        self.payload = payload

    @property
    def strings(self):
        """The payload's strings that end with a NUL; anything after the last NUL is ignored."""
        return self.payload.decode("latin-1").split("\0")[:-1]

    @property
    def one(self):
        """The payload as exactly one string; raises XenstoreError(EINVAL)."""
        # A bytes object has a NUL of its own after its last byte.
        cdef const char *text = self.payload
        cdef Py_ssize_t length = len(self.payload)
        if length == 0 or <Py_ssize_t>strlen(text) != length - 1:
            raise XenstoreError(errno.EINVAL)
        return text[:length - 1].decode("latin-1")

    @property
    def access(self):
        """The nodes with the client's rights."""
        if self.transaction is None:
            return self.session.access
        return Access(self.transaction, self.session.domain)

    def path(self, str text, *, bint special=False):
        """`text` as a canonical path; raises XenstoreError(EINVAL)."""
        return self.session.path(text, special=special)


def number(str text):
    """What atoi() makes of `text`: its leading number, or 0 if there is none.

    If C leaves the result undefined, this is the nearest value of an int.
    """
    match = _ATOI(text)
    return max(-(2**31), min(int(match[1]), 2**31 - 1)) if match else 0


def domain_id(str text):
    """The domain number that is all of `text`; raises XenstoreError(EINVAL)."""
    if not text:
        return 0
    match = _ATOI(text)
    if not match or match.end() != len(text) or not 0 <= int(match[1]) <= DOMID_MAX:
        raise XenstoreError(errno.EINVAL)
    return int(match[1])
