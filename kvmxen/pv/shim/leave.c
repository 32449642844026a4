/* What must happen before the guest goes on: what only ring 0 can do, an upcall that is due, and the
 * change between its kernel and its user code. In ring 3 the gate does what it takes ring 0 for.
 */
#include "dispatch.h"

void flush_page(state *s, u64 va)
{
    if (s->invlpgs == SHIM_INVLPGS)
        s->flush = 1;
    else
        s->invlpg[s->invlpgs++] = va;
}

void flush_all(state *s)
{
    s->flush = 1;
}

void write_msr(state *s, u32 msr, u64 value)
{
    s->msr = msr;
    s->msr_value = value;
}

void load_user_gs(state *s, u16 selector, u64 base)
{
    s->loads_gs = 1;
    s->gs = selector;
    write_msr(s, MSR_KERNEL_GS_BASE, base);
}

/* Have the gate do an operation, with these in %rax, %rcx, which it may change, and %rdx. */
static void call_gate(u32 operation, u64 a, u32 c, u32 d)
{
    __asm__ volatile("call gate"
                     : "+c"(c) : "D"(SHIM_VA + operation), "a"(a), "d"(d) : "cc", "memory");
}

static void wrmsr(u32 msr, u64 value)
{
    u32 low = (u32)value, high = (u32)(value >> 32);

    if (msr == MSR_FS_BASE && domain()->sets_fs_base)
        __asm__ volatile("wrfsbase %0" : : "r"(value));
    else if (domain()->in_ring3)
        call_gate(GATE_CALL_WRMSR, low, msr, high);
    else
        __asm__ volatile("wrmsr" : : "c"(msr), "a"(low), "d"(high));
}

/* A selector, then the base: some CPUs keep the old one with a null selector. */
static void set_user_gs(u32 selector, u64 base)
{
    u32 low = (u32)base, high = (u32)(base >> 32);

    if (domain()->in_ring3)
        call_gate(GATE_CALL_USER_GS, low, selector, high);
    else
        __asm__ volatile("swapgs\n\tmov %0, %%gs\n\tswapgs\n\twrmsr"
                         : : "r"(selector), "c"(MSR_KERNEL_GS_BASE), "a"(low), "d"(high));
}

static void set_cr0(u64 value)
{
    if (domain()->in_ring3)
        call_gate(GATE_CALL_CR0, value, 0, 0);
    else
        __asm__ volatile("mov %0, %%cr0" : : "r"(value));
}

static void set_cr3(u64 value)
{
    if (domain()->in_ring3)
        call_gate(GATE_CALL_CR3, value, 0, 0);
    else
        __asm__ volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

static void invlpg(u64 va)
{
    if (domain()->in_ring3)
        call_gate(GATE_CALL_INVLPG, va, 0, 0);
    else
        __asm__ volatile("invlpg (%0)" : : "r"(va) : "memory");
}

/* Only once it is certain that the host need not deal with the trap from its beginning. */
void settle(state *s)
{
    if (s->loads_gs)
        set_user_gs(s->gs, s->msr_value);
    else if (s->msr)
        wrmsr(s->msr, s->msr_value);
    if (s->cr0 != s->loaded_cr0) {
        s->loaded_cr0 = s->cr0;
        set_cr0(s->cr0);
    }
    /* Only the kernel's hypercalls flush. */
    if (s->flush)
        set_cr3(s->kernel_cr3);
    else
        for (u32 i = 0; i < s->invlpgs; i++)
            invlpg(s->invlpg[i]);
}

/* What the gate goes to user code by: %rax, and what iretq wants. */
static inline void put_leave_frame(frame *f)
{
    u64 *leave = (u64 *)(part_of(f) + VCPU_LEAVE_FRAME);

    *leave++ = f->rax;
    *leave++ = f->rip;
    *leave++ = f->cs;
    *leave++ = f->rflags;
    *leave++ = f->rsp;
    *leave = f->ss;
}

/* As if the host had been asked to look. */
static inline int by_host(state *s, frame *f)
{
    f->vector = STUB_EVENT;
    s->outside = 1;
    return -1;
}

/* Returns how the guest goes on: 0 by iretq, 1 by the gate, -1 by the host. In ring 3 it begins
 * again wherever an interrupt meets it, which may have brought an event: it lies between RESUME and
 * RESUMED. */
__attribute__((section(".dispatcher.finish"))) int finish(frame *f)
{
    state *s = state_of(f);
    const u8 *info = vcpu_info(s);

    if (info[VCPU_INFO_UPCALL_PENDING] && !info[VCPU_INFO_UPCALL_MASK]) {
        const struct shim_handler upcall = { s->callbacks[CALLBACKTYPE_event].address, 1 };
        if (bounce(s, f, &upcall, NULL))
            return by_host(s, f);
    }
    /* Where a SYSCALL or an instruction done for the kernel ended the lower half. Some CPUs take #GP
     * at the iretq, over the frame that it was to return by: the host's is kept. */
    if (!is_canonical(f->rip))
        return by_host(s, f);
    if (domain()->in_ring3) {
        /* Ring 0 loads other selectors. */
        if (s->kernel_mode)
            return f->cs == FLAT_RING3_CS64 && f->ss == FLAT_RING3_SS ? 0 : by_host(s, f);
        put_leave_frame(f);
        return 1;
    }
    if (s->loaded_kernel_mode != s->kernel_mode)
        __asm__ volatile("swapgs\n\tmov %0, %%cr3"
                         : : "r"(s->kernel_mode ? s->kernel_cr3 : s->user_cr3) : "memory");
    return 0;
}
