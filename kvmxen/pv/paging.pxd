from libc.stdint cimport uint64_t

from kvmxen.kvm.memory cimport GuestMemory
from kvmxen.pv.gate cimport PvVcpu


cdef class PageTables:
    cdef GuestMemory memory
    cdef uint64_t _ram_mfn[2]
    cdef uint64_t _ram_frames[2]
    cdef uint64_t _heap_mfn, _heap_frames, _absent_gpa, _m2p_gpa, _types_gpa
    cdef uint64_t _pinned_slots[4]
    cdef uint64_t _kernel_slots[4]
    cdef uint64_t _user_slots[4]
    cdef uint64_t _shared_slots[4]
    cdef bint _touch

    cdef bint is_ram(self, uint64_t mfn) noexcept nogil
    cdef bint may_map(self, uint64_t mfn) noexcept nogil
    cdef uint64_t *entry(self, uint64_t table_gpa, int slot) noexcept nogil
    cdef uint64_t *leaf(self, uint64_t cr3, uint64_t va) noexcept nogil
    cdef bint find(self, uint64_t cr3, uint64_t va, bint write, uint64_t *gpa) noexcept nogil
    cdef uint64_t gpa_of(self, uint64_t cr3, uint64_t va, bint write) except? 0
    cdef bint copy_in(self, uint64_t cr3, uint64_t va, void *to, uint64_t length) noexcept nogil
    cdef bint copy_out(self, uint64_t cr3, uint64_t va, const void *data,
                       uint64_t length) noexcept nogil
    cdef uint64_t *type_of(self, uint64_t mfn) noexcept nogil
    cdef bint is_valid(self, uint64_t value) noexcept nogil
    cdef int store(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad,
                   uint64_t *before) except -1 nogil
    cdef int put(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad) except -1 nogil
    cdef int change(self, PvVcpu vcpu, uint64_t gpa, uint64_t value, bint keep_ad) except -1 nogil
    cdef int request(self, PvVcpu vcpu, uint64_t va) except -1 nogil
    cdef int put_m2p(self, uint64_t mfn, uint64_t pfn) noexcept nogil
    cdef int link(self, PvVcpu vcpu, uint64_t mfn, int level) except -1 nogil
    cdef int unlink(self, PvVcpu vcpu, uint64_t mfn, int level) except -1 nogil
    cdef int adopt(self, PvVcpu vcpu, uint64_t mfn, int level) except -1 nogil
    cdef int adopt_entry(self, PvVcpu vcpu, uint64_t mfn, int level, int slot,
                         uint64_t value) except -1 nogil
    cdef int drop(self, PvVcpu vcpu, uint64_t mfn, int level, int count) except -1 nogil
    cdef int link_entry(self, PvVcpu vcpu, uint64_t type, uint64_t value) except -1 nogil
    cdef int unlink_entry(self, PvVcpu vcpu, uint64_t type, uint64_t value,
                          int top) except -1 nogil
    cdef int _link_base(self, PvVcpu vcpu, uint64_t mfn) except -1
    cdef int _unlink_base(self, PvVcpu vcpu, uint64_t mfn) except -1
    cdef bint _show(self, PvVcpu vcpu, uint64_t mfn, const uint64_t *slots) except -1 nogil
    cdef int _show_both(self, PvVcpu by, PvVcpu vcpu) except -1
    cdef bint has_type(self, uint64_t mfn) noexcept nogil
