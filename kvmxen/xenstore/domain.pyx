"""A domain as xenstore knows it (struct domain in tools/xenstored/domain.h)."""

from kvmxen.xen.abi.xs_wire import Feature
from kvmxen.xenstore.permissions import DOM0
from kvmxen.xenstore.permissions import rights as rights_of
from kvmxen.xenstore.quota import Quota

FEATURES = Feature.RECONNECTION | Feature.ERROR | Feature.WATCHDEPTH | Feature.DOMID_ANY

cdef int _DOM0 = DOM0
cdef int _FEATURES = FEATURES


cdef class Domain:
    """The domain's rights, and its use of resources.

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
