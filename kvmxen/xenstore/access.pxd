from kvmxen.xenstore.tree cimport Node


cdef class Access:
    cdef object _view
    cdef object _domain
    cpdef Node look(self, str path, int right=*)
    cdef Node _find(self, str path, int right)
    cdef Node _closest(self, str path)
    cdef int _create(self, str path, bytes value) except -1
    cdef int _check_size(self, bytes value, tuple permissions, Py_ssize_t listing) except -1
    cdef int _check_memory(self, Py_ssize_t more) except -1
