/* Hypercalls with their lists and structures, most of them as a kernel would make them. */
#include "sequence.h"

#define NR_OPS 6
#define NR_CALLS 6

static evtchn_port_t port;
#define nowhere 0x7f0000000000ul

/* Where a list of so many bytes goes: most often there, and in order. */
static u64 draw_place(u64 bytes)
{
    u64 at = below(2 * PAGE_SIZE - bytes) & ~7ul;
    switch (below(16)) {
    case 0: /* across a page's end */
        at = PAGE_SIZE - (below(bytes / 8 + 1)) * 8;
        break;
    case 1: /* not aligned */
        at |= below(8);
        break;
    case 2: /* begins where it may be written, or is there, and does not end there */
        at = (2 + below(2)) * PAGE_SIZE - below(bytes / 8 + 1) * 8;
        break;
    case 3:
        return one_in(2) ? nowhere : draw_va();
    }
    return (u64)args + at;
}

static bool may_write(u64 va, u64 bytes)
{
    return va - (u64)args <= 2 * PAGE_SIZE - bytes;
}

/* A list; where it cannot be, what is there already is the list, whatever it means. */
static u64 place(const void *list, u64 bytes)
{
    u64 at = draw_place(bytes);
    if (may_write(at, bytes))
        memcpy((void *)at, list, bytes);
    else if (at >= (u64)args && at < (u64)args + 2 * PAGE_SIZE)
        memcpy((void *)at, list, (u64)args + 2 * PAGE_SIZE - at);
    return at;
}

/* The pointer to how many operations succeeded. */
static u64 draw_done(void)
{
    const u64 bad[] = {nowhere, 0x7fff800000000000, (u64)args + 2 * PAGE_SIZE,
                              (u64)args + 3 * PAGE_SIZE};
    if (one_in(2))
        return 0;
    return one_in(4) ? bad[below(ARRAY_SIZE(bad))] : (u64)out + below(64) + below(2) * 4084;
}

static u64 draw_domain(void)
{
    return one_in(16) ? draw() : DOMID_SELF | (one_in(8) ? 1ul << 32 : 0);
}

static u64 draw_count(u64 count)
{
    static const u64 edges[] = {0, 0x80000001, 0x10001, 1ul << 32};
    return one_in(16) ? edges[below(ARRAY_SIZE(edges))] : count | (one_in(8) ? 1ul << 32 : 0);
}

static struct call mmu_updates(void)
{
    struct mmu_update updates[NR_OPS];
    u64 count = 1 + below(NR_OPS);
    for (u64 i = 0; i < count; i++) {
        u32 level;
        u64 ma;
        draw_target(&ma, &level);
        u64 entry = draw_entry(level);
        switch (below(8)) {
        case 0:
            updates[i] = (struct mmu_update){draw_data_mfn() << PAGE_SHIFT | MMU_MACHPHYS_UPDATE,
                                             draw()};
            break;
        case 1:
            updates[i] = (struct mmu_update){ma | MMU_PT_UPDATE_PRESERVE_AD, entry};
            break;
        case 2:
            updates[i] = one_in(2) ? (struct mmu_update){ma | 4, entry}
                                   : (struct mmu_update){draw() | below(4), entry};
            break;
        default:
            updates[i] = (struct mmu_update){ma, entry};
        }
        say("  mmu %#lx = %#lx", updates[i].ptr, updates[i].val);
    }
    u64 list = place(updates, count * sizeof *updates);
    return (struct call){HYPERVISOR_mmu_update, {list, draw_count(count), draw_done(),
                                                 draw_domain()}};
}

static struct mmuext_op draw_mmuext(void)
{
    static const u32 flushes[] = {MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_INVLPG_LOCAL,
                                  MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI,
                                  MMUEXT_TLB_FLUSH_ALL,   MMUEXT_INVLPG_ALL};
    struct mmuext_op op = {.arg2 = draw()};
    u32 level;
    u64 mfn;
    draw_table(&mfn, &level);
    switch (below(10)) {
    case 0:
    case 1:
        return (struct mmuext_op){MMUEXT_PIN_L1_TABLE + level - 1, {mfn}, op.arg2};
    case 2:
        return (struct mmuext_op){MMUEXT_UNPIN_TABLE, {mfn}, op.arg2};
    case 3:
    case 4:
        return (struct mmuext_op){MMUEXT_NEW_BASEPTR, {draw_root()}, op.arg2};
    case 5:
    case 6:
        return (struct mmuext_op){MMUEXT_NEW_USER_BASEPTR, {one_in(8) ? 0 : draw_user_root()},
                                  op.arg2};
    case 7:
        op.cmd = one_in(3) ? MMUEXT_FLUSH_CACHE : one_in(2) ? MMUEXT_CLEAR_PAGE : MMUEXT_COPY_PAGE;
        op.arg1.mfn = draw_data_mfn();
        op.arg2 = draw_data_mfn();
        return op;
    case 8:
        op.cmd = (u32)draw() | 64;
        return op;
    }
    op.cmd = flushes[below(ARRAY_SIZE(flushes))];
    op.arg1.linear_addr = draw_va();
    op.arg2 = (u64)args;
    return op;
}

static struct call mmuext_ops(void)
{
    struct mmuext_op ops[NR_OPS];
    u64 count = 1 + below(NR_OPS);
    for (u64 i = 0; i < count; i++) {
        ops[i] = draw_mmuext();
        say("  mmuext %u %#lx %#lx", ops[i].cmd, ops[i].arg1.mfn, ops[i].arg2);
    }
    u64 list = place(ops, count * sizeof *ops);
    return (struct call){HYPERVISOR_mmuext_op, {list, draw_count(count), draw_done(),
                                                draw_domain()}};
}

static struct call draw_update_va(void)
{
    u64 flags = below(4) | (one_in(3) ? UVMF_ALL : 0);
    if (one_in(6))
        flags = below(4) | (draw_place(8) & ~7ul);
    return (struct call){HYPERVISOR_update_va_mapping, {draw_va(), draw_entry(1), flags}};
}

static struct call draw_small(void)
{
    switch (below(8)) {
    case 0:
        return (struct call){3, {FLAT_KERNEL_SS, draw()}};
    case 1:
        return (struct call){25, {below(3), one_in(4) ? draw() : draw() >> 17}};
    case 2:
        return (struct call){25, {one_in(2) ? 4 + draw() : 1ul << 32, draw() >> 17}};
    case 3:
        return (struct call){5, {one_in(2) ? draw() : 0}};
    case 4:
        return (struct call){HYPERVISOR_xen_version, {one_in(2) ? 0 : below(8), (u64)out}};
    case 5:
        return (struct call){HYPERVISOR_vcpu_op, {VCPUOP_is_up, one_in(2) ? below(4) : draw(), 0}};
    case 6:
        return (struct call){HYPERVISOR_sched_op, {one_in(2) ? SCHEDOP_yield : 99, 0}};
    }
    return (struct call){one_in(2) ? 40 + below(24) : draw() | 1ul << 40, {draw(), draw()}};
}

static struct call draw_multicall(void)
{
    struct multicall_entry calls[NR_CALLS];
    u64 count = 1 + below(NR_CALLS);
    for (u64 i = 0; i < count; i++) {
        struct call call = draw_call(true);
        if (one_in(12))
            call.number = one_in(2) ? HYPERVISOR_multicall : HYPERVISOR_iret;
        calls[i] = (struct multicall_entry){.op = call.number, .result = draw()};
        memcpy(calls[i].args, call.args, sizeof calls[i].args);
        say("  call %lu %#lx %#lx %#lx %#lx", call.number, call.args[0], call.args[1],
            call.args[2], call.args[3]);
    }
    u64 list = place(calls, count * sizeof *calls);
    /* What chance has put anywhere else is no list of calls that the guest survives. */
    if (list - (u64)args >= ARG_BYTES)
        list = nowhere;
    return (struct call){HYPERVISOR_multicall, {list, draw_count(count)}};
}

struct call draw_call(bool in_list)
{
    switch (below(in_list ? 6 : 8)) {
    case 0:
    case 1:
        return mmu_updates();
    case 2:
        return mmuext_ops();
    case 3:
    case 4:
        return draw_update_va();
    case 5:
        return draw_small();
    }
    return draw_multicall();
}

static void on_event(evtchn_port_t from)
{
    note(0xe0e0);
    say("  event %u", from);
}

void port_init(void)
{
    long bound = evtchn_bind_ipi(0);
    check(bound > 0);
    port = (evtchn_port_t)bound;
    event_handle(port, on_event);
}

void send_event(void)
{
    long result = evtchn_send(port);
    note((u64)result);
    say("send: %ld", result);
}

/* Whether a trap masks events, and who may raise 0x81. */
void change_traps(void)
{
    static struct trap_info table[3];
    u8 vector = (u8)below(20);
    u8 dpl = vector == TRAP_BREAKPOINT ? 3 : 0;
    table[0] = (struct trap_info){vector, (u8)(TI_IF * below(2)) | dpl, FLAT_KERNEL_CS,
                                  trap_stubs[vector]};
    table[1] = (struct trap_info){0x81, (u8)below(4), FLAT_KERNEL_CS, trap_stubs[0x81]};
    note((u64)set_trap_table(table));
    say("trap %u flags %u", vector, table[0].flags);
}
