from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kvmxen.kvm.memory cimport GuestMemory

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass


# A grant while it is in use.
cdef struct Active:
    uint64_t mfn
    uint32_t readers
    uint32_t writers
    uint16_t domid
    uint16_t start
    uint16_t length
    uint16_t sub_page


cdef class GrantTable:
    cdef GuestMemory memory
    cdef pthread_mutex_t _lock
    cdef Active *_active
    cdef uint8_t *_shared
    cdef uint16_t *_status
    cdef uint64_t _first_mfn, _status_mfn
    cdef uint64_t _ram_mfn[2]
    cdef uint64_t _ram_frames[2]
    cdef readonly uint32_t nr_frames
    cdef readonly int version
    # For backends, which are dom0's.
    cdef uint8_t *map(self, uint32_t ref, bint write, int *status) noexcept nogil
    cdef void unmap(self, uint32_t ref, bint write) noexcept nogil
    cdef int copy_from(self, uint32_t ref, uint32_t offset, uint32_t length,
                       uint8_t *to) noexcept nogil
    cdef int copy_to(self, uint32_t ref, uint32_t offset, uint32_t length,
                     const uint8_t *data) noexcept nogil
    # For any domain.
    cdef int take(self, uint32_t ref, uint16_t domid, bint write, bint mapping,
                  Active *grant) noexcept nogil
    cdef void give_back(self, uint32_t ref, bint write) noexcept nogil
    cdef uint32_t entries(self) noexcept nogil
    cdef int _take(self, uint32_t ref, uint16_t domid, bint write, bint mapping,
                   Active *grant) noexcept nogil
    cdef int _mark(self, uint32_t ref, Active *act, uint16_t domid, bint write,
                   uint32_t mask) noexcept nogil
    cdef void _reduce(self, uint32_t ref, const Active *act, bint write) noexcept nogil
    cdef bint _is_ram(self, uint64_t mfn) noexcept nogil
    cdef int _convert(self, int version) noexcept nogil
    cdef int _swap(self, uint32_t ref_a, uint32_t ref_b) noexcept nogil
