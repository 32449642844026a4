/* Hypercalls, by raw SYSCALL (rax number; rdi rsi rdx r10 r8 arguments; all of them, rcx and r11
 * may be clobbered). Each returns Xen's value: 0 or more, or a negative errno. */
#pragma once

#include "xen.h"

static inline long hypercall(u64 nr, u64 a1, u64 a2, u64 a3, u64 a4, u64 a5)
{
    register u64 r10 __asm__("r10") = a4;
    register u64 r8 __asm__("r8") = a5;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                     : "0"(nr)
                     : "rcx", "r11", "memory");
    return result;
}

static inline long set_trap_table(const struct trap_info *table)
{
    return hypercall(HYPERVISOR_set_trap_table, (u64)table, 0, 0, 0, 0);
}

static inline long mmu_update(const struct mmu_update *updates, u32 count, u32 *done, u32 domid)
{
    return hypercall(HYPERVISOR_mmu_update, (u64)updates, count, (u64)done, domid, 0);
}

static inline long mmuext_op(const struct mmuext_op *ops, u32 count, u32 *done, u32 domid)
{
    return hypercall(HYPERVISOR_mmuext_op, (u64)ops, count, (u64)done, domid, 0);
}

static inline long update_va_mapping(u64 va, u64 entry, u64 flags)
{
    return hypercall(HYPERVISOR_update_va_mapping, va, entry, flags, 0, 0);
}

static inline long set_gdt(const u64 *frames, u32 entries)
{
    return hypercall(HYPERVISOR_set_gdt, (u64)frames, entries, 0, 0, 0);
}

static inline long update_descriptor(u64 ma, u64 descriptor)
{
    return hypercall(HYPERVISOR_update_descriptor, ma, descriptor, 0, 0, 0);
}

static inline long multicall(struct multicall_entry *calls, u64 count)
{
    return hypercall(HYPERVISOR_multicall, (u64)calls, count, 0, 0, 0);
}

static inline long set_segment_base(u32 which, u64 base)
{
    return hypercall(HYPERVISOR_set_segment_base, which, base, 0, 0, 0);
}

static inline long memory_op(u32 op, void *arg)
{
    return hypercall(HYPERVISOR_memory_op, op, (u64)arg, 0, 0, 0);
}

static inline long set_timer_op(u64 deadline_ns)
{
    return hypercall(HYPERVISOR_set_timer_op, deadline_ns, 0, 0, 0, 0);
}

static inline long xen_version(u32 op, void *arg)
{
    return hypercall(HYPERVISOR_xen_version, op, (u64)arg, 0, 0, 0);
}

static inline long vcpu_op(u32 op, u32 vcpu, void *arg)
{
    return hypercall(HYPERVISOR_vcpu_op, op, vcpu, (u64)arg, 0, 0);
}

static inline long sched_op(u32 op, void *arg)
{
    return hypercall(HYPERVISOR_sched_op, op, (u64)arg, 0, 0, 0);
}

static inline long callback_op(u32 op, void *arg)
{
    return hypercall(HYPERVISOR_callback_op, op, (u64)arg, 0, 0, 0);
}

static inline long set_debugreg(u32 number, u64 value)
{
    return hypercall(HYPERVISOR_set_debugreg, number, value, 0, 0, 0);
}

static inline u64 get_debugreg(u32 number)
{
    return (u64)hypercall(HYPERVISOR_get_debugreg, number, 0, 0, 0, 0);
}

static inline long event_channel_op(u32 op, void *arg)
{
    return hypercall(HYPERVISOR_event_channel_op, op, (u64)arg, 0, 0, 0);
}

/* An I/O privilege level of 1 is what a PV kernel needs for in, out, cli and sti. */
static inline long set_iopl(u32 iopl)
{
    return hypercall(HYPERVISOR_physdev_op, PHYSDEVOP_set_iopl, (u64)&iopl, 0, 0, 0);
}
