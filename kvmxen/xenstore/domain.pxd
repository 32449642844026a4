cdef class Domain:
    cdef readonly int domid
    cdef public object quota
    cdef public bint introduced
    cdef public bint shutdown
    cdef public int features
    cdef public Domain target
    cdef public Py_ssize_t nodes
    cdef public Py_ssize_t watches
    cdef public Py_ssize_t transactions
    cdef public Py_ssize_t memory
    cdef readonly dict peaks
    cdef dict _guests_peaks
    cpdef bint allows(self, str what, Py_ssize_t amount) except -1
    cpdef note(self, str what, Py_ssize_t amount)
    cpdef int rights(self, tuple permissions) except -1
