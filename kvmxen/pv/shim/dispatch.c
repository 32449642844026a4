/* Traps of the guest, from the entries of shim/entry.S. */
#include "dispatch.h"

_Static_assert(sizeof(state) <= VCPU_LEAVE_FRAME - VCPU_STATE, "the state is larger than its page");
_Static_assert(sizeof(struct shim_domain) <= SHIM_TABLES - SHIM_DOMAIN,
               "what is told of the domain is larger than its pages");

static bool has_error_code(u64 vector)
{
    return (u32)TRAPS_WITH_ERROR_CODE >> vector & 1;
}

/* Whether it may be the host that is to mend what the kernel's access to va met: an entry that the
 * kernel may not have known to be ours, or ring 3 on a host where it cannot reach a slot of Xen's.
 */
static bool may_be_ours(const state *s, u64 va, u64 error)
{
    if (!(error & PF_PRESENT))
        return va >> 39 == HYPERVISOR_VIRT_START >> 39;
    /* A write to user memory that is to be copied first. */
    return !(error & PF_WRITE) || va >> 47 || !read_only(s->kernel_cr3, va);
}

/* Whether the kernel wrote directly to a table that it had asked to be mapped read-only: the
 * mapping becomes writable, as PageTables.repair of the host's has it. */
static bool mend(state *s, u64 va, u64 error)
{
    u64 *entry;

    if (!(error & PF_PRESENT) || !(error & PF_WRITE) || !(va >> 47))
        return false;
    entry = read_only(s->kernel_cr3, va);
    if (!entry || !is_table((*entry & PTE_FRAME) >> 12))
        return false;
    /* The fault has dropped the old translation. */
    __atomic_fetch_or(entry, PTE_WRITE, __ATOMIC_SEQ_CST);
    return true;
}

static int page_fault(state *s, frame *f)
{
    u64 error = f->error_code & ~PF_USER;

    if (!s->kernel_mode)
        error |= PF_USER;
    else if (mend(s, f->cr2, error) || (!error && !read_xen_m2p(s, f)))
        return DONE;
    else if (may_be_ours(s, f->cr2, error))
        return HOST;
    const struct shim_handler *handler = &s->traps[TRAP_PAGE_FAULT];
    if (bounce(s, f, handler, &error))
        return HOST;
    *(u64 *)(vcpu_info(s) + VCPU_INFO_CR2) = f->cr2;
    return DONE;
}

static int exception(state *s, frame *f)
{
    u64 vector = f->vector;

    switch (vector) {
    case TRAP_PAGE_FAULT:
        return page_fault(s, f);
    case TRAP_GENERAL_PROTECTION:
        return general_protection(s, f);
    case TRAP_INVALID_OPCODE:
        return invalid_opcode(s, f);
    }
    return bounce(s, f, &s->traps[vector], has_error_code(vector) ? &f->error_code : NULL);
}

static int system_call(state *s, frame *f, u32 callback)
{
    return s->kernel_mode ? HOST : bounce(s, f, &s->callbacks[callback], NULL);
}

/* A SYSCALL that came here by a trap: of user code whose page behind LSTAR is that, or of 32-bit
 * code. */
static void name_system_call(frame *f)
{
    u64 entry = (u64)part_of(f) + VCPU_SYSCALL_PAGE + SYSCALL_ENTRY;
    bool compat = f->rip == SHIM_VA + GATE_SYSCALL32 + 1 && !(f->cs & 3);

    if (f->vector != TRAP_BREAKPOINT || (f->rip != entry + 1 && !compat))
        return;
    f->vector = compat ? TRAP_SYSCALL32 : TRAP_SYSCALL;
    f->rip = f->rcx;
    f->rflags = f->r11;
    f->cs = compat ? FLAT_RING3_CS32 : FLAT_RING3_CS64;
    f->ss = FLAT_RING3_SS;
}

static int deal(state *s, frame *f)
{
    switch (f->vector) {
    case TRAP_SYSCALL:
        return s->kernel_mode ? hypercall(s, f) : system_call(s, f, CALLBACKTYPE_syscall);
    case TRAP_SYSCALL32:
        return system_call(s, f, CALLBACKTYPE_syscall32);
    case TRAP_SYSENTER:
        return system_call(s, f, CALLBACKTYPE_sysenter);
    case STUB_EVENT:
        return look(s);
    case STUB_TIMER:
        return timer_expired(s);
    }
    return f->vector < SHIM_VECTORS ? exception(s, f) : HOST;
}

static int take(state *s, frame *f)
{
    name_system_call(f);
    if (s->asleep_since && !(f->cs & 3))
        wake(s, f);
    s->flush = 0;
    s->invlpgs = 0;
    s->msr = 0;
    s->loads_gs = 0;
    s->loaded_cr3 = s->kernel_cr3;
    s->loaded_kernel_mode = domain()->in_ring3 ? 1 : s->kernel_mode;
    /* In the shim itself: an iretq of the gate's that faults, the end of a sleep there, or our fault.
     * User code that goes there faults as it does anywhere. */
    if (!(f->cs & 3) || (domain()->in_ring3 && s->kernel_mode && f->rip >> 39 == SHIM_VA >> 39
                         && f->vector != TRAP_BREAKPOINT))
        return HOST;
    if (deal(s, f))
        return HOST;
    s->taken[f->vector]++;
    settle(s);
    if (s->waiting && !domain()->in_ring3)
        wait(s, f);
    return DONE;
}

/* From every entry; returns HOST where the host is to deal with it. */
int dispatch(frame *f)
{
    state *s = state_of(f);

    if (take(s, f) == DONE)
        return DONE;
    s->outside = 1;
    return HOST;
}
