cdef class Children:
    cdef list _buckets
    cdef Py_ssize_t _count
    cdef object get(self, str name)
    cdef Children copy(self)
    cdef int put(self, str name, object child, object edit) except -1
    cdef int remove(self, str name, object edit) except -1
    cdef list items(self)
    cdef dict _own(self, str name, object edit)
    cdef int _grow(self, object edit) except -1
