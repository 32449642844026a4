/* A xenstore client on the ring of start_info.store_mfn (xen/include/public/io/xs_wire.h). */
#include "guest.h"

#define QUEUED_EVENTS 8
#define EVENT_BYTES 256

char xs_error[32];

static struct xenstore_domain_interface *ring;
static u32 last_request;
static char events[QUEUED_EVENTS][EVENT_BYTES]; /* "path\0token\0" each, empty when path is "" */

static void ignore(evtchn_port_t port)
{
    (void)port; /* the upcall itself ends SCHEDOP_block */
}

void xenstore_init(void)
{
    ring = mfn_to_va(start_info->store_mfn);
    if (!ring)
        fail("the xenstore page, mfn %#lx, is not in the start-of-day mapping",
             start_info->store_mfn);
    event_handle(start_info->store_evtchn, ignore);
}

static bool can_write(void)
{
    return ring->req_prod - load_acquire(&ring->req_cons) < XENSTORE_RING_SIZE;
}

static bool can_read(void)
{
    return load_acquire(&ring->rsp_prod) != ring->rsp_cons;
}

static void put(const void *bytes, size_t count)
{
    for (const char *byte = bytes; count; count--, byte++) {
        if (!can_write()) {
            evtchn_send(start_info->store_evtchn);
            if (!wait_for(can_write, PATIENCE))
                fail("xenstore does not take a request");
        }
        u32 producer = ring->req_prod;
        ring->req[producer % XENSTORE_RING_SIZE] = *byte;
        store_release(&ring->req_prod, producer + 1);
    }
}

/* `size` bytes of `to` are written at most; what is left of `count` is read and dropped. */
static void get(void *to, size_t size, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!can_read()) {
            evtchn_send(start_info->store_evtchn);
            if (!wait_for(can_read, PATIENCE))
                fail("xenstore does not answer");
        }
        u32 consumer = ring->rsp_cons;
        char byte = ring->rsp[consumer % XENSTORE_RING_SIZE];
        if (i < size)
            ((char *)to)[i] = byte;
        store_release(&ring->rsp_cons, consumer + 1);
    }
}

static void queue_event(u32 bytes)
{
    for (u32 i = 0; i < QUEUED_EVENTS; i++)
        if (!events[i][0]) {
            memset(events[i], 0, EVENT_BYTES);
            return get(events[i], EVENT_BYTES - 2, bytes);
        }
    fail("more than %d watch events are waiting", QUEUED_EVENTS);
}

static void get_header(struct xsd_sockmsg *header)
{
    get(header, sizeof *header, sizeof *header);
    if (header->len > XENSTORE_PAYLOAD_MAX)
        fail("xenstore sends %u bytes at once", header->len);
}

long xs_request(u32 type, u32 tx, const char *payload, size_t bytes, char *reply, size_t size)
{
    struct xsd_sockmsg header = {type, ++last_request, tx, (u32)bytes};
    put(&header, sizeof header);
    put(payload, bytes);
    for (;;) {
        get_header(&header);
        if (header.type != XS_WATCH_EVENT)
            break;
        queue_event(header.len);
    }
    if (header.req_id != last_request)
        fail("xenstore answers request %u, not %u", header.req_id, last_request);
    bool failed = header.type == XS_ERROR;
    if (!failed && header.type != type)
        fail("xenstore answers type %u to a request of type %u", header.type, type);
    if (failed) {
        memset(xs_error, 0, sizeof xs_error);
        get(xs_error, sizeof xs_error - 1, header.len);
    } else {
        get(reply, size, header.len);
    }
    evtchn_send(start_info->store_evtchn); /* there is room for replies again */
    return failed ? XS_FAILED : (long)header.len;
}

static long request_path(u32 type, u32 tx, const char *path, char *to, size_t size)
{
    long length = xs_request(type, tx, path, strlen(path) + 1, to, size - 1);
    if (length >= 0)
        to[(size_t)length < size ? (size_t)length : size - 1] = '\0';
    return length;
}

long xs_read(u32 tx, const char *path, char *to, size_t size)
{
    return request_path(XS_READ, tx, path, to, size);
}

long xs_directory(u32 tx, const char *path, char *to, size_t size)
{
    return request_path(XS_DIRECTORY, tx, path, to, size);
}

/* Two strings, the second with its NUL or without. */
static bool request_pair(u32 type, u32 tx, const char *a, const char *b, bool terminated)
{
    char payload[512], reply[4];
    int length = format(payload, sizeof payload, "%s%c%s", a, 0, b);
    check((size_t)length < sizeof payload);
    return xs_request(type, tx, payload, (size_t)length + terminated, reply, sizeof reply) >= 0;
}

bool xs_write(u32 tx, const char *path, const char *value)
{
    return request_pair(XS_WRITE, tx, path, value, false);
}

bool xs_watch(const char *path, const char *token)
{
    return request_pair(XS_WATCH, XS_NO_TRANSACTION, path, token, true);
}

bool xs_unwatch(const char *path, const char *token)
{
    return request_pair(XS_UNWATCH, XS_NO_TRANSACTION, path, token, true);
}

bool xs_rm(u32 tx, const char *path)
{
    char reply[4];
    return request_path(XS_RM, tx, path, reply, sizeof reply) >= 0;
}

u32 xs_transaction_start(void)
{
    char reply[16];
    if (request_path(XS_TRANSACTION_START, XS_NO_TRANSACTION, "", reply, sizeof reply) < 0)
        fail("xenstore refuses a transaction: %s", xs_error);
    u32 tx = 0;
    for (const char *digit = reply; *digit >= '0' && *digit <= '9'; digit++)
        tx = tx * 10 + (u32)(*digit - '0');
    return tx;
}

bool xs_transaction_end(u32 tx, bool commit)
{
    char reply[4];
    return request_path(XS_TRANSACTION_END, tx, commit ? "T" : "F", reply, sizeof reply) >= 0;
}

static bool take_event(const char *path, const char *token)
{
    for (u32 i = 0; i < QUEUED_EVENTS; i++)
        if (!strcmp(events[i], path) && !strcmp(events[i] + strlen(path) + 1, token)) {
            events[i][0] = '\0';
            return true;
        }
    return false;
}

bool xs_watch_fires(const char *path, const char *token, u64 timeout_ns)
{
    while (!take_event(path, token)) {
        struct xsd_sockmsg header;
        if (!wait_for(can_read, timeout_ns))
            return false;
        get_header(&header);
        if (header.type != XS_WATCH_EVENT)
            fail("xenstore sends type %u unasked", header.type);
        queue_event(header.len);
        evtchn_send(start_info->store_evtchn);
    }
    return true;
}
