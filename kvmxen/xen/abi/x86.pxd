"""The part of x86.h that Cython modules use."""

from libc.stdint cimport uint32_t, uint64_t


cdef extern from "xen/abi/x86.h":
    const uint64_t PTE_PRESENT, PTE_WRITE, PTE_USER, PTE_ACCESSED, PTE_DIRTY, PTE_LARGE, PTE_FRAME
    const uint64_t PF_PRESENT, PF_WRITE
    const uint64_t EFL_FIXED, EFL_ARITHMETIC, EFL_TF, EFL_IF, EFL_DF, EFL_IOPL, EFL_NT, EFL_RF
    const uint64_t EFL_VM, EFL_AC, EFL_VIF_VIP, EFL_ID, EFL_ALL
    const uint64_t CR0_TS
    const uint32_t TRAPS_WITH_ERROR_CODE
    enum:
        EFL_IOPL_SHIFT
        TRAP_DEBUG, TRAP_BREAKPOINT, TRAP_INVALID_OPCODE, TRAP_PAGE_FAULT
    bint is_canonical(uint64_t va) noexcept nogil
