/* What must happen in ring 0 before the guest goes on. In ring 0 the dispatcher does it itself,
 * once it is certain that the guest does go on; elsewhere it makes a list for the gate.
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

/* The base comes with it: some CPUs keep the old one with a null selector. */
void load_user_gs(state *s, u16 selector, u64 base)
{
    s->loads_gs = 1;
    s->gs = selector;
    write_msr(s, MSR_KERNEL_GS_BASE, base);
}

static u64 current_cr3(const state *s)
{
    return s->kernel_mode ? s->kernel_cr3 : s->user_cr3;
}

/* Ring 0 only. */
static void settle(state *s)
{
    bool toggle = s->loaded_kernel_mode != s->kernel_mode;

    if (s->loads_gs)
        __asm__ volatile("swapgs\n\tmov %0, %%gs\n\tswapgs" : : "r"((u32)s->gs));
    if (s->msr)
        __asm__ volatile("wrmsr" : : "c"(s->msr), "a"((u32)s->msr_value),
                                     "d"((u32)(s->msr_value >> 32)));
    if (s->cr0 != s->loaded_cr0) {
        s->loaded_cr0 = s->cr0;
        __asm__ volatile("mov %0, %%cr0" : : "r"(s->cr0));
    }
    if (toggle)
        __asm__ volatile("swapgs");
    if (s->flush || toggle)
        __asm__ volatile("mov %0, %%cr3" : : "r"(current_cr3(s)) : "memory");
    else
        for (u32 i = 0; i < s->invlpgs; i++)
            __asm__ volatile("invlpg (%0)" : : "r"(s->invlpg[i]) : "memory");
}

static u64 *put(u64 *list, u32 operation)
{
    *list = SHIM_VA + operation;
    return list + 1;
}

/* The list for the gate; returns whether there is anything that only ring 0 can do. */
static int compose(state *s, frame *f)
{
    bool toggle = s->loaded_kernel_mode != s->kernel_mode;
    u64 *begin = (u64 *)(part_of(f) + VCPU_LIST), *list = begin;

    if (s->loads_gs) {
        list = put(list, GATE_OP_USER_GS);
        *list++ = s->gs;
    }
    if (s->msr) {
        list = put(list, GATE_OP_WRMSR);
        *list++ = s->msr;
        *list++ = s->msr_value >> 32;
        *list++ = (u32)s->msr_value;
    }
    if (toggle)
        list = put(list, GATE_OP_SWAPGS);
    if (s->flush || toggle) {
        list = put(list, GATE_OP_CR3);
        *list++ = current_cr3(s);
    } else {
        for (u32 i = 0; i < s->invlpgs; i++) {
            list = put(list, GATE_OP_INVLPG);
            *list++ = s->invlpg[i];
        }
    }
    if (list == begin && f->cs == SEL_RING3_CS64 && f->ss == SEL_RING3_SS)
        return 0;
    list = put(list, GATE_OP_RETURN);
    *list++ = f->rax;
    *list++ = f->rip;
    *list++ = f->cs;
    *list++ = f->rflags;
    *list++ = f->rsp;
    *list = f->ss;
    return 1;
}

/* Before the guest goes on; returns whether the gate must end it. */
int apply(state *s, frame *f)
{
    if (domain()->in_ring3)
        return compose(s, f);
    settle(s);
    return 0;
}
