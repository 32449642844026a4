/* The hypercalls that the dispatcher knows; the host has the whole table. */
#include "dispatch.h"

/* Numbers of xen/include/public/xen.h. */
enum {
    HYPERCALL_mmu_update = 1,
    HYPERCALL_stack_switch = 3,
    HYPERCALL_fpu_taskswitch = 5,
    HYPERCALL_multicall = 13,
    HYPERCALL_update_va_mapping = 14,
    HYPERCALL_xen_version = 17,
    HYPERCALL_iret = 23,
    HYPERCALL_vcpu_op = 24,
    HYPERCALL_set_segment_base = 25,
    HYPERCALL_mmuext_op = 26,
    HYPERCALL_sched_op = 29,
    HYPERCALL_event_channel_op = 32,
};

#define XENVER_version 0
#define XENVER_pagesize 7
#define VCPUOP_is_up 3
#define VCPUOP_set_singleshot_timer 8
#define VCPUOP_stop_singleshot_timer 9
#define SSHOTTMR_FUTURE 1
#define SCHEDOP_yield 0
#define SCHEDOP_block 1
#define EVTCHNOP_send 4
#define ENOENT 2
#define ETIME 62
#define MAX_CALLS 0x10000

static int answer(frame *f, u64 result)
{
    f->rax = result;
    return DONE;
}

static int xen_version(frame *f)
{
    switch ((u32)f->rdi) {
    case XENVER_version:
        return answer(f, domain()->xen_version);
    case XENVER_pagesize:
        return answer(f, PAGE_SIZE);
    }
    return HOST;
}

static int vcpu_op(state *s, frame *f)
{
    u64 deadline, flags;

    switch ((u32)f->rdi) {
    case VCPUOP_is_up:
        /* Linux asks for every vCPU that it was built for. */
        return (u32)f->rsi >= domain()->vcpus ? answer(f, -(u64)ENOENT) : HOST;
    case VCPUOP_set_singleshot_timer:
        if ((u32)f->rsi != s->index || s->msr || load(s->kernel_cr3, f->rdx, &deadline)
            || load(s->kernel_cr3, f->rdx + 8, &flags))
            return HOST;
        return answer(f, set_singleshot(s, deadline, flags & SSHOTTMR_FUTURE) ? -(u64)ETIME : 0);
    case VCPUOP_stop_singleshot_timer:
        if ((u32)f->rsi != s->index || s->msr)
            return HOST;
        return answer(f, (u64)set_singleshot(s, 0, false));
    }
    return HOST;
}

static int event_channel_op(state *s, frame *f)
{
    u64 word;

    if ((u32)f->rdi != EVTCHNOP_send || f->rsi & 3 || load(s->kernel_cr3, f->rsi & ~7ul, &word)
        || send(s, (u32)(f->rsi & 4 ? word >> 32 : word)))
        return HOST;
    return answer(f, 0);
}

static int sched_op(state *s, frame *f)
{
    switch ((u32)f->rdi) {
    case SCHEDOP_yield:
        return answer(f, 0);
    case SCHEDOP_block:
        return block(s) ? HOST : answer(f, 0);
    }
    return HOST;
}

static int multicall(state *s, frame *f);

static int call(state *s, frame *f)
{
    switch (f->rax) {
    case HYPERCALL_mmu_update:
        return hypercall_mmu_update(s, f);
    case HYPERCALL_stack_switch:
        s->kernel_sp = f->rsi;
        return answer(f, 0);
    case HYPERCALL_fpu_taskswitch:
        s->cr0 = (u32)f->rdi ? s->cr0 | CR0_TS : s->cr0 & ~CR0_TS;
        return answer(f, 0);
    case HYPERCALL_multicall:
        return multicall(s, f);
    case HYPERCALL_update_va_mapping:
        return hypercall_update_va_mapping(s, f);
    case HYPERCALL_xen_version:
        return xen_version(f);
    case HYPERCALL_vcpu_op:
        return vcpu_op(s, f);
    case HYPERCALL_set_segment_base:
        return hypercall_set_segment_base(s, f);
    case HYPERCALL_mmuext_op:
        return hypercall_mmuext_op(s, f);
    case HYPERCALL_sched_op:
        return sched_op(s, f);
    case HYPERCALL_event_channel_op:
        return event_channel_op(s, f);
    case HYPERCALL_iret:
        return hypercall_iret(s, f);
    }
    return HOST;
}

/* struct multicall_entry (xen/include/public/xen.h): op, result, six arguments. What the host has
 * to do goes to it as the rest of the list. */
static int multicall(state *s, frame *f)
{
    u64 calls = f->rdi, count = (u32)f->rsi;
    frame one = *f;

    if (count > MAX_CALLS || calls & 7)
        return HOST;
    for (u64 i = 0; i < count; i++, calls += 64) {
        u64 words[8];
        one.done = 0;
        u64 *result = translate(s->kernel_cr3, calls + 8, true);
        int done = result ? DONE : HOST;
        for (u32 word = 0; word < 8 && done == DONE; word++)
            done = load(s->kernel_cr3, calls + word * 8, &words[word]);
        if (done == DONE && (words[0] == HYPERCALL_iret || words[0] == HYPERCALL_multicall))
            done = HOST;
        if (done == DONE) {
            one.rax = words[0];
            one.rdi = words[2];
            one.rsi = words[3];
            one.rdx = words[4];
            one.r10 = words[5];
            one.r8 = words[6];
            one.r9 = words[7];
            done = call(s, &one);
        }
        if (done == HOST) {
            f->done = one.done;
            f->rdi = calls;
            f->rsi = count - i;
            return HOST;
        }
        s->hypercalls[words[0]]++;
        *result = one.rax;
    }
    return answer(f, 0);
}

int hypercall(state *s, frame *f)
{
    u64 number = f->rax;

    if (call(s, f))
        return HOST;
    s->hypercalls[number]++;
    return DONE;
}
