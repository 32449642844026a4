from libc.stdint cimport uint8_t, uint32_t

from kvmxen.kvm.memory cimport Window

cdef enum:
    RING_EMPTY = 0
    RING_TAKEN = 1
    RING_BROKEN = -1


cdef class BackRing:
    cdef Window window
    cdef uint8_t *shared
    cdef readonly uint32_t size
    cdef readonly uint32_t entry_size
    cdef readonly uint32_t request_size
    cdef readonly uint32_t response_size
    cdef readonly bint broken
    cdef uint32_t req_cons
    cdef uint32_t rsp_prod
    cdef uint32_t rsp_pushed
    cdef uint8_t *entry(self, uint32_t index) noexcept nogil
    cdef int waiting(self) noexcept nogil
    cdef int take(self, void *request) noexcept nogil
    cdef int more(self, uint32_t wanted=*) noexcept nogil
    cdef void put(self, const void *response) noexcept nogil
    cdef bint push(self) noexcept nogil
