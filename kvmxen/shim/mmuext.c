/* mmuext_op: base pointers, pins and the vCPU's own flushes. */
#include "dispatch.h"

#define DOMID_SELF 0x7ff0
#define MAX_BATCH 0x10000

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

static int operation(state *s, u32 command, u64 argument)
{
    switch (command) {
    case PIN_L1_TABLE ... PIN_L4_TABLE:
        return pin(s, argument, command + 1);
    case UNPIN_TABLE:
        return unpin(argument);
    case NEW_BASEPTR:
        if (set_kernel_base(s, argument))
            return HOST;
        flush_all(s);
        return DONE;
    case NEW_USER_BASEPTR:
        return set_user_base(s, argument);
    case TLB_FLUSH_ALL:
    case INVLPG_ALL:
        if (domain()->vcpus > 1)
            return HOST;
        flush_all(s);
        return DONE;
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
    u64 count = (u32)f->rsi;

    if (count > MAX_BATCH || (u32)f->r10 != DOMID_SELF)
        return HOST;
    if (f->rdx && (f->rdx & 3 || !translate(s->kernel_cr3, f->rdx, true)))
        return HOST;
    for (; f->done < count; f->done++) {
        u64 command, argument, unused;
        u64 at = f->rdi + f->done * 24;
        if (load(s->kernel_cr3, at, &command) || load(s->kernel_cr3, at + 8, &argument)
            || load(s->kernel_cr3, at + 16, &unused) || operation(s, (u32)command, argument))
            return HOST;
    }
    if (f->rdx) {
        u32 *done = translate(s->kernel_cr3, f->rdx, true);
        if (done)
            *done = (u32)count;
    }
    f->rax = 0;
    return DONE;
}
