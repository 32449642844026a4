/* Does one thing as often as the command line says: syscalls=, faults=, switches=, copies=,
 * stores=, reads=, events=, waits=, ipis=, flushes=. */
#include "guest.h"

extern const char user_start[], user_end[];
static u64 root[512] __attribute__((aligned(PAGE_SIZE)));
static u64 tables[4][512] __attribute__((aligned(PAGE_SIZE)));
#define COPIED (1ul << 39) /* read-only user memory, which tables[3] has */
#define STORE_BYTES 3      /* of copies' store */
static u32 arrived, answered;
static evtchn_port_t there, back;
static u64 page[512] __attribute__((aligned(PAGE_SIZE)));
static u64 contents[2][512] __attribute__((aligned(PAGE_SIZE)));
static u64 seen;

static bool on_syscall(struct regs *regs)
{
    return regs->rax;
}

static bool on_fault(struct regs *regs)
{
    if (regs->vector != 14)
        return false;
    regs->rip += from_user(regs) ? 7 : STORE_BYTES;
    return true;
}

static void switches(u64 count)
{
    const u64 *l4 = (const u64 *)start_info->pt_base;
    u64 roots[2] = {va_to_mfn(root), va_to_mfn(l4)};
    for (u32 slot = XEN_FIRST_SLOT + XEN_SLOTS; slot < 512; slot++)
        root[slot] = READ_ONCE(l4[slot]);
    check_equal(pin_table(4, roots[0]), 0);
    for (u64 i = 0; i < 2 * count; i++)
        check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, roots[i % 2]), 0);
}

/* The kernel stores to what is to be copied first. */
static void copies(u64 count)
{
    for (u32 i = 0; i < 3; i++)
        tables[i][0] = pte(va_to_mfn(tables[i + 1]), i < 2 ? PTE_RW : PTE_RO);
    for (u32 i = 0; i < 3; i++)
        check_equal(make_read_only(tables[i]), 0);
    u64 slot = (va_to_mfn((void *)start_info->pt_base) << PAGE_SHIFT) + (COPIED >> 39) * 8;
    check_equal(set_entry(slot, pte(va_to_mfn(tables[0]), PTE_RW)), 0);
    for (u64 i = 0; i < count; i++)
        __asm__ volatile("movb $0, (%0)" : : "D"(COPIED) : "memory");
}

/* The kernel stores to a table that it had pinned, and mapped read-only. */
static void stores(u64 count)
{
    u64 mfn = va_to_mfn(tables[0]);
    for (u64 i = 0; i < count; i++) {
        check_equal(make_read_only(tables[0]), 0);
        check_equal(pin_table(1, mfn), 0);
        WRITE_ONCE(tables[0][i % 512], 0);
        check_equal(unpin_table(mfn), 0);
    }
}

/* The kernel reads the machine-to-physical table where Xen has always had it. */
static void reads(u64 count)
{
    const u64 *table = (const u64 *)HYPERVISOR_VIRT_START;
    for (u64 i = 0; i < count; i++)
        check_equal(READ_ONCE(table[pfn_to_mfn(i % start_info->nr_pages)]), i % start_info->nr_pages);
}

static void arrive(evtchn_port_t port)
{
    (void)port;
    store_release(&arrived, arrived + 1);
}

static void answer(evtchn_port_t port)
{
    (void)port;
    store_release(&answered, answered + 1);
    check_equal(evtchn_send(back), 0);
}

/* An IPI of the vCPU's. */
static evtchn_port_t bind(u32 cpu, event_handler handler)
{
    long port = evtchn_bind_ipi(cpu);
    check(port > 0);
    event_handle((evtchn_port_t)port, handler);
    return (evtchn_port_t)port;
}

static void events(u64 count)
{
    evtchn_port_t port = bind(0, arrive);
    for (u32 i = 0; i < count; i++) {
        check_equal(evtchn_send(port), 0);
        check_equal(arrived, i + 1);
    }
    check_equal(evtchn_close(port), 0);
}

/* Sleeps until its timer's time. */
static void waits(u64 count)
{
    struct vcpu_set_singleshot_timer timer = {0, 0};
    for (u64 i = 0; i < count; i++) {
        u64 before = timer_ticks;
        timer.timeout_abs_ns = now() + 200 * US;
        check_equal(vcpu_op(VCPUOP_set_singleshot_timer, 0, &timer), 0);
        for (upcalls_off(); timer_ticks == before; upcalls_off())
            check_equal(sched_op(SCHEDOP_block, NULL), 0);
        upcalls_on();
        check(now() >= timer.timeout_abs_ns);
    }
}

/* Sleeps until it has answered so many IPIs; upcalls are off then. */
static void sleep_through(u64 count)
{
    for (upcalls_off(); load_acquire(&answered) < count; upcalls_off())
        check_equal(sched_op(SCHEDOP_block, NULL), 0);
}

static void other(u32 cpu)
{
    sleep_through(option("ipis", 0));
    vcpu_op(VCPUOP_down, cpu, NULL);
}

/* To a vCPU that sleeps, and back to one that does. */
static void ipis(u64 count)
{
    there = bind(1, answer);
    back = bind(0, arrive);
    check_equal(cpu_start(1, other), 0);
    for (u32 i = 0; i < count; i++) {
        check_equal(evtchn_send(there), 0);
        for (upcalls_off(); load_acquire(&arrived) == i; upcalls_off())
            check_equal(sched_op(SCHEDOP_block, NULL), 0);
        upcalls_on();
    }
    check_equal(answered, count);
}

static void sleeper(u32 cpu)
{
    store_release(&seen, READ_ONCE(page[0]));
    sleep_through(1);
    store_release(&seen, READ_ONCE(page[0]));
    vcpu_op(VCPUOP_down, cpu, NULL);
}

/* Of what a vCPU that sleeps has read, and reads again when it is woken. */
static void flushes(u64 count)
{
    struct mmuext_op op = {.cmd = MMUEXT_INVLPG_ALL, .arg1.linear_addr = (u64)page};
    contents[0][0] = 1;
    contents[1][0] = 2;
    there = bind(1, answer);
    back = bind(0, arrive);
    check_equal(map_page((u64)page, pte(va_to_mfn(contents[0]), PTE_RW)), 0);
    check_equal(cpu_start(1, sleeper), 0);
    while (load_acquire(&seen) != 1)
        cpu_relax();
    check_equal(map_page((u64)page, pte(va_to_mfn(contents[1]), PTE_RW)), 0);
    for (u64 i = 0; i < count; i++)
        check_equal(mmuext_op(&op, 1, NULL, DOMID_SELF), 0);
    check_equal(evtchn_send(there), 0);
    while (load_acquire(&seen) != 2)
        cpu_relax();
}

void guest_main(void)
{
    user_init(user_start, (size_t)(user_end - user_start), on_syscall);
    trap_hook = on_fault;
    switches(option("switches", 0));
    stores(option("stores", 0));
    copies(option("copies", 0));
    reads(option("reads", 0));
    events(option("events", 0));
    waits(option("waits", 0));
    if (option("ipis", 0))
        ipis(option("ipis", 0));
    if (option("flushes", 0))
        flushes(option("flushes", 0));
    user_run(option("faults", 0) << 32 | option("syscalls", 0));
    print("SUCCESS\n");
}
