from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from kvmxen.kvm.memory cimport GuestMemory
from kvmxen.vcpu cimport Vcpu

cdef extern from "pv/shim/state.h":
    enum:
        SHIM_EVENT_LOOP

    ctypedef struct shim_frame "struct shim_frame":
        uint64_t done
        uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rcx, rdx, rsi, rdi, rax
        uint64_t cr2, vector, error_code
        uint64_t rip, cs, rflags, rsp, ss

    ctypedef struct shim_handler "struct shim_handler":
        uint64_t address, mask_events

    enum:
        SHIM_CPUIDS

    ctypedef struct shim_cpuid "struct shim_cpuid":
        uint32_t leaf, subleaf, subleaf_mask, eax, ebx, ecx, edx

    ctypedef struct shim_state "struct shim_state":
        uint64_t kernel_cr3, user_cr3, kernel_sp, info_gpa, cr0, loaded_cr0
        uint64_t index
        uint8_t kernel_mode, look, waiting, outside
        uint32_t flushes_asked, flushes_done
        uint8_t iopl, architectural_iopl, sent_to_itself
        shim_handler traps[32]
        shim_handler callbacks[8]
        uint64_t hypercalls[64]
        uint64_t taken[48]
        uint64_t delivered
        uint64_t singleshot, others, armed
        uint64_t upcall_rip, upcall_rsp
        uint32_t timer_port, time_version, upcalls, cpuids
        uint64_t slept, asleep_since
        shim_cpuid cpuid[SHIM_CPUIDS]
        uint64_t loaded_cr3
        uint8_t loaded_kernel_mode, flush
        uint32_t invlpgs
        uint8_t loads_gs
        uint16_t gs
        uint32_t msr
        uint64_t msr_value

    enum:
        SHIM_L4_SLOTS, SHIM_PORTS

    ctypedef struct shim_domain "struct shim_domain":
        uint64_t in_ring3, vcpus
        uint64_t ram_mfn[2]
        uint64_t ram_frames[2]
        uint64_t m2p_gpa, types_gpa, xen_version, shared_info_gpa, tsc_per_ns, sets_fs_base
        uint64_t pinned_slots[SHIM_L4_SLOTS]
        uint64_t kernel_slots[SHIM_L4_SLOTS]
        uint64_t user_slots[SHIM_L4_SLOTS]
        uint64_t shared_slots[SHIM_L4_SLOTS]
        uint8_t ports[SHIM_PORTS]


cdef class SharedState(Vcpu):
    cdef shim_state *state
    cdef int _cpuids

    cdef bint come_back(self) noexcept


cdef class SharedDomain:
    cdef GuestMemory _memory
    cdef uint64_t _gpa
    cdef shim_domain *_domain
