/* System time, the wall clock, VIRQ_TIMER by set_timer_op and by vcpu_op. */
#include "guest.h"

#define YEAR_2020 1577836800ul

static u64 wanted;

static bool ticked(void)
{
    return timer_ticks >= wanted;
}

static void clock_runs(void)
{
    u64 last = now();
    for (u32 i = 0; i < 100000; i++) {
        u64 t = now();
        if (t < last)
            fail("time went back by %lu ns", last - t);
        last = t;
    }
    u64 wall = (u64)shared_info->wc_sec_hi << 32 | shared_info->wc_sec;
    check_equal(shared_info->wc_version & 1, 0);
    if (wall < YEAR_2020)
        fail("the wall clock at boot is %lu s", wall);
}

/* Waits without the runtime's own use of the timer. */
static void spin_for_tick(void)
{
    u64 end = now() + PATIENCE;
    while (!ticked() && now() < end)
        cpu_relax();
    check(ticked());
}

static void no_tick_for(u64 ns)
{
    wanted = timer_ticks + 1;
    u64 end = now() + ns;
    while (now() < end)
        cpu_relax();
    check(!ticked());
}

static void deadlines(void)
{
    for (u64 delay = MS; delay <= 16 * MS; delay *= 2) {
        u64 start = now();
        wanted = timer_ticks + 1;
        timer_set(start + delay);
        check(wait_for(ticked, PATIENCE));
        if (now() < start + delay)
            fail("a timer of %lu us fired after %lu us", delay / US, (now() - start) / US);
        no_tick_for(2 * delay);
    }
    wanted = timer_ticks + 1;
    timer_set(now() - MS); /* passed already: fires at once */
    check(wait_for(ticked, PATIENCE));
    timer_set(now() + 5 * MS);
    timer_set(0); /* stops it */
    no_tick_for(10 * MS);
}

static void singleshot(void)
{
    struct vcpu_set_singleshot_timer shot = {now() + 5 * MS, 0};
    wanted = timer_ticks + 1;
    check_equal(vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), 0);
    spin_for_tick();
    check(now() >= shot.timeout_abs_ns);
    shot.timeout_abs_ns = now() + 5 * MS;
    check_equal(vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), 0);
    check_equal(vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0);
    no_tick_for(10 * MS);
}

static void periodic(void)
{
    struct vcpu_set_periodic_timer period = {5 * MS};
    wanted = timer_ticks + 4;
    check_equal(vcpu_op(VCPUOP_set_periodic_timer, 0, &period), 0);
    spin_for_tick();
    check_equal(vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0);
    no_tick_for(15 * MS);
}

void guest_main(void)
{
    clock_runs();
    timer_set(0);
    deadlines();
    singleshot();
    periodic();
    print("SUCCESS\n");
}
