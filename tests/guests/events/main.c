/* 2-level event channels: binding, masks, both levels of bits, poll, block, what is refused. */
#include "guest.h"

#define MANY 200

static u32 calls[NR_PORTS];
static evtchn_port_t awaited;

static void count(evtchn_port_t port)
{
    calls[port]++;
}

static bool arrived(void)
{
    return calls[awaited];
}

static evtchn_port_t port_of(long port)
{
    check(port > 0 && port < NR_PORTS);
    calls[port] = 0;
    return (evtchn_port_t)port;
}

static struct evtchn_status status_of(evtchn_port_t port)
{
    struct evtchn_status status = {.dom = DOMID_SELF, .port = port};
    check_equal(event_channel_op(EVTCHNOP_status, &status), 0);
    return status;
}

static void masks(void)
{
    evtchn_port_t port = port_of(evtchn_bind_ipi(0));
    check_equal(status_of(port).status, EVTCHNSTAT_ipi);
    check_equal(status_of(port).vcpu, 0);
    event_handle(port, count);
    check_equal(evtchn_send(port), 0);
    check_equal(calls[port], 1);
    check(!event_is_pending(port));

    event_mask(port);
    check_equal(evtchn_send(port), 0);
    check_equal(evtchn_send(port), 0);
    check_equal(calls[port], 1);
    check(event_is_pending(port));
    check_equal(evtchn_unmask(port), 0); /* of a pending port: delivers, once */
    check_equal(calls[port], 2);

    upcalls_off();
    check_equal(evtchn_send(port), 0);
    check_equal(calls[port], 2);
    check_equal(this_vcpu()->evtchn_upcall_pending, 1);
    check(this_vcpu()->evtchn_pending_sel >> port / 64 & 1);
    check(event_is_pending(port));
    upcalls_on();
    check_equal(calls[port], 3);

    upcalls_off();
    check_equal(evtchn_send(port), 0);
    check_equal(sched_op(SCHEDOP_block, NULL), 0); /* unmasks, and does not sleep */
    check_equal(calls[port], 4);
    check_equal(this_vcpu()->evtchn_upcall_mask, 0);
    check_equal(evtchn_close(port), 0);
}

static void loopback(void)
{
    evtchn_port_t listening = port_of(evtchn_alloc_unbound(DOMID_SELF));
    check_equal(status_of(listening).status, EVTCHNSTAT_unbound);
    evtchn_port_t connected = port_of(evtchn_bind_interdomain(DOMID_SELF, listening));
    check_equal(status_of(listening).status, EVTCHNSTAT_interdomain);
    check_equal(status_of(listening).u.interdomain.port, connected);
    event_handle(listening, count);
    event_handle(connected, count);
    /* bind_interdomain leaves the listener's peer an event of its own: count from here. */
    calls[listening] = calls[connected] = 0;
    check_equal(evtchn_send(connected), 0);
    check_equal(calls[listening], 1);
    check_equal(calls[connected], 0);
    check_equal(evtchn_send(listening), 0);
    check_equal(calls[connected], 1);
    check_equal(evtchn_close(connected), 0);
    check_equal(status_of(listening).status, EVTCHNSTAT_unbound);
    check_equal(evtchn_close(listening), 0);
    check_equal(status_of(listening).status, EVTCHNSTAT_closed);
}

/* Ports in more than three words of the bitmap, all pending at once. */
static void many(void)
{
    static evtchn_port_t ports[MANY];
    for (u32 i = 0; i < MANY; i++) {
        ports[i] = port_of(evtchn_bind_ipi(0));
        event_handle(ports[i], count);
    }
    check(ports[MANY - 1] / 64 > ports[0] / 64 + 1);
    upcalls_off();
    for (u32 i = 0; i < MANY; i++)
        check_equal(evtchn_send(ports[i]), 0);
    upcalls_on();
    for (u32 i = 0; i < MANY; i++) {
        check_equal(calls[ports[i]], 1);
        check_equal(evtchn_close(ports[i]), 0);
    }
}

static void polls(void)
{
    evtchn_port_t port = port_of(evtchn_bind_ipi(0));
    event_mask(port);
    upcalls_off();
    struct sched_poll poll = {&port, 1, 0};
    check_equal(evtchn_send(port), 0);
    check_equal(sched_op(SCHEDOP_poll, &poll), 0); /* pending already: returns */
    event_clear(port);
    u64 start = now();
    poll.timeout = start + 20 * MS;
    check_equal(sched_op(SCHEDOP_poll, &poll), 0);
    if (now() < start + 20 * MS)
        fail("poll returned after %lu us of 20 ms", (now() - start) / US);
    check_equal(this_vcpu()->evtchn_upcall_mask, 1);
    poll.nr_ports = 129;
    check_equal(sched_op(SCHEDOP_poll, &poll), -EINVAL);
    upcalls_on();
    check_equal(evtchn_close(port), 0);
}

static void blocks(void)
{
    awaited = port_of(evtchn_bind_ipi(0));
    event_handle(awaited, count);
    check(!wait_for(arrived, 20 * MS));
    check_equal(evtchn_send(awaited), 0);
    check(wait_for(arrived, PATIENCE));
    check_equal(evtchn_close(awaited), 0);
}

static void refusals(void)
{
    struct evtchn_bind_vcpu move = {start_info->store_evtchn, 77};
    evtchn_port_t closed = port_of(evtchn_bind_ipi(0));
    check_equal(evtchn_close(closed), 0);
    check_equal(evtchn_send(closed), -EINVAL);
    check_equal(evtchn_close(closed), -EINVAL);
    check_equal(evtchn_send(NR_PORTS), -EINVAL);
    check_equal(evtchn_send(0xffffffff), -EINVAL);
    check_equal(evtchn_unmask(NR_PORTS), -EINVAL);
    check_equal(evtchn_bind_virq(VIRQ_TIMER, 0), -EEXIST);
    check_equal(evtchn_bind_virq(24, 0), -EINVAL);
    check_equal(evtchn_bind_virq(VIRQ_DEBUG, 77), -ENOENT);
    check_equal(evtchn_bind_ipi(77), -ENOENT);
    check_equal(event_channel_op(EVTCHNOP_bind_vcpu, &move), -ENOENT);
    check_equal(event_channel_op(EVTCHNOP_bind_ipi, NULL), -EFAULT);
    check_equal(event_channel_op(999, &move), -ENOSYS);
}

void guest_main(void)
{
    masks();
    loopback();
    many();
    polls();
    blocks();
    refusals();
    print("SUCCESS\n");
}
