/* The machine-to-physical table: where Xen says it is, and where guests that do not ask look. There
 * it is read by every form of a load, and by instructions that do more, while a timer and events of
 * other vCPUs come. */
#include "guest.h"

#define ROUNDS 40
#define DB TRAP_DEBUG
#define PF TRAP_PAGE_FAULT
#define TF EFL_TF
#define DR6_BS 0x4000ul /* a single step */

static u64 *const table = (u64 *)HYPERVISOR_VIRT_START;
static u32 told, leave;
static evtchn_port_t port;
extern char after_load[];

static void holds_every_pfn(const u64 *at)
{
    for (u64 pfn = 0; pfn < start_info->nr_pages; pfn += 97)
        check_equal(READ_ONCE(at[pfn_to_mfn(pfn)]), pfn);
}

#define CHECK_READ(instructions, base, index, before, after)                                       \
    do {                                                                                           \
        u64 value_ = (before), base_ = (u64)(base), index_ = (u64)(index);                         \
        __asm__ volatile(instructions                                                              \
                         : "+r"(value_)                                                            \
                         : "r"(base_), "r"(index_)                                                 \
                         : "r8", "r9", "r12", "r13", "r15", "cc", "memory");                       \
        check_equal(value_, after);                                                                \
    } while (0)

static void loads(void)
{
    u64 pfn = start_info->nr_pages - 3, mfn = pfn_to_mfn(pfn), ones = ~0ul;
    u64 entry = (u64)&table[mfn];
    check(pfn > 0xff);
    CHECK_READ("mov (%1), %0", entry, 0, ones, pfn);
    CHECK_READ("mov 64(%1), %0", entry - 64, 0, ones, pfn);
    CHECK_READ("mov -0x12345(%1), %0", entry + 0x12345, 0, ones, pfn);
    CHECK_READ("mov (%1, %2, 8), %0", table, mfn, ones, pfn);
    CHECK_READ("mov -8(%1, %2, 4), %0", table + 1, 2 * mfn, ones, pfn);
    CHECK_READ("mov 0x12345(%1, %2), %0", entry, -0x12345, ones, pfn);
    CHECK_READ("mov -0x1000(, %2, 8), %0", 0, (entry + 0x1000) >> 3, ones, pfn);
    CHECK_READ("mov (%1), %k0", entry, 0, ones, (u32)pfn);
    CHECK_READ("mov 1(%1), %0", entry, 0, ones, pfn >> 8 | (pfn + 1) << 56);
    CHECK_READ("mov %1, %0; mov (%0), %0", entry, 0, ones, pfn);
    CHECK_READ("mov %1, %%r12; mov (%%r12), %%r8; mov %%r8, %0", entry, 0, ones, pfn);
    CHECK_READ("mov %1, %%r13; mov (%%r13), %%r15; mov %%r15, %0", entry, 0, ones, pfn);
    CHECK_READ("mov %1, %%r13; mov %2, %%r12; mov (%%r13, %%r12, 8), %0", table, mfn, ones, pfn);
    upcalls_off();
    CHECK_READ("mov %%rsp, %%r9; mov %1, %%rsp; mov (%%rsp), %%r8; mov %%r9, %%rsp; mov %%r8, %0",
               entry, 0, ones, pfn);
    CHECK_READ("mov %%rsp, %%r9; mov (%1), %%rsp; mov %%rsp, %0; mov %%r9, %%rsp", entry, 0, ones,
               pfn);
    upcalls_on();
}

/* What reads, and does more than that. */
static void others(void)
{
    u64 pfn = start_info->nr_pages - 3, dr6;
    u64 entry = (u64)&table[pfn_to_mfn(pfn)];
    CHECK_READ("mov (%1), %w0", entry, 0, ~0ul, ~0xfffful | (pfn & 0xffff));
    CHECK_READ("mov (%1), %b0", entry, 0, 0, pfn & 0xff);
    CHECK_READ("movzwl (%1), %k0", entry, 0, ~0ul, pfn & 0xffff);
    CHECK_READ("movslq (%1), %0", entry, 0, 0, pfn);
    CHECK_READ("add (%1), %0", entry, 0, 5, pfn + 5);
    CHECK_READ("xor %0, %0; cmp (%1), %2; sete %b0", entry, pfn, 7, 1);
    CHECK_READ("push (%1); pop %0", entry, 0, 0, pfn);
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    check_equal(dr6 & DR6_BS, 0);
}

static bool on_step(struct regs *regs)
{
    if (regs->vector != DB)
        return false;
    check_equal(regs->rip, after_load);
    regs->rflags &= ~TF;
    told++;
    return true;
}

/* A kernel that steps through itself. */
static void stepped(void)
{
    u64 pfn = 7, mfn = pfn_to_mfn(pfn);
    trap_hook = on_step;
    CHECK_READ("pushf; orl $0x100, (%%rsp); popf; mov (%1, %2, 8), %0; after_load:", table, mfn, 0,
               pfn);
    check_equal(told, 1);
    trap_hook = NULL;
}

static void refused(void)
{
    probe_write(table, 1);
    check_equal(probe.vector, PF);
    check_equal(probe.cr2, table);
    probe_read((void *)(HYPERVISOR_VIRT_START + (1ul << 39) - 8));
    check_equal(probe.vector, PF);
}

static void tell(evtchn_port_t of)
{
    check_equal(of, port);
    told++;
}

static void read_both_ways(u64 pfn)
{
    u64 mfn = pfn_to_mfn(pfn % start_info->nr_pages);
    CHECK_READ("mov (%1, %2, 8), %0", table, mfn, 0, pfn % start_info->nr_pages);
    CHECK_READ("add (%1, %2, 8), %0", table, mfn, 5, pfn % start_info->nr_pages + 5);
}

static void read_and_tell(u32 cpu)
{
    for (u64 pfn = 0; !load_acquire(&leave); pfn += 89) {
        read_both_ways(pfn);
        check_equal(evtchn_send(port), 0);
    }
    vcpu_op(VCPUOP_down, cpu, NULL);
}

static void while_events_come(u32 cpus)
{
    u64 last = timer_ticks, end = last + ROUNDS;
    port = (evtchn_port_t)evtchn_bind_ipi(0);
    event_handle(port, tell);
    told = 0;
    for (u32 cpu = 1; cpu < cpus; cpu++)
        check_equal(cpu_start(cpu, read_and_tell), 0);
    timer_set(now());
    for (u64 pfn = 0; timer_ticks < end || (cpus > 1 && told < ROUNDS); pfn += 97) {
        read_both_ways(pfn);
        if (timer_ticks != last) {
            last = timer_ticks;
            timer_set(now() + (pfn % 64) * US);
        }
    }
    store_release(&leave, 1);
}

void guest_main(void)
{
    struct xen_machphys_mapping where;
    check_equal(memory_op(XENMEM_machphys_mapping, &where), 0);
    holds_every_pfn((const u64 *)where.v_start);
    holds_every_pfn(table);
    probe_write((void *)where.v_start, 1);
    check_equal(probe.vector, PF);

    refused();
    loads();
    others();
    stepped();
    while_events_come(cpu_count());
    print("SUCCESS\n");
}
