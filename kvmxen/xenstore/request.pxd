cdef class Request:
    cdef readonly object session
    cdef readonly object transaction
    cdef readonly unsigned int tx_id
    cdef readonly bytes payload
