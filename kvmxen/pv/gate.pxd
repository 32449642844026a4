from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kvmxen.pv.shim.shared cimport SharedState, shim_frame
from kvmxen.vcpu cimport kvm_regs

cdef class PvVcpu(SharedState):
    cdef readonly uint64_t error_code
    cdef readonly uint64_t cr2
    cdef readonly int syscall_ring
    cdef readonly bint in_dispatcher
    cdef public uint16_t cs, ss
    cdef uint8_t *_part
    cdef uint64_t _part_va
    cdef uint64_t *_work
    cdef int _touches
    cdef int _invlpgs
    cdef uint64_t _invlpg[32]
    cdef bint _load_cr3
    cdef uint64_t leaving  # the L4 that the CPU has loaded, if it is not the kernel's; else 0
    cdef bint _stepping
    cdef bint _swapgs
    cdef public bint flush_pending, ending, in_ring3, waiting
    cdef uint64_t _done, _msr_value
    cdef uint32_t _msr
    cdef bint _loads_gs
    cdef uint16_t _gs
    cdef object _owner
    cdef const uint8_t *_info
    cdef uint64_t _traps[48]
    cdef uint64_t _hypercalls[64]

    cdef int touch(self, uint64_t gpa) except -1 nogil
    cdef void reload(self) noexcept nogil
    cdef void leave(self, uint64_t cr3) noexcept
    cpdef int invlpg(self, uint64_t va) except -1
    cdef uint64_t _current_cr3(self) noexcept
    cdef int _compose(self) except -1
    cdef void _start(self)
    cdef void _start_guest(self, uint16_t cs, uint16_t ss, uint64_t rflags)
    cdef object _run_to_trap(self, int state)
    cdef int _decode_uninterpreted(self) noexcept
    cdef int _decode(self) except -1
    cdef bint _take_bad_iret(self) noexcept
    cdef int _decode_frame(self, bint in_ring3) except -1
    cdef int _enter_to_exit(self) except -1
    cdef bint _in_dispatcher(self, uint64_t rip) noexcept
    cdef bint _is_dispatchers(self, uint64_t rip) noexcept
    cdef void _load_trap(self, const uint64_t *top) noexcept
    cdef void _load_frame(self, const shim_frame *frame) noexcept
    cdef void _take_syscall(self, kvm_regs *out, uint64_t rsp)
    cdef int _take_compat_call(self, int trap) noexcept
