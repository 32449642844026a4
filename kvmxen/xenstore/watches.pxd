from kvmxen.xenstore.domain cimport Domain


cdef class Watch:
    cdef readonly str path
    cdef readonly bytes token
    cdef readonly Domain domain
    cdef readonly object deliver
    cdef readonly int depth
    cdef readonly Py_ssize_t prefix
    cdef readonly unsigned long long serial
    cdef bint wants(self, object match, int below)


cdef class Watches:
    cdef dict _by_path
    cdef unsigned long long _added
    cpdef list matching(self, str path, object match)
