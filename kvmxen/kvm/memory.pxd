from libc.stdint cimport uint8_t, uint64_t


cdef class GuestMemory:
    cdef uint8_t *base
    cdef readonly int fd
    cdef readonly uint64_t size
    cdef uint64_t hole_start
    cdef uint64_t hole_end
    cdef uint8_t *at(self, uint64_t gpa, uint64_t length) except NULL
    cdef void forget(self, uint64_t gpa, uint64_t length) noexcept nogil
    cdef uint8_t *find(self, uint64_t gpa, uint64_t length) noexcept nogil


cdef class Window:
    cdef GuestMemory memory
    cdef uint8_t *base
    cdef readonly uint64_t size
