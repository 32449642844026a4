"""How much of xenstore one unprivileged domain may use (quotas[] in tools/xenstored/domain.c)."""

from kvmxen.xenstore.tree cimport Node

from dataclasses import dataclass, fields, replace

from kvmxen.abi.xs_wire import REL_PATH_MAX, Feature
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.permissions import rights as rights_of

FEATURES = Feature.RECONNECTION | Feature.ERROR | Feature.WATCHDEPTH | Feature.DOMID_ANY

# The bytes that Xen counts for a node beside its content: struct node_hdr and struct
# xs_permissions.
cdef enum:
    HEADER_BYTES = 16
    PERMISSION_BYTES = 8

cdef int _DOM0 = DOM0
cdef int _FEATURES = FEATURES


@dataclass(frozen=True)
class Quota:
    """Limits, by default Xen's; 0 means no limit. Sizes are in bytes."""

    nodes: int = 1000
    watches: int = 128
    outstanding: int = 20
    memory: int = 2560 << 10
    soft_memory: int = 2048 << 10
    transactions: int = 10
    transaction_nodes: int = 1024
    node_permissions: int = 5
    path_max: int = REL_PATH_MAX
    node_size: int = 2048

    def with_limit(self, name, limit):
        """A copy with the limit that the wire calls `name`, one of QUOTA_NAMES."""
        return replace(self, **{name.replace("-", "_"): limit})

    def limit(self, name):
        """The limit that the wire calls `name`, one of QUOTA_NAMES."""
        return getattr(self, name.replace("-", "_"))


QUOTA_NAMES = tuple([item.name.replace("_", "-") for item in fields(Quota)])


cdef class Domain:
    """A domain that xenstore knows, and its use of resources.

    `target` is the domain that it may act as (SET_TARGET). `shutdown` says that its end was
    announced. `peaks` has its highest use of each quota, and `guests_peaks`, which guests share,
    the highest of any guest.
    """

    def __init__(self, domid, quota=None, dict guests_peaks=None):
        self.domid = domid
        self.quota = Quota() if quota is None else quota
        self.features = _FEATURES
        self.peaks = {}
        self._guests_peaks = None if domid == DOM0 else guests_peaks

    cpdef bint allows(self, str what, Py_ssize_t amount) except -1:
        """Whether the domain may have `amount` of `what`, a field of Quota; dom0 always may."""
        cdef Py_ssize_t limit = getattr(self.quota, what)
        if limit and amount > limit and self.domid != _DOM0:
            return False
        self.note(what, amount)
        return True

    cpdef note(self, str what, Py_ssize_t amount):
        """Record that the domain had `amount` of `what`, a field of Quota."""
        _raise(self.peaks, what, amount)
        if self._guests_peaks is not None:
            _raise(self._guests_peaks, what, amount)

    cpdef int rights(self, tuple permissions) except -1:
        """The READ, WRITE and OWNER bits that `permissions` give the domain."""
        cdef int target = self.domid if self.target is None else self.target.domid
        return rights_of(permissions, self.domid, target)


cdef inline int _raise(dict peaks, str what, Py_ssize_t amount) except -1:
    peak = peaks.get(what)
    if peak is None or amount > <Py_ssize_t>peak:
        peaks[what] = amount
    return 0


cpdef Py_ssize_t node_size(bytes value, Py_ssize_t permissions, Py_ssize_t listing):
    """The bytes that count against a node's size; `listing` is the length of its children's
    names."""
    return HEADER_BYTES + permissions * PERMISSION_BYTES + len(value) + listing


cpdef Py_ssize_t node_memory(str path, Node node):
    """The bytes that count against its owner's memory: a name counts here, not for the parent."""
    return len(path) + node_size(node.value, len(node.permissions), 0)
