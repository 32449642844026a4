/* The domain's watchdogs: with `hang=1` it spins and with `hang=2` it sleeps until one fires, else it
 * sets one again and again for longer than that waits. */
#include "guest.h"

#define FAR 1000000
#define SOON 2

static long watchdog(u32 id, u32 timeout)
{
    struct sched_watchdog arg = {id, timeout};
    return sched_op(SCHEDOP_watchdog, &arg);
}

static void answers(void)
{
    check_equal(watchdog(~0u, 0), -EINVAL);
    check_equal(watchdog(1, FAR), -EINVAL);
    check_equal(watchdog(0, FAR), 1);
    check_equal(watchdog(0, FAR), 2);
    check_equal(watchdog(0, FAR), -ENOSPC);
    check_equal(watchdog(3, FAR), -EINVAL);
    check_equal(watchdog(2, 0), 0);
    check_equal(watchdog(2, 0), -EINVAL);
    check_equal(watchdog(1, SOON), 0);
}

void guest_main(void)
{
    answers();
    u64 hang = option("hang", 0), end = now() + 2 * SOON * SECOND;
    upcalls_off();
    if (hang == 1)
        for (;;)
            cpu_relax();
    if (hang == 2)
        for (;; upcalls_off())
            check_equal(sched_op(SCHEDOP_block, NULL), 0);
    while (now() < end)
        check_equal(watchdog(1, SOON), 0);
    check_equal(watchdog(1, 0), 0);
    check_equal(watchdog(0, FAR), 1);
    print("SUCCESS\n");
}
