/* Flushes of other vCPUs' translations, from a dispatcher in ring 0 to those of the others. A vCPU
 * that is outside of the guest has flushed by the time that it is back.
 */
#include "dispatch.h"

/* Looks at another, before the host is to deal with it: it may be one that the host does not run. */
#define PATIENCE 4096

/* Do what others asked this vCPU for. */
void serve_flushes(state *s)
{
    u32 asked = __atomic_load_n(&s->flushes_asked, __ATOMIC_SEQ_CST);
    u64 cr3;

    if (asked == s->flushes_done)
        return;
    __asm__ volatile("mov %%cr3, %0\n\tmov %0, %%cr3" : "=r"(cr3) : : "memory");
    __atomic_store_n(&s->flushes_done, asked, __ATOMIC_SEQ_CST);
}

static int await(state *s, const state *other, u32 asked)
{
    for (u32 looks = 0; looks < PATIENCE; looks++) {
        if ((int)(__atomic_load_n(&other->flushes_done, __ATOMIC_SEQ_CST) - asked) >= 0
            || __atomic_load_n(&other->outside, __ATOMIC_SEQ_CST))
            return DONE;
        /* It may wait for this one. */
        serve_flushes(s);
        __builtin_ia32_pause();
    }
    return HOST;
}

/* Have the other vCPUs of `mask`, a bit for each, drop their translations. */
int flush_others(state *s, u64 mask)
{
    u32 asked[64];
    u64 vcpus = domain()->vcpus;

    if (vcpus < 64)
        mask &= (1ul << vcpus) - 1;
    mask &= ~(1ul << s->index);
    if (!mask)
        return DONE;
    if (domain()->in_ring3)
        return HOST;
    for (u64 left = mask; left; left &= left - 1) {
        u32 index = (u32)__builtin_ctzl(left);
        state *other = state_of_vcpu(s, index);
        asked[index] = __atomic_add_fetch(&other->flushes_asked, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&other->outside, __ATOMIC_SEQ_CST))
            mask &= ~(1ul << index);
        else
            interrupt(index);
    }
    for (; mask; mask &= mask - 1) {
        u32 index = (u32)__builtin_ctzl(mask);
        if (await(s, state_of_vcpu(s, index), asked[index]))
            return HOST;
    }
    return DONE;
}
