/* The hypercalls that the dispatcher knows; the host has the whole table. */
#include <asm/errno.h>

#include "dispatch.h"

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
        return answer(f, set_singleshot(s, deadline, flags & VCPU_SSHOTTMR_future) ? -(u64)ETIME : 0);
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
    case HYPERVISOR_mmu_update:
        return hypercall_mmu_update(s, f);
    case HYPERVISOR_stack_switch:
        s->kernel_sp = f->rsi;
        return answer(f, 0);
    case HYPERVISOR_fpu_taskswitch:
        s->cr0 = (u32)f->rdi ? s->cr0 | CR0_TS : s->cr0 & ~CR0_TS;
        return answer(f, 0);
    case HYPERVISOR_multicall:
        return multicall(s, f);
    case HYPERVISOR_update_va_mapping:
        return hypercall_update_va_mapping(s, f);
    case HYPERVISOR_xen_version:
        return xen_version(f);
    case HYPERVISOR_vcpu_op:
        return vcpu_op(s, f);
    case HYPERVISOR_set_segment_base:
        return hypercall_set_segment_base(s, f);
    case HYPERVISOR_mmuext_op:
        return hypercall_mmuext_op(s, f);
    case HYPERVISOR_sched_op:
        return sched_op(s, f);
    case HYPERVISOR_event_channel_op:
        return event_channel_op(s, f);
    case HYPERVISOR_iret:
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
        if (done == DONE && (words[0] == HYPERVISOR_iret || words[0] == HYPERVISOR_multicall))
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
