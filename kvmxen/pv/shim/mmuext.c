/* mmuext_op: base pointers, pins and the vCPU's own flushes. */
#include "dispatch.h"

/* Flush the vCPUs of the bitmap at va. */
static int flush_some(state *s, u64 va)
{
    u64 mask;

    if (load(s->kernel_cr3, va, &mask))
        return HOST;
    if (mask >> s->index & 1)
        flush_all(s);
    return flush_others(s, mask);
}

/* struct mmuext_op: a command and two words. */
static int operation(state *s, const u64 *words)
{
    u32 command = (u32)words[0];
    u64 argument = words[1];

    switch (command) {
    case MMUEXT_PIN_L1_TABLE ... MMUEXT_PIN_L4_TABLE:
        return pin(argument, command + 1);
    case MMUEXT_UNPIN_TABLE:
        return unpin(s, argument);
    case MMUEXT_NEW_BASEPTR:
        if (set_kernel_base(s, argument))
            return HOST;
        flush_all(s);
        return DONE;
    case MMUEXT_NEW_USER_BASEPTR:
        return set_user_base(s, argument);
    case MMUEXT_TLB_FLUSH_MULTI:
    case MMUEXT_INVLPG_MULTI:
        return flush_some(s, words[2]);
    case MMUEXT_TLB_FLUSH_ALL:
    case MMUEXT_INVLPG_ALL:
        flush_all(s);
        return flush_others(s, ~0ul);
    case MMUEXT_TLB_FLUSH_LOCAL:
        flush_all(s);
        return DONE;
    case MMUEXT_INVLPG_LOCAL:
        flush_page(s, argument);
        return DONE;
    }
    return HOST;
}

int hypercall_mmuext_op(state *s, frame *f)
{
    return for_each(s, f, 3, operation);
}
