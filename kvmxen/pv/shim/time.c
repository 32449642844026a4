/* A vCPU's time: the clock that KVM keeps in the vcpu_info, the guest's singleshot timer, and
 * VIRQ_TIMER. kvmxen/xen/timer.py has the periodic timer and the limit of a poll beside it.
 */
#include "dispatch.h"

/* 36 years, further than the counter behind the deadline can be told. */
#define NEVER (1ul << 60)

/* struct vcpu_time_info (xen/include/public/xen.h), which is KVM's struct pvclock_vcpu_time_info. */
struct time_info {
    u32 version;
    u32 pad;
    u64 tsc_timestamp;
    u64 system_time;
    u32 tsc_to_system_mul;
    signed char tsc_shift;
    u8 flags;
};

static const volatile struct time_info *time_info(const state *s)
{
    return (const volatile struct time_info *)(vcpu_info(s) + VCPU_INFO_TIME);
}

static u64 read_tsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static u64 scale(u64 value, u64 by)
{
    return (u64)((unsigned __int128)value * by >> 32);
}

/* System time in ns, and the TSC at which it was; only this vCPU's thread changes the clock. */
static u64 now(const state *s, u64 *tsc)
{
    const volatile struct time_info *time = time_info(s);
    u64 delta;

    *tsc = read_tsc();
    delta = *tsc - time->tsc_timestamp;
    if (time->tsc_shift < 0)
        delta >>= -time->tsc_shift & 63;
    else
        delta <<= time->tsc_shift & 63;
    return time->system_time + scale(delta, time->tsc_to_system_mul);
}

/* Likewise, in ns alone. */
u64 system_time(const state *s)
{
    u64 tsc;
    return now(s, &tsc);
}

/* 0 for none. */
static u64 earliest(const state *s)
{
    u64 singleshot = s->singleshot < NEVER ? s->singleshot : 0;

    return !singleshot || (s->others && s->others < singleshot) ? s->others : singleshot;
}

/* Program the LAPIC for the earliest deadline. */
static void arm(state *s, u64 time, u64 tsc)
{
    u64 deadline = earliest(s);

    if (deadline == s->armed)
        return;
    s->armed = deadline;
    if (deadline) {
        tsc += deadline > time ? scale(deadline - time, domain()->tsc_per_ns) : 0;
        write_msr(s, MSR_TSC_DEADLINE, tsc);
    } else {
        write_msr(s, MSR_TSC_DEADLINE, 0);
    }
}

/* VCPUOP_set_singleshot_timer and, for deadline 0, _stop_; returns whether it is too late for a
 * deadline that must be in the future. */
int set_singleshot(state *s, u64 deadline, bool future)
{
    u64 tsc, time = now(s, &tsc);

    if (future && deadline < time)
        return 1;
    s->singleshot = deadline;
    arm(s, time, tsc);
    return 0;
}

/* The LAPIC's timer fired. Ring 0 only. */
int timer_expired(state *s)
{
    u64 tsc, time = now(s, &tsc);

    /* What else is due, and the guest's copy of the clock, are the host's. */
    if (s->look || (s->others && s->others <= time) || time_info(s)->version != s->time_version)
        return HOST;
    end_interrupt();
    s->armed = 0;
    if (s->singleshot && s->singleshot <= time) {
        s->singleshot = 0;
        if (s->timer_port)
            s->delivered += raise_port(s, s->timer_port);
    }
    arm(s, time, tsc);
    return DONE;
}
