/* x86-64 as its manuals have it: the numbers that the shim, our guests, Cython (x86.pxd) and Python
 * (x86.py) share. Python reads each line "#define NAME number": there are no other macros.
 */
#pragma once

/* Page-table entries. */
#define PTE_PRESENT 0x1
#define PTE_WRITE 0x2
#define PTE_USER 0x4
#define PTE_ACCESSED 0x20
#define PTE_DIRTY 0x40
#define PTE_LARGE 0x80
#define PTE_AVAILABLE_SHIFT 9
#define PTE_FRAME 0x000ffffffffff000
#define PTE_NX 0x8000000000000000

/* Exceptions, by vector. */
#define TRAP_DEBUG 1
#define TRAP_NMI 2
#define TRAP_BREAKPOINT 3
#define TRAP_OVERFLOW 4
#define TRAP_INVALID_OPCODE 6
#define TRAP_GENERAL_PROTECTION 13
#define TRAP_PAGE_FAULT 14
/* A bit for each that pushes an error code: 8, 10 to 14, 17, 21, 29, 30. */
#define TRAPS_WITH_ERROR_CODE 0x60227d00

/* The error code of a page fault, and of faults that a descriptor causes. */
#define PF_PRESENT 0x1
#define PF_WRITE 0x2
#define PF_USER 0x4
#define ERROR_EXTERNAL 0x1
#define ERROR_IDT 0x2

/* EFLAGS. The arithmetic ones are CF, PF, AF, ZF, SF and OF. */
#define EFL_FIXED 0x2
#define EFL_ARITHMETIC 0x8d5
#define EFL_TF 0x100
#define EFL_IF 0x200
#define EFL_DF 0x400
#define EFL_IOPL_SHIFT 12
#define EFL_IOPL 0x3000
#define EFL_NT 0x4000
#define EFL_RF 0x10000
#define EFL_VM 0x20000
#define EFL_AC 0x40000
#define EFL_VIF_VIP 0x180000
#define EFL_ID 0x200000
#define EFL_ALL 0x3fffff

/* Control and debug registers. */
#define CR0_PE 0x1
#define CR0_MP 0x2
#define CR0_TS 0x8
#define CR0_ET 0x10
#define CR0_NE 0x20
#define CR0_WP 0x10000
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define CR4_OSFXSR 0x200
#define CR4_OSXMMEXCPT 0x400
#define CR4_OSXSAVE 0x40000
#define EFER_SCE 0x1
#define EFER_LME 0x100
#define EFER_LMA 0x400
#define EFER_NXE 0x800
#define DR6_FIXED 0xffff0ff0
#define DR7_FIXED 0x400

/* Model-specific registers. Intel's name of MICROCODE is IA32_BIOS_SIGN_ID, AMD's PATCH_LEVEL. */
#define MSR_TSC 0x10
#define MSR_PLATFORM_ID 0x17
#define MSR_APIC_BASE 0x1b
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_MICROCODE 0x8b
#define MSR_PLATFORM_INFO 0xce
#define MSR_MISC_FEATURES_ENABLES 0x140
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176
#define MSR_PERF_STATUS 0x198
#define MSR_PERF_CTL 0x199
#define MSR_THERM_CONTROL 0x19a
#define MSR_THERM_STATUS 0x19c
#define MSR_MISC_ENABLE 0x1a0
#define MSR_ENERGY_PERF_BIAS 0x1b0
#define MSR_PAT 0x277
#define MSR_PERF_CAPABILITIES 0x345
#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC_TPR 0x808
#define MSR_X2APIC_EOI 0x80b
#define MSR_X2APIC_SVR 0x80f
#define MSR_X2APIC_ICR 0x830
#define MSR_X2APIC_LVT_TIMER 0x832
#define MSR_EFER 0xc0000080
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_SYSCALL_MASK 0xc0000084
#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_HWCR 0xc0010015
#define MSR_NB_CFG 0xc001001f
#define MSR_DE_CFG 0xc0011029

/* A segment descriptor, and its type if DESC_SEGMENT is set: else it is a gate or a system's. */
#define DESC_TYPE_SHIFT 40
#define DESC_ACCESSED 0x0000010000000000
#define DESC_READ_WRITE 0x0000020000000000
#define DESC_CONFORMING 0x0000040000000000
#define DESC_CODE 0x0000080000000000
#define DESC_SEGMENT 0x0000100000000000
#define DESC_DPL3 0x0000600000000000
#define DESC_PRESENT 0x0000800000000000
#define DESC_LONG 0x0020000000000000
#define DESC_DB 0x0040000000000000
#define DESC_GRANULAR 0x0080000000000000

#ifndef __ASSEMBLER__

#include <stdint.h>

/* Whether va is a 48-bit canonical address. */
static inline _Bool is_canonical(uint64_t va)
{
    return (int64_t)(va << 16) >> 16 == (int64_t)va;
}

#endif
