from libc.stdint cimport uint64_t

from kvmxen.kvm.memory cimport GuestMemory
from kvmxen.pv.paging cimport PageTables
from kvmxen.pv.gate cimport PvVcpu


cdef class Balloon:
    cdef GuestMemory _memory
    cdef PageTables _tables
    cdef object _lock
    cdef uint64_t *_held
    cdef uint64_t _end, _hint
    cdef readonly uint64_t frames

    cdef bint _has(self, uint64_t mfn) noexcept nogil
    cdef void _take(self, uint64_t mfn, uint64_t count) noexcept nogil
    cdef void _give(self, uint64_t mfn, uint64_t count) noexcept nogil
    cdef bint _may_take(self, uint64_t mfn, uint64_t count) noexcept nogil
    cdef uint64_t _release(self, PvVcpu vcpu, uint64_t va, uint64_t count, int order) noexcept nogil
    cdef bint _find(self, uint64_t size, uint64_t *mfn) noexcept nogil
    cdef uint64_t _reserve(self, PvVcpu vcpu, uint64_t va, uint64_t count, int order,
                           bint populate) noexcept nogil
