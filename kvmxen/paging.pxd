from libc.stdint cimport uint32_t, uint64_t

from kvmxen.memory cimport GuestMemory
from kvmxen.vcpu cimport Vcpu


cdef class PageTables:
    cdef GuestMemory memory
    cdef uint64_t _ram_mfn[2]
    cdef uint64_t _ram_frames[2]
    cdef uint64_t _heap_mfn, _heap_frames, _m2p_gpa, _levels_gpa
    cdef uint64_t _pinned_slots[4]
    cdef uint64_t _kernel_slots[4]
    cdef uint64_t _user_slots[4]
    cdef uint64_t _shared_slots[4]
    cdef bint _touch
    cdef uint32_t *_seen
    cdef uint64_t _seen_frames
    cdef uint32_t _epoch

    cdef bint is_ram(self, uint64_t mfn) noexcept nogil
    cdef bint may_map(self, uint64_t mfn) noexcept nogil
    cdef uint64_t *entry(self, uint64_t table_gpa, int slot) noexcept nogil
    cdef uint64_t *leaf(self, uint64_t cr3, uint64_t va) noexcept nogil
    cdef uint64_t load(self, uint64_t cr3, uint64_t va) except? 0
    cdef uint64_t sanitise(self, uint64_t value) except? 0
    cdef int store(self, Vcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad) except -1
    cdef uint32_t new_walk(self) noexcept nogil
    cdef bint first_visit(self, uint32_t walk, uint64_t mfn, int level) noexcept nogil
    cdef int adopt(self, Vcpu vcpu, uint32_t walk, uint64_t mfn, int level) except -1
    cdef int adopt_l4(self, Vcpu vcpu, uint64_t mfn) except -1
    cdef uint64_t gpa_of(self, uint64_t cr3, uint64_t va, bint write) except? 0
    cdef bint finds(self, Vcpu vcpu, uint64_t mfn, int lowest) except -1
    cdef bint reaches(self, uint32_t walk, uint64_t table_gpa, int level,
                      uint64_t mfn, int lowest) noexcept nogil
    cdef bint _has_shim(self, uint64_t mfn) noexcept nogil
    cdef int _show(self, Vcpu vcpu, uint64_t mfn, const uint64_t *slots) except -1
    cdef int _show_both(self, Vcpu vcpu, uint64_t kernel, uint64_t user) except -1
    cdef int _need_l4(self, Vcpu vcpu, uint64_t mfn) except -1
    cpdef int level(self, uint64_t mfn) except -1
