from libc.stdint cimport int64_t, uint8_t, uint32_t

from kvmxen.kvm.memory cimport GuestMemory


cdef class RingHalf:
    cdef GuestMemory memory
    cdef uint8_t *data
    cdef uint32_t *shared_cons
    cdef uint32_t *shared_prod
    cdef readonly uint32_t size
    cdef uint32_t own


cdef class RingReader(RingHalf):
    cdef int64_t available(self) except -1


cdef class RingWriter(RingHalf):
    cdef int64_t room(self) except -1
