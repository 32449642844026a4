/* An upcall that ends by sending its own event again, as PREEMPT_RT kernels of Linux do: the code
 * below it goes on only if the upcall is kept back once. Each of its hypercalls brings the next. */
#include "guest.h"

#define TURNS 20

extern char loop_entry[];
void upcall(void);
void loop_upcall(void);

static evtchn_port_t port;
static volatile bool looping;
static u64 upcalls;

void loop_upcall(void)
{
    upcall();
    upcalls++;
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
