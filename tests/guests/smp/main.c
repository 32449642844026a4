/* Every vCPU that the domain has: started, sent IPIs, its TLB flushed from afar while it sleeps and
 * while it runs, stopped. */
#include "guest.h"

#define ROUNDS 100
#define FLUSHES 40

static u32 started, flushed, told[MAX_CPUS], leave;
static u64 round, seen[MAX_CPUS];
static evtchn_port_t ipi[MAX_CPUS], answer;
static u32 answers;
static u64 page[512] __attribute__((aligned(PAGE_SIZE)));
static u64 a[512] __attribute__((aligned(PAGE_SIZE))), b[512] __attribute__((aligned(PAGE_SIZE)));

static void add(u32 *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_SEQ_CST);
}

static void wait_until(const u32 *counter, u32 value, const char *what)
{
    u64 end = now() + PATIENCE;
    while (load_acquire(counter) < value) {
        if (now() > end)
            fail("%s: %u of %u", what, load_acquire(counter), value);
        sched_op(SCHEDOP_yield, NULL);
    }
}

static void on_ipi(evtchn_port_t port)
{
    u32 cpu = this_cpu();
    check_equal(port, ipi[cpu]);
    told[cpu]++;
    check_equal(evtchn_send(answer), 0);
}

static void on_answer(evtchn_port_t port)
{
    (void)port;
    check_equal(this_cpu(), 0);
    add(&answers);
}

/* Reads, all the time, what vCPU 0 maps elsewhere. */
static void read_on(u32 cpu)
{
    while (seen[cpu] < FLUSHES) {
        u64 now = load_acquire(&round);
        u64 value = READ_ONCE(page[0]);
        if (now == seen[cpu])
            continue;
        check_equal(value, now % 2 ? 0xaaaa : 0xbbbb);
        store_release(&seen[cpu], now);
    }
}

/* A further vCPU: takes its IPIs blocked, reads the page that vCPU 0 remaps, goes down. */
static void run(u32 cpu)
{
    check_equal(this_cpu(), cpu);
    u64 last = now();
    check_equal(READ_ONCE(page[0]), 0xaaaa);
    add(&started);
    for (;;) {
        upcalls_off();
        if (load_acquire(&leave))
            break;
        sched_op(SCHEDOP_block, NULL);
        check(now() >= last);
        last = now();
    }
    if (READ_ONCE(page[0]) == 0xbbbb)
        add(&flushed);
    read_on(cpu);
    vcpu_op(VCPUOP_down, cpu, NULL);
    fail("vCPU %u runs on after VCPUOP_down", cpu);
}

static void start_all(u32 cpus)
{
    a[0] = 0xaaaa;
    b[0] = 0xbbbb;
    check_equal(map_page((u64)page, pte(va_to_mfn(a), PTE_RW)), 0);
    for (u32 cpu = 1; cpu < cpus; cpu++) {
        check_equal(vcpu_op(VCPUOP_is_up, cpu, NULL), 0);
        long port = evtchn_bind_ipi(cpu);
        check(port > 0);
        ipi[cpu] = (evtchn_port_t)port;
        event_handle(ipi[cpu], on_ipi);
        check_equal(cpu_start(cpu, run), 0);
        wait_until(&started, cpu, "vCPUs started");
        check_equal(vcpu_op(VCPUOP_is_up, cpu, NULL), 1);
    }
}

static void send_ipis(u32 cpus)
{
    long port = evtchn_bind_ipi(0);
    check(port > 0);
    answer = (evtchn_port_t)port;
    event_handle(answer, on_answer);
    for (u32 round = 1; round <= ROUNDS; round++)
        for (u32 cpu = 1; cpu < cpus; cpu++) {
            u32 before = load_acquire(&answers);
            check_equal(evtchn_send(ipi[cpu]), 0);
            wait_until(&answers, before + 1, "answers to an IPI");
            check_equal(told[cpu], round);
        }
}

/* By each way to flush vCPUs that run. */
static void flush_running(u32 cpus)
{
    u64 mask = (1ul << cpus) - 1;
    struct mmuext_op ops[] = {
        {.cmd = MMUEXT_INVLPG_MULTI, .arg1.linear_addr = (u64)page, .arg2 = (u64)&mask},
        {.cmd = MMUEXT_TLB_FLUSH_MULTI, .arg2 = (u64)&mask},
        {.cmd = MMUEXT_TLB_FLUSH_ALL},
        {.cmd = MMUEXT_INVLPG_ALL, .arg1.linear_addr = (u64)page},
    };
    for (u64 i = 1; i <= FLUSHES; i++) {
        u64 entry = pte(va_to_mfn(i % 2 ? a : b), PTE_RW);
        u64 way = i % (ARRAY_SIZE(ops) + 1);
        check_equal(update_va_mapping((u64)page, entry, way ? 0 : UVMF_INVLPG | UVMF_ALL), 0);
        if (way)
            check_equal(mmuext_op(&ops[way - 1], 1, NULL, DOMID_SELF), 0);
        store_release(&round, i);
        u64 end = now() + PATIENCE;
        for (u32 cpu = 1; cpu < cpus; cpu++)
            while (load_acquire(&seen[cpu]) != i) {
                if (now() > end)
                    fail("vCPU %u does not read on after round %lu", cpu, i);
                sched_op(SCHEDOP_yield, NULL);
            }
    }
}

static void flush_and_stop(u32 cpus)
{
    check_equal(update_va_mapping((u64)page, pte(va_to_mfn(b), PTE_RW), UVMF_INVLPG | UVMF_ALL),
                0);
    store_release(&leave, 1);
    for (u32 cpu = 1; cpu < cpus; cpu++)
        check_equal(evtchn_send(ipi[cpu]), 0);
    wait_until(&flushed, cpus - 1, "vCPUs that see the new mapping");
    flush_running(cpus);
    for (u32 cpu = 1; cpu < cpus; cpu++) {
        u64 end = now() + PATIENCE;
        while (vcpu_op(VCPUOP_is_up, cpu, NULL) == 1)
            if (now() > end)
                fail("vCPU %u is still up", cpu);
    }
}

void guest_main(void)
{
    u32 cpus = cpu_count();
    check_equal(vcpu_op(VCPUOP_is_up, cpus, NULL), -ENOENT);
    if (cpus < 2)
        fail("one vCPU only: this guest needs --vcpus 2 or more");
    start_all(cpus);
    send_ipis(cpus);
    flush_and_stop(cpus);
    print("%u vCPUs\nSUCCESS\n", cpus);
}
