from kvmxen.xenstore.domain cimport Domain
from kvmxen.xenstore.state cimport State
from kvmxen.xenstore.tree cimport Node, Tree


cdef class _Seen:
    cdef unsigned long long generation
    cdef unsigned long long altered
    cdef tuple permissions
    cdef bint looked
    cdef bint listed
    cdef bint implied
    cdef bint changed
    cdef object event


cdef class Transaction:
    cdef object __weakref__
    cdef State _state
    cdef Domain _domain
    cdef Tree _tree
    cdef dict _seen
    cdef dict _nodes
    cdef Py_ssize_t _memory
    cdef bint _failed
    cpdef Node get(self, str path)
    cpdef Node look(self, str path)
    cpdef put(self, str path, bytes value, tuple permissions)
    cpdef Py_ssize_t nodes(self, int domid) except? -1
    cpdef changed(self, str path, tuple old)
    cpdef fire(self, str path, object match, list readable)
    cdef bint _is_there(self, str path, _Seen seen) except -1
    cdef list _changed(self)
    cdef bint _conflicts(self) except -1
    cdef bint _crowds(self, list changed) except -1
    cdef _Seen _note(self, str path, Node node)
    cdef int _hold(self, Py_ssize_t size) except -1
    cdef int _count(self, Node node, int sign) except -1
    cdef list _readable(self, str path, _Seen seen)
