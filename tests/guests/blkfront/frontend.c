/* The driver's part: the ring, the nodes, requests and their responses. */
#include "blkfront.h"

/* No byte of it is 0 where a response has its padding. */
#define ID(number) (0xabababab0000abab | (u64)(u16)(number) << 16)
#define ID_NUMBER(id) ((u16)((id) >> 16))
#define CANARY 0x55

char ring_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
char indirect_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
char pages[5][PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
struct xenbus_device vbd;
evtchn_port_t port;

static char *const scratch = pages[3];
static u32 req_prod, rsp_cons;
/* Which of as many ids as there are slots wait for a response, and what they are now. */
static u32 waiting;
static u64 ids[SLOTS];

static void ignore(evtchn_port_t unused)
{
    (void)unused;
}

void frontend_init(void)
{
    xenbus_find(&vbd, "device/vbd/51712");
    memset(pages, CANARY, sizeof pages);
}

void prepare(u32 start, bool persistent)
{
    xenbus_await(&vbd, XenbusStateInitWait);
    memset(ring_page, 0xee, sizeof ring_page);
    waiting = 0;
    req_prod = rsp_cons = start;
    sring->req_prod = sring->rsp_prod = start;
    sring->req_event = sring->rsp_event = start + 1;
    grant_page(RING_REF, 0, ring_page, GTF_permit_access);
    grant_page(DATA_REF, 0, data, GTF_permit_access);
    grant_page(SCRATCH_REF, 0, scratch, GTF_permit_access);
    grant_page(INDIRECT_REF, 0, indirect_page, GTF_permit_access);
    long opened = evtchn_alloc_unbound(0);
    check(opened > 0);
    port = (evtchn_port_t)opened;
    event_handle(port, ignore);
    xenbus_say(&vbd, "protocol", "x86_64-abi");
    xenbus_put(&vbd, "ring-page-order", 0);
    xenbus_put(&vbd, "num-ring-pages", 1);
    xenbus_put(&vbd, "multi-queue-num-queues", 1);
    xenbus_put(&vbd, "feature-persistent", persistent);
    xenbus_put(&vbd, "ring-ref", RING_REF);
    xenbus_put(&vbd, "event-channel", port);
}

void connect(u32 start, bool persistent)
{
    prepare(start, persistent);
    xenbus_put(&vbd, "state", XenbusStateInitialised);
    xenbus_await(&vbd, XenbusStateConnected);
}

void refused(void)
{
    xenbus_await(&vbd, XenbusStateClosing);
    disconnect();
}

void disconnect(void)
{
    xenbus_put(&vbd, "state", XenbusStateClosed);
    xenbus_await(&vbd, XenbusStateClosed);
    for (u32 ref = RING_REF; ref <= NO_REF; ref++)
        check_equal(grants[ref].flags & (GTF_reading | GTF_writing), 0);
    event_mask(port);
    check_equal(evtchn_close(port), 0);
    xenbus_put(&vbd, "state", XenbusStateInitialising);
}

union request *slot(u32 index)
{
    return (union request *)(ring_page + RING_ENTRIES) + index % SLOTS;
}

void kick(u32 produced)
{
    store_release(&sring->req_prod, produced);
    check_equal(evtchn_send(port), 0);
}

void enqueue(const union request *request)
{
    static u16 round;
    u32 free = (u32)__builtin_ctz(~waiting);
    union request *to = slot(req_prod++);
    memcpy(to, request, sizeof *to);
    to->rw.id = ids[free] = ID(round++ * SLOTS + free);
    waiting |= 1u << free;
}

static const struct blkif_response *response(u32 index)
{
    return (void *)slot(index);
}

static bool is_okay(const struct blkif_response *found)
{
    u32 which = ID_NUMBER(found->id) % SLOTS;
    check(waiting & 1u << which);
    check_equal(found->id, ids[which]);
    waiting &= ~(1u << which);
    check_equal(found->padding, 0);
    check_equal(found->more_padding, 0);
    check(found->status <= BLKIF_RSP_OKAY && found->status >= BLKIF_RSP_EOPNOTSUPP);
    return found->status == BLKIF_RSP_OKAY;
}

/* Takes the responses that are there: how many are okay. */
static u32 take(bool look)
{
    u32 okay = 0;
    for (u32 end = load_acquire(&sring->rsp_prod); rsp_cons != end; rsp_cons++)
        okay += look && is_okay(response(rsp_cons));
    return okay;
}

static void check_time(u64 end)
{
    if (now() > end)
        fail("%u requests have no response", req_prod - rsp_cons);
}

u32 complete(void)
{
    kick(req_prod);
    for (u64 end = now() + PATIENCE; load_acquire(&sring->rsp_prod) != req_prod;)
        check_time(end);
    return take(true);
}

/* As kick(), but with an event only where the backend asks for one. */
static void push(void)
{
    u32 old = sring->req_prod;
    __atomic_store_n(&sring->req_prod, req_prod, __ATOMIC_SEQ_CST);
    if (req_prod - __atomic_load_n(&sring->req_event, __ATOMIC_SEQ_CST) < req_prod - old)
        check_equal(evtchn_send(port), 0);
}

void pump(const union request *request, u32 count, bool look)
{
    u64 end = now() + PATIENCE;
    while (count || rsp_cons != req_prod) {
        u32 more = SLOTS - (req_prod - rsp_cons);
        for (more = more < count ? more : count; more; more--, count--) {
            if (!look)
                waiting = 0;
            enqueue(request);
        }
        push();
        u32 before = rsp_cons;
        take(look);
        if (rsp_cons != before)
            end = now() + PATIENCE;
        check_time(end);
    }
    waiting = 0;
}

short submit(const union request *request)
{
    enqueue(request);
    complete();
    u8 operation = request->rw.operation == BLKIF_OP_INDIRECT ? request->indirect.indirect_op
                                                              : request->rw.operation;
    check_equal(response(req_prod - 1)->operation, operation);
    return response(req_prod - 1)->status;
}

union request rw(u8 operation, u64 sector, u8 count, struct blkif_request_segment segment)
{
    union request made = {.rw = {operation, count, 0, 0, sector, {}}};
    for (u32 i = 0; i < BLKIF_MAX_SEGMENTS_PER_REQUEST; i++)
        made.rw.seg[i] = segment;
    return made;
}

union request indirect(u8 operation, u64 sector, u16 count, u32 gref)
{
    return (union request){
        .indirect = {BLKIF_OP_INDIRECT, operation, count, 0, 0, sector, {gref}}};
}

static void check_filled(const char *page, int byte)
{
    for (u32 i = 0; i < PAGE_SIZE; i++)
        check_equal((u8)page[i], byte);
}

void check_serves(void)
{
    static u8 round;
    const struct blkif_request_segment segment = {SCRATCH_REF, 0, 7};
    union request request = rw(BLKIF_OP_WRITE, SCRATCH, 1, segment);
    memset(scratch, ++round, PAGE_SIZE);
    check_equal(submit(&request), BLKIF_RSP_OKAY);
    request = rw(BLKIF_OP_FLUSH_DISKCACHE, 0, 0, segment);
    check_equal(submit(&request), BLKIF_RSP_OKAY);
    request = rw(BLKIF_OP_READ, 0, 1, segment);
    check_equal(submit(&request), BLKIF_RSP_OKAY);
    check_filled(scratch, FILL);
    request = rw(BLKIF_OP_READ, SCRATCH, 1, segment);
    check_equal(submit(&request), BLKIF_RSP_OKAY);
    check_filled(scratch, round);
    for (u32 i = 0; i < 5; i += 2)
        check_filled(pages[i], CANARY);
    check(xenbus_is(&vbd, XenbusStateConnected));
}
