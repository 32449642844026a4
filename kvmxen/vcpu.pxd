from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "linux/kvm.h":
    ctypedef struct kvm_regs "struct kvm_regs":
        uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp
        uint64_t r8, r9, r10, r11, r12, r13, r14, r15
        uint64_t rip, rflags



cdef extern from "shim/state.h":
    ctypedef struct shim_frame "struct shim_frame":
        uint64_t done
        uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rcx, rdx, rsi, rdi, rax
        uint64_t cr2, vector, error_code
        uint64_t rip, cs, rflags, rsp, ss

    ctypedef struct shim_handler "struct shim_handler":
        uint64_t address, mask_events

    ctypedef struct shim_cpuid "struct shim_cpuid":
        uint32_t leaf, subleaf, subleaf_mask, eax, ebx, ecx, edx

    ctypedef struct shim_state "struct shim_state":
        uint64_t kernel_cr3, user_cr3, kernel_sp, info_gpa, cr0, loaded_cr0
        uint64_t index
        uint8_t kernel_mode, look
        shim_handler traps[32]
        shim_handler event, syscall
        uint64_t hypercalls[64]
        uint64_t taken[48]
        uint64_t delivered
        uint64_t singleshot, others, armed
        uint32_t timer_port, time_version, cpuids
        shim_cpuid cpuid[64]
        uint8_t loaded_kernel_mode, flush
        uint32_t invlpgs
        uint8_t loads_gs
        uint16_t gs
        uint32_t msr
        uint64_t msr_value


cdef class Vcpu:
    cdef readonly int index
    cdef readonly uint64_t exits
    cdef readonly uint64_t guest_ns
    cdef readonly uint64_t error_code
    cdef readonly uint64_t cr2
    cdef readonly bint in_guest, halted
    cdef readonly int syscall_ring
    cdef readonly bint in_dispatcher
    cdef shim_state *state
    cdef public uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp
    cdef public uint64_t r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags
    cdef public uint16_t cs, ss
    cdef int _fd
    cdef void *_run
    cdef uint8_t *_part
    cdef uint64_t _part_va
    cdef uint64_t *_work
    cdef int _touches
    cdef int _invlpgs
    cdef uint64_t _invlpg[32]
    cdef bint _load_cr3
    cdef bint _stepping
    cdef bint _swapgs
    cdef readonly bint entered
    cdef public bint attention, flush_pending, ending
    cdef uint64_t _done, _msr_value
    cdef uint32_t _msr
    cdef bint _loads_gs
    cdef uint16_t _gs
    cdef int _cpuids
    cdef object _owner
    cdef const uint8_t *_info
    cdef uint64_t _traps[48]
    cdef uint64_t _hypercalls[64]

    cpdef int touch(self, uint64_t gpa) except -1
    cpdef int invlpg(self, uint64_t va) except -1
    cdef uint64_t _current_cr3(self) noexcept
    cdef int _compose(self) noexcept
    cdef void _start(self)
    cdef void _start_guest(self, uint16_t cs, uint16_t ss, uint64_t rflags)
    cdef bint _enter(self) except -1
    cdef object _run_to_trap(self)
    cdef int _decode(self) except -1
    cdef int _decode_frame(self, bint in_ring3) except -1
    cdef int _enter_to_exit(self) except -1
    cdef bint _in_dispatcher(self, uint64_t rip) noexcept
    cdef void _load_trap(self, const uint64_t *top) noexcept
    cdef void _load_frame(self, const shim_frame *frame) noexcept
    cdef void _take_syscall(self, kvm_regs *out, uint64_t rsp)
    cdef void _load(self, const kvm_regs *regs) noexcept
    cdef void _save(self, kvm_regs *regs) noexcept
