/* mmuext_op: base pointers, pins and the vCPU's own flushes. */
#include "dispatch.h"

/* MMUEXT_* (xen/include/public/xen.h) */
enum {
    PIN_L1_TABLE = 0,
    PIN_L4_TABLE = 3,
    UNPIN_TABLE = 4,
    NEW_BASEPTR = 5,
    TLB_FLUSH_LOCAL = 6,
    INVLPG_LOCAL = 7,
    TLB_FLUSH_MULTI = 8,
    INVLPG_MULTI = 9,
    TLB_FLUSH_ALL = 10,
    INVLPG_ALL = 11,
    NEW_USER_BASEPTR = 15,
};

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
    case PIN_L1_TABLE ... PIN_L4_TABLE:
        return pin(argument, command + 1);
    case UNPIN_TABLE:
        return unpin(s, argument);
    case NEW_BASEPTR:
        if (set_kernel_base(s, argument))
            return HOST;
        flush_all(s);
        return DONE;
    case NEW_USER_BASEPTR:
        return set_user_base(s, argument);
    case TLB_FLUSH_MULTI:
    case INVLPG_MULTI:
        return flush_some(s, words[2]);
    case TLB_FLUSH_ALL:
    case INVLPG_ALL:
        flush_all(s);
        return flush_others(s, ~0ul);
    case TLB_FLUSH_LOCAL:
        flush_all(s);
        return DONE;
    case INVLPG_LOCAL:
        flush_page(s, argument);
        return DONE;
    }
    return HOST;
}

int hypercall_mmuext_op(state *s, frame *f)
{
    return for_each(s, f, 3, operation);
}
