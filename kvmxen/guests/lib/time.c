/* System time by Xen's vcpu_time_info (the pvclock), and the boot vCPU's timer. */
#include "guest.h"

volatile u64 timer_ticks;

static u64 armed; /* the deadline of the timer while it has not fired, else 0 */

static u64 read_tsc(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (u64)high << 32 | low;
}

u64 now(void)
{
    const struct vcpu_time_info *time = &this_vcpu()->time;
    u64 ns;
    u32 version;
    do {
        do
            version = load_acquire(&time->version);
        while (version & 1);
        u64 ticks = read_tsc() - READ_ONCE(time->tsc_timestamp);
        int shift = READ_ONCE(time->tsc_shift);
        ticks = shift < 0 ? ticks >> -shift : ticks << shift;
        u64 scaled = (u64)((unsigned __int128)ticks * READ_ONCE(time->tsc_to_system_mul) >> 32);
        ns = READ_ONCE(time->system_time) + scaled;
    } while (READ_ONCE(time->version) != version);
    return ns;
}

static void tick(evtchn_port_t port)
{
    (void)port;
    armed = 0;
    timer_ticks++;
}

void timer_init(void)
{
    /* A vCPU starts with a tick of 10 ms. */
    check_equal(vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0);
    long port = evtchn_bind_virq(VIRQ_TIMER, 0);
    if (port < 0)
        fail("VIRQ_TIMER cannot be bound: error %ld", port);
    event_handle((evtchn_port_t)port, tick);
}

void timer_set(u64 deadline_ns)
{
    armed = deadline_ns;
    check_equal(set_timer_op(deadline_ns), 0);
}

bool wait_for(bool (*done)(void), u64 timeout_ns)
{
    u64 deadline = now() + timeout_ns;
    for (;;) {
        upcalls_off();
        bool over = now() >= deadline;
        if (done() || over)
            break;
        if (!armed || armed > deadline)
            timer_set(deadline);
        sched_op(SCHEDOP_block, NULL);
    }
    upcalls_on();
    return done();
}
