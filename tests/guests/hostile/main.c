/*
 * A guest that makes a million random hypercalls and must do its host no harm. Command line:
 * seed=, rounds=. Each vCPU makes as many, at most 4 of them at once, which share all but where
 * their pointers point. Every 100,000 calls the first says so, at the end SUCCESS.
 */
#include "hostile.h"

#define PROGRESS 100000

struct runner {
    void *restart[5];
    struct call last;
    u64 traps, round;
};
static struct runner runners[VCPUS];
static u64 rounds;
static u32 done;
extern char event_entry[];

static struct runner *self(void)
{
    return &runners[this_cpu()];
}

/* Entered by Xen with its own frame on the stack, which is left behind. */
static void on_failsafe(void)
{
    __builtin_longjmp(self()->restart, 1);
}

static void set_callback(u16 type, u64 address)
{
    struct callback_register callback = {type, 0, address};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}

/* What random calls change of the guest's own: traps, callbacks, debug registers, the arena. */
static void restore(void)
{
    struct trap_info table[257];
    hypercall(HYPERVISOR_set_debugreg, 7, 0, 0, 0, 0);
    trap_table(table);
    check_equal(set_trap_table(table), 0);
    set_callback(CALLBACKTYPE_event, (u64)event_entry);
    set_callback(CALLBACKTYPE_failsafe, (u64)on_failsafe);
    arena_map();
}

static bool on_trap(struct regs *regs)
{
    (void)regs;
    hypercall(HYPERVISOR_set_debugreg, 7, 0, 0, 0, 0);
    self()->traps++;
    __builtin_longjmp(self()->restart, 1);
}

static bool changes_the_guest(u64 nr)
{
    return nr == HYPERVISOR_set_trap_table || nr == HYPERVISOR_set_callbacks ||
           nr == HYPERVISOR_callback_op || nr == HYPERVISOR_multicall ||
           nr == HYPERVISOR_update_va_mapping || nr == HYPERVISOR_update_va_mapping_otherdomain ||
           nr == HYPERVISOR_set_debugreg;
}

static void tick(evtchn_port_t port)
{
    (void)port;
}

/* What wakes this vCPU from a call that sleeps; the runtime has done it for the first. */
static void bind_timer(u32 cpu)
{
    long port = evtchn_bind_virq(VIRQ_TIMER, cpu);
    check(port > 0);
    event_handle((evtchn_port_t)port, tick);
}

static void run(u32 cpu)
{
    struct runner *r = &runners[cpu];

    seeds[cpu] = (option("seed", 1) + cpu * 1000) * 0x9e3779b97f4a7c15 | 1;
    restore();
    if (__builtin_setjmp(r->restart)) {
        r = self();
        restore();
    }
    while (r->round < rounds) {
        r->round++;
        if (cpu == 0 && r->round % PROGRESS == 0)
            print("%lu calls, %lu traps\n", r->round, r->traps);
        upcalls_on();
        r->last = draw_call();
        if (changes_the_guest(r->last.nr)) /* no upcall before its callback is back */
            upcalls_off();
        run_call(&r->last);
        if (changes_the_guest(r->last.nr))
            restore();
    }
    __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
    while (cpu)
        cpu_relax();
}

void guest_main(void)
{
    u32 cpus = cpu_count();

    if (cpus > VCPUS)
        cpus = VCPUS;
    rounds = option("rounds", 1000000);
    trap_hook = on_trap;
    for (u32 cpu = 1; cpu < cpus; cpu++) {
        bind_timer(cpu);
        check_equal(cpu_start(cpu, run), 0);
    }
    run(0);
    while (READ_ONCE(done) < cpus)
        cpu_relax();
    print("SUCCESS\n");
}
