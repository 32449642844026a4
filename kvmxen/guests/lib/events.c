/* Event channels, the 2-level way (xen/include/public/event_channel.h). */
#include "guest.h"

static event_handler handlers[NR_PORTS];
static u8 owner[NR_PORTS]; /* the vCPU that a port notifies: its word's bits are all vCPUs' */
extern char event_entry[];

void upcall(void);

static void set_bit(u64 *words, u32 bit)
{
    __atomic_or_fetch(&words[bit / 64], 1ul << bit % 64, __ATOMIC_SEQ_CST);
}

static void clear_bit(u64 *words, u32 bit)
{
    __atomic_and_fetch(&words[bit / 64], ~(1ul << bit % 64), __ATOMIC_SEQ_CST);
}

void upcall(void)
{
    struct vcpu_info *vcpu = this_vcpu();
    while (__atomic_exchange_n(&vcpu->evtchn_upcall_pending, 0, __ATOMIC_SEQ_CST)) {
        u64 selected = __atomic_exchange_n(&vcpu->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
        for (; selected; selected &= selected - 1) {
            u32 word = (u32)__builtin_ctzl(selected);
            u64 ready = READ_ONCE(shared_info->evtchn_pending[word]) &
                        ~READ_ONCE(shared_info->evtchn_mask[word]);
            for (; ready; ready &= ready - 1) {
                evtchn_port_t port = word * 64 + (u32)__builtin_ctzl(ready);
                if (owner[port] != this_cpu())
                    continue;
                event_clear(port);
                if (handlers[port])
                    handlers[port](port);
            }
        }
    }
}

void events_init(void)
{
    memset(shared_info->evtchn_mask, 0xff, sizeof shared_info->evtchn_mask);
    struct callback_register callback = {CALLBACKTYPE_event, 0, (u64)event_entry};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
}

void upcalls_off(void)
{
    WRITE_ONCE(this_vcpu()->evtchn_upcall_mask, 1);
    barrier();
}

void upcalls_on(void)
{
    struct vcpu_info *vcpu = this_vcpu();
    barrier();
    WRITE_ONCE(vcpu->evtchn_upcall_mask, 0);
    barrier();
    if (READ_ONCE(vcpu->evtchn_upcall_pending))
        xen_version(XENVER_version, NULL); /* any hypercall returns through a delivery */
}

/* What a bind returns: the port, which notifies `vcpu`, or -errno. */
static long bound(long error, evtchn_port_t port, u32 vcpu)
{
    if (error)
        return error;
    check(port < NR_PORTS);
    owner[port] = (u8)vcpu;
    return port;
}

long evtchn_bind_virq(u32 virq, u32 vcpu)
{
    struct evtchn_bind_virq arg = {virq, vcpu, 0};
    long error = event_channel_op(EVTCHNOP_bind_virq, &arg);
    return bound(error, arg.port, vcpu);
}

long evtchn_bind_ipi(u32 vcpu)
{
    struct evtchn_bind_ipi arg = {vcpu, 0};
    long error = event_channel_op(EVTCHNOP_bind_ipi, &arg);
    return bound(error, arg.port, vcpu);
}

long evtchn_alloc_unbound(u32 remote_domid)
{
    struct evtchn_alloc_unbound arg = {DOMID_SELF, (u16)remote_domid, 0};
    long error = event_channel_op(EVTCHNOP_alloc_unbound, &arg);
    return bound(error, arg.port, 0);
}

long evtchn_bind_interdomain(u32 remote_domid, evtchn_port_t remote)
{
    struct evtchn_bind_interdomain arg = {(u16)remote_domid, remote, 0};
    long error = event_channel_op(EVTCHNOP_bind_interdomain, &arg);
    return bound(error, arg.local_port, this_cpu());
}

long evtchn_send(evtchn_port_t port)
{
    struct evtchn_port arg = {port};
    return event_channel_op(EVTCHNOP_send, &arg);
}

long evtchn_unmask(evtchn_port_t port)
{
    struct evtchn_port arg = {port};
    return event_channel_op(EVTCHNOP_unmask, &arg);
}

long evtchn_close(evtchn_port_t port)
{
    struct evtchn_port arg = {port};
    return event_channel_op(EVTCHNOP_close, &arg);
}

void event_handle(evtchn_port_t port, event_handler handler)
{
    handlers[port] = handler;
    check_equal(evtchn_unmask(port), 0);
}

void event_mask(evtchn_port_t port)
{
    set_bit(shared_info->evtchn_mask, port);
}

bool event_is_pending(evtchn_port_t port)
{
    return READ_ONCE(shared_info->evtchn_pending[port / 64]) >> port % 64 & 1;
}

void event_clear(evtchn_port_t port)
{
    clear_bit(shared_info->evtchn_pending, port);
}
