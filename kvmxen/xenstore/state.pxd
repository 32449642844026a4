from kvmxen.xenstore.domain cimport Domain
from kvmxen.xenstore.tree cimport Node, Tree
from kvmxen.xenstore.watches cimport Watches


cdef class State:
    cdef readonly object lock
    cdef readonly Tree tree
    cdef readonly Watches watches
    cdef public object quota
    cdef readonly dict domains
    cdef readonly dict peaks
    cdef readonly list clients
    cdef public object recorder
    cdef unsigned long long _generation
    cdef object _deferred
    # Changed paths, each with what was there before: None, value and permissions, or a removed
    # node.
    cdef list _changes
    cdef bint _delivering
    cpdef Domain domain(self, int domid)
    cpdef unsigned long long next_generation(self) noexcept
    cpdef Node get(self, str path)
    cpdef Node look(self, str path)
    cpdef put(self, str path, bytes value, tuple permissions)
    cpdef Py_ssize_t nodes(self, int domid) except? -1
    cpdef changed(self, str path, tuple old)
    cpdef fire(self, str path, object match, list readable)
    cpdef settle(self)
    cpdef deliver(self)
    cdef int _undo(self) except -1
    cdef int _tell(self, list watches, str path, list readable) except -1
    cdef int _account(self, str path, Node node, int sign) except -1
