/* Timer, event channels and what they cost, measured with the pvclock. */
#include "demo.h"

#define TICKS 10
#define TICK (10 * MS)
#define ROUNDS 200
#define READS 50

static volatile u32 ipis;
static evtchn_port_t ipi_port;

static void row_of(const char *label, struct spread spread, u32 count)
{
    table_row(label, "%5lu.%lu us min %5lu.%lu us median, of %u", spread.min / US,
              spread.min % US / 100, spread.median / US, spread.median % US / 100, count);
}

struct spread spread_of(u64 *samples, size_t count)
{
    for (size_t i = 1; i < count; i++)
        for (size_t j = i; j && samples[j - 1] > samples[j]; j--) {
            u64 swapped = samples[j];
            samples[j] = samples[j - 1];
            samples[j - 1] = swapped;
        }
    return (struct spread){samples[0], samples[count / 2], samples[count - 1]};
}

static u64 ticks_wanted;

static bool ticked(void)
{
    return timer_ticks >= ticks_wanted;
}

void show_timer(void)
{
    u64 intervals[TICKS];
    u64 last = now();
    table_section("timer");
    for (u32 i = 0; i < TICKS; i++) {
        ticks_wanted = timer_ticks + 1;
        timer_set(last + TICK);
        /* Spin for the first, so that a timer that never fires is reported, not slept through. */
        while (i == 0 && !ticked() && now() < last + SECOND)
            cpu_relax();
        if (!wait_for(ticked, SECOND))
            fail("VIRQ_TIMER did not come within 1 s of its deadline");
        u64 t = now();
        if (t < last + TICK)
            fail("VIRQ_TIMER came %lu us before its deadline", (last + TICK - t) / US);
        intervals[i] = t - last;
        last = t;
    }
    struct spread spread = spread_of(intervals, TICKS);
    table_row("10 ticks of 10 ms", "%lu.%02lu ms min, %lu.%02lu median, %lu.%02lu max",
              spread.min / MS, spread.min % MS / 10000, spread.median / MS,
              spread.median % MS / 10000, spread.max / MS, spread.max % MS / 10000);
}

static void on_ipi(evtchn_port_t port)
{
    ipis += port == ipi_port;
}

/* Sends the vCPU an IPI and spins until its upcall has come: ns. */
static u64 ipi_round_trip(void)
{
    u32 before = ipis;
    u64 start = now();
    long error = evtchn_send(ipi_port);
    if (error)
        fail("event_channel_op(send) answers %ld", error);
    while (ipis == before)
        if (now() > start + SECOND)
            fail("the upcall of an IPI to itself did not come within 1 s");
    return now() - start;
}

void show_events(void)
{
    table_section("event channels");
    long port = evtchn_bind_ipi(0);
    if (port < 0)
        fail("event_channel_op(bind_ipi) answers %ld", port);
    ipi_port = (evtchn_port_t)port;
    event_handle(ipi_port, on_ipi);
    for (u32 i = 0; i < 10; i++)
        ipi_round_trip();
    if (ipis != 10)
        fail("10 IPIs made %u upcalls", ipis);
    table_row("IPI to itself", "port %u: 10 sent, %u came", ipi_port, ipis);
}

void show_costs(void)
{
    u64 samples[ROUNDS];
    char value[64];
    table_section("costs");
    for (u32 i = 0; i < ROUNDS; i++) {
        u64 start = now();
        xen_version(XENVER_version, NULL);
        samples[i] = now() - start;
    }
    row_of("null hypercall", spread_of(samples, ROUNDS), ROUNDS);
    for (u32 i = 0; i < ROUNDS; i++)
        samples[i] = ipi_round_trip();
    row_of("event round trip", spread_of(samples, ROUNDS), ROUNDS);
    for (u32 i = 0; i < READS; i++) {
        u64 start = now();
        if (xs_read(XS_NO_TRANSACTION, "domid", value, sizeof value) < 0)
            fail("xenstore does not let domid be read: %s", xs_error);
        samples[i] = now() - start;
    }
    row_of("xenstore read", spread_of(samples, READS), READS);
}
