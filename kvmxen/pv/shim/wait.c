/* A vCPU that waits for an event in ring 0, so that KVM itself wakes it. The interrupt that ends its
 * sleep comes over the stack that it would go on with: the registers of the guest, whose hypercall
 * is over, are kept aside, and the interrupt then seems to have met it there.
 */
#include "dispatch.h"

/* SCHEDOP_block: to sleep once the hypercall, which may be one of a list, is over. */
int block(state *s)
{
    if (domain()->in_ring3)
        return HOST;
    vcpu_info(s)[VCPU_INFO_UPCALL_MASK] = 0;
    s->waiting = 1;
    return DONE;
}

/* The interrupt in `f` has met the sleep. */
void wake(state *s, frame *f)
{
    u64 vector = f->vector;

    *f = s->sleeper;
    f->vector = vector;
    s->slept += system_time(s) - s->asleep_since;
    s->asleep_since = 0;
    __atomic_store_n(&s->outside, 0, __ATOMIC_SEQ_CST);
    serve_flushes(s);
}

/* What a guest that waits does next: go on, or sleep, from which this does not return. */
void wait(state *s, const frame *f)
{
    if (vcpu_info(s)[VCPU_INFO_UPCALL_PENDING]) {
        s->waiting = 0;
        return;
    }
    s->sleeper = *f;
    s->asleep_since = system_time(s);
    __atomic_store_n(&s->outside, 1, __ATOMIC_SEQ_CST);
    __asm__ volatile("sti\n"
                     "1:\thlt\n\t"
                     "jmp 1b" : : : "memory");
    __builtin_unreachable();
}
