from libc.stdint cimport uint32_t


cdef class Parser:
    cdef bytearray _buffer
    cdef Py_ssize_t _start
    cdef readonly uint32_t type
    cdef readonly uint32_t req_id
    cdef readonly uint32_t tx_id
    cdef readonly bytes payload
    cpdef append(self, data)
    cpdef bint advance(self) except -1


cdef bytes pack(uint32_t type, uint32_t req_id, uint32_t tx_id, bytes payload)
