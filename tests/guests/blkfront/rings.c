/* Indices that cannot be, a storm of events, a ring that goes away under its backend. */
#include "blkfront.h"

#define EVENTS 1000

static void indices_that_cannot_be(u32 start)
{
    static const u32 surplus[] = {SLOTS + 1, 1000, 1u << 31, (u32)-1};
    for (size_t i = 0; i < ARRAY_SIZE(surplus); i++) {
        connect(start, false);
        check_serves();
        kick(sring->rsp_prod + surplus[i]);
        refused();
    }
    connect(start, false);
    check_serves();
    disconnect();
}

/* What is the backend's to write is nothing that it reads. */
static void indices_of_the_backend(void)
{
    connect(0, false);
    sring->rsp_prod = 12345;
    sring->req_event = 12345;
    sring->rsp_event = 0x80000000;
    check_serves();
    disconnect();
}

static void send(u32 turn)
{
    (void)turn;
    for (u32 i = 0; i < 10; i++)
        check_equal(evtchn_send(port), 0);
}

static void storm(void)
{
    connect(0, false);
    mutator_begin(send);
    for (u32 i = 0; i < EVENTS; i++)
        check_equal(evtchn_send(port), 0);
    check_serves();
    mutator_end();
    check_serves();
    disconnect();
}

/* The backend keeps what it has mapped, and answers with nothing that rings. */
static void taken_away(void)
{
    connect(0, false);
    check_equal(grants[RING_REF].flags, GTF_permit_access | GTF_reading | GTF_writing);
    grants[RING_REF].flags = 0;
    check_serves();
    disconnect();
    check_equal(grants[RING_REF].flags, 0);
}

/* The end comes amid requests: what was begun is finished before anything is given back. */
static void an_end_amid_requests(void)
{
    connect(0xfffffff0, false);
    union request request = rw(BLKIF_OP_READ, 0, BLKIF_MAX_SEGMENTS_PER_REQUEST, DATA);
    for (u32 i = 0; i < SLOTS; i++)
        enqueue(&request);
    kick(0xfffffff0 + SLOTS);
    disconnect();
}

void rings_that_lie(void)
{
    indices_that_cannot_be(0);
    indices_that_cannot_be(0xfffffff9);
    indices_of_the_backend();
    storm();
    taken_away();
    an_end_amid_requests();
}
