/* Segments, as pv/hypercalls/segments.py has them: only those of the CPU's own copies of the guest's
 * tables, which were checked.
 */
#include "dispatch.h"

#define CODE (DESC_SEGMENT | DESC_CODE)
#define DATA_WRITE (DESC_SEGMENT | DESC_READ_WRITE)
#define DATA_MASK (DESC_SEGMENT | DESC_CODE | DESC_READ_WRITE)

/* From here on the GDT is Xen's. */
#define FIRST_RESERVED 0xe000u

/* The descriptor of a ring-3 selector of the GDT that the CPU has, 0 for any other selector. */
u64 descriptor(const frame *f, u64 selector)
{
    if ((selector & 7) != 3 || selector > 0xffff)
        return 0;
    return *(volatile u64 *)(part_of(f) + VCPU_GDT + (selector & ~7ul));
}

/* Whether an iretq to these cannot fault. */
bool may_return_to(const frame *f, u64 cs, u64 ss)
{
    u64 code = descriptor(f, cs), data = descriptor(f, ss);

    return (code & (CODE | DESC_DPL3 | DESC_PRESENT | DESC_LONG | DESC_DB))
               == (CODE | DESC_DPL3 | DESC_PRESENT | DESC_LONG)
           && !(code & DESC_CONFORMING)
           && (data & (DATA_MASK | DESC_DPL3 | DESC_PRESENT))
                  == (DATA_WRITE | DESC_DPL3 | DESC_PRESENT);
}

/* The user's GS: null, or a segment of the GDT that can be read. */
static int user_gs(state *s, frame *f)
{
    u64 selector = f->rsi & 0xffff;
    u64 data;

    if (selector <= 3) {
        load_user_gs(s, (u16)selector, 0);
        return DONE;
    }
    if (selector >= FIRST_RESERVED)
        return HOST;
    data = descriptor(f, selector);
    if ((data & (DATA_MASK | DESC_DPL3 | DESC_PRESENT))
            != (DATA_WRITE | DESC_DPL3 | DESC_PRESENT))
        return HOST;
    load_user_gs(s, (u16)selector, (data >> 16 & 0xffffff) | data >> 56 << 24);
    return DONE;
}

int hypercall_set_segment_base(state *s, frame *f)
{
    static const u32 msrs[] = {
        [SEGBASE_FS] = MSR_FS_BASE,
        [SEGBASE_GS_USER] = MSR_KERNEL_GS_BASE,
        [SEGBASE_GS_KERNEL] = MSR_GS_BASE,
    };
    u32 which = (u32)f->rdi;

    /* One waits for the way back at most. */
    if (s->msr)
        return HOST;
    if (which == SEGBASE_GS_USER_SEL) {
        if (user_gs(s, f))
            return HOST;
    } else if (which < 3 && is_canonical(f->rsi)) {
        write_msr(s, msrs[which], f->rsi);
    } else {
        return HOST;
    }
    f->rax = 0;
    return DONE;
}
