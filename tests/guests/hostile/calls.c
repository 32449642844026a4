/*
 * Random hypercalls, tamed where one would do what it says and so end the guest: shut it down,
 * stop its vCPU, take its page tables, close its console. All else goes through as drawn.
 */
#include "hostile.h"

#define NR_NUMBERS 64
#define OUT_OF_RANGE (1ul << 40)
#define OWN_PORTS 16
#define TICK (2 * MS)

/* Whether the bytes are in the part of the arena that can be written. */
static bool in_arena(u64 pointer, u64 bytes)
{
    return pointer >= (u64)arena && pointer <= (u64)arena[ARENA_WRITABLE] - bytes;
}

/* Puts words that make sense as a structure where an argument points. */
static void fill(u64 pointer)
{
    u64 *words = (u64 *)pointer;
    if (in_arena(pointer, STRUCT_WORDS * 8))
        for (u32 i = 0; i < STRUCT_WORDS; i++)
            words[i] = draw_value();
}

/* An element of a structure in the arena, if the whole of it is in there. */
static u64 *word_at(u64 pointer, u64 index)
{
    return in_arena(pointer + 8 * index, 8) ? (u64 *)(pointer + 8 * index) : NULL;
}

static void tame_events(u32 *op, u32 *port)
{
    if (*op == EVTCHNOP_reset)
        *op = EVTCHNOP_send;
    if (*op == EVTCHNOP_close && *port < OWN_PORTS)
        *port += NR_PORTS;
}

static void tame_mmuext(u64 ops)
{
    for (u64 i = 0; i < STRUCT_WORDS; i += 3) {
        u64 *cmd = word_at(ops, i), *mfn = word_at(ops, i + 1);
        if (cmd && mfn && ((u32)*cmd == MMUEXT_NEW_BASEPTR) && is_free_mfn(*mfn))
            *mfn = va_to_mfn((void *)start_info->pt_base);
    }
}

static void tame_sched(struct call *call)
{
    u32 op = (u32)call->args[0];
    if (op == SCHEDOP_shutdown || op == SCHEDOP_watchdog)
        call->args[0] = SCHEDOP_yield;
}

static void tame(struct call *call)
{
    u64 *args = call->args, *word;
    switch (call->nr) {
    case HYPERVISOR_sched_op:
    case HYPERVISOR_sched_op_compat:
        tame_sched(call);
        break;
    case HYPERVISOR_vcpu_op:
        if ((u32)args[0] == VCPUOP_down)
            args[0] = VCPUOP_is_up;
        word = word_at(args[2], 0);
        if ((u32)args[0] == VCPUOP_register_vcpu_info && word)
            *word |= OUT_OF_RANGE;
        break;
    case HYPERVISOR_event_channel_op:
        word = word_at(args[1], 0);
        if (word) {
            u32 op = (u32)args[0];
            tame_events(&op, (u32 *)word);
            args[0] = op;
        }
        break;
    case HYPERVISOR_event_channel_op_compat:
        word = word_at(args[0], 0);
        if (word)
            tame_events((u32 *)word, (u32 *)word + 1);
        break;
    case HYPERVISOR_mmuext_op:
        tame_mmuext(args[0]);
        break;
    case HYPERVISOR_multicall: /* what chance has put in the arena is no list of tame calls */
        if (in_arena(args[0], 0))
            args[1] = 0;
        break;
    }
}

static u64 draw_number(void)
{
    switch (draw() % 32) {
    case 0:
        return draw_value();
    case 1:
        return NR_NUMBERS + draw() % 1024;
    default:
        return draw() % NR_NUMBERS;
    }
}

static struct call draw_plain(void)
{
    struct call call = {.nr = draw_number()};
    for (u32 i = 0; i < ARRAY_SIZE(call.args); i++) {
        call.args[i] = draw_value();
        fill(call.args[i]);
    }
    tame(&call);
    return call;
}

/* Entries of any kind, now and then the list itself. None sleeps, and iret has no frame here. */
static struct call draw_multicall(void)
{
    struct multicall_entry entries[MULTICALLS];
    u64 list = (u64)arena + draw() % (ARENA_WRITABLE * PAGE_SIZE - sizeof entries);
    for (u32 i = 0; i < MULTICALLS; i++) {
        struct call call = draw_plain();
        switch (call.nr) {
        case HYPERVISOR_iret:
            call.nr = HYPERVISOR_xen_version;
            break;
        case HYPERVISOR_sched_op:
        case HYPERVISOR_sched_op_compat:
            call.args[0] = SCHEDOP_yield;
            break;
        case HYPERVISOR_multicall:
            call.args[0] = list;
            call.args[1] = MULTICALLS;
            break;
        }
        entries[i] = (struct multicall_entry){.op = call.nr};
        memcpy(entries[i].args, call.args, sizeof call.args);
    }
    memcpy((void *)list, entries, sizeof entries);
    return (struct call){HYPERVISOR_multicall, {list, draw() % (MULTICALLS + 1)}};
}

struct call draw_call(void)
{
    struct call call = draw_plain();
    return call.nr == HYPERVISOR_multicall && draw() % 4 ? draw_multicall() : call;
}

/* An iret to the instruction after it in kernel mode, with anything in what may be anything. */
static void random_iret(void)
{
    u64 rflags = draw(), flags = draw_value(), cs = (draw() & ~3ul) | draw() % 3, ss = draw();
    __asm__ volatile("mov %%rsp, %%rbx; push %[ss]; push %%rbx; push %[rflags]; push %[cs];"
                     "push $1f; push %[flags]; push $0; push $0; push $0;"
                     "mov %[nr], %%eax; syscall; 1: mov %%rbx, %%rsp"
                     :
                     : [ss] "r"(ss), [rflags] "r"(rflags), [cs] "r"(cs), [flags] "r"(flags),
                       [nr] "i"(HYPERVISOR_iret)
                     : "rax", "rbx", "rcx", "r11", "cc", "memory");
    __asm__ volatile("pushf; andq $~0x44500, (%%rsp); popf" ::: "cc", "memory"); /* AC NT DF TF */
}

void run_call(const struct call *call)
{
    bool sleeps = call->nr == HYPERVISOR_sched_op || call->nr == HYPERVISOR_sched_op_compat;
    if (call->nr == HYPERVISOR_iret)
        return random_iret();
    if (sleeps) {
        /* A tick that repeats: one alone could come before the call that sleeps. */
        struct vcpu_set_periodic_timer tick = {TICK};
        upcalls_on();
        check_equal(vcpu_op(VCPUOP_set_periodic_timer, this_cpu(), &tick), 0);
    }
    const u64 *a = call->args;
    hypercall(call->nr, a[0], a[1], a[2], a[3], a[4]);
}
