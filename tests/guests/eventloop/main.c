/* An upcall that ends by sending its own event again, as PREEMPT_RT kernels of Linux do: the code
 * below it goes on only if the upcall is kept back once. Each of its hypercalls brings the next.
 * With flood=N, N events come from outside instead, each before the upcall of the last one ends. */
#include "guest.h"

#define TURNS 20

extern char loop_entry[];
void upcall(void);
void loop_upcall(void);

static evtchn_port_t port;
static volatile bool looping;
static u64 upcalls, flood;

/* As another vCPU or a backend sends it. */
static void arrive(void)
{
    struct vcpu_info *vcpu = this_vcpu();

    shared_info->evtchn_pending[port / 64] |= 1ul << port % 64;
    vcpu->evtchn_pending_sel |= 1ul << port / 64;
    WRITE_ONCE(vcpu->evtchn_upcall_pending, 1);
}

void loop_upcall(void)
{
    upcall();
    upcalls++;
    if (flood) {
        flood--;
        arrive();
    }
    if (looping)
        check_equal(evtchn_send(port), 0);
}

static void ignore(evtchn_port_t unused)
{
    (void)unused;
}

void guest_main(void)
{
    long bound = evtchn_bind_ipi(0);

    check(bound > 0);
    port = (evtchn_port_t)bound;
    struct callback_register callback = {CALLBACKTYPE_event, 0, (u64)loop_entry};
    check_equal(callback_op(CALLBACKOP_register, &callback), 0);
    event_handle(port, ignore);
    u64 events = flood = option("flood", 0);
    if (events) {
        check_equal(evtchn_send(port), 0);
        check_equal(upcalls, events + 1);
        print("SUCCESS\n");
        return;
    }
    print("looping\n");
    looping = true;
    check_equal(evtchn_send(port), 0);
    for (u32 turn = 0; turn < TURNS; turn++)
        xen_version(XENVER_version, NULL);
    looping = false;
    upcalls_off();
    /* Sixteen in a row are needed before one is kept back. */
    check(upcalls >= 16 * TURNS);
    print("SUCCESS\n");
}
