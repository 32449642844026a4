/* A network frontend that lies: rings that cannot be, packets without an end, grants that are
 * revoked, a storm of events. The backend closes its side of what it cannot serve, answers the rest
 * with errors, and serves the next that connects. */
#include "guest.h"

#define SLOTS 256
#define TX_REF 8
#define RX_REF 9
#define DATA_REF 10

struct tx_request {
    u32 gref;
    u16 offset, flags, id, size;
};

struct tx_response {
    u16 id;
    short status;
};

static char tx_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static char rx_page[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static char data[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
static volatile struct sring *const tx = (void *)tx_page;
static evtchn_port_t port;
static struct xenbus_device vif;

static void put(const char *key, u32 value)
{
    xenbus_put(&vif, key, value);
}

static void ignore(evtchn_port_t unused)
{
    (void)unused;
}

static volatile struct tx_request *slot(u32 index)
{
    return (void *)(tx_page + RING_ENTRIES + index % SLOTS * sizeof(struct tx_request));
}

static volatile struct tx_response *answer(u32 index)
{
    return (void *)slot(index);
}

/* Rings from `start` on, and the nodes of a driver that means well. */
static void prepare(u32 start)
{
    xenbus_await(&vif, XenbusStateInitWait);
    memset(tx_page, 0, sizeof tx_page);
    memset(rx_page, 0, sizeof rx_page);
    tx->req_prod = tx->rsp_prod = start;
    tx->req_event = tx->rsp_event = start + 1;
    grant_page(TX_REF, 0, tx_page, GTF_permit_access);
    grant_page(RX_REF, 0, rx_page, GTF_permit_access);
    grant_page(DATA_REF, 0, data, GTF_permit_access | GTF_readonly);
    long opened = evtchn_alloc_unbound(0);
    check(opened > 0);
    port = (evtchn_port_t)opened;
    event_handle(port, ignore);
    put("request-rx-copy", 1);
    put("tx-ring-ref", TX_REF);
    put("rx-ring-ref", RX_REF);
    put("event-channel", port);
}

static void connect(u32 start)
{
    prepare(start);
    put("state", XenbusStateConnected);
    xenbus_await(&vif, XenbusStateConnected);
}

/* From whatever there is to the beginning. */
static void end(void)
{
    put("state", XenbusStateClosed);
    xenbus_await(&vif, XenbusStateClosed);
    check_equal(grants[TX_REF].flags, GTF_permit_access);
    check_equal(grants[RX_REF].flags, GTF_permit_access);
    event_mask(port);
    check_equal(evtchn_close(port), 0);
    put("state", XenbusStateInitialising);
}

static void kick(u32 produced)
{
    store_release(&tx->req_prod, produced);
    check_equal(evtchn_send(port), 0);
}

static void request(u32 index, u32 gref, u16 offset, u16 flags, u16 size)
{
    volatile struct tx_request *to = slot(index);
    to->gref = gref;
    to->offset = offset;
    to->flags = flags;
    to->id = (u16)index;
    to->size = size;
}

static void answered(u32 upto, short status)
{
    u64 limit = now() + PATIENCE;
    while (load_acquire(&tx->rsp_prod) != upto)
        if (now() > limit)
            fail("%u responses, not %u", tx->rsp_prod, upto);
    check_equal(answer(upto - 1)->id, (upto - 1) & 0xffff);
    check_equal(answer(upto - 1)->status, status);
}

static void rings_that_are_none(void)
{
    static const struct {
        const char *key;
        u32 value;
    } lies[] = {{"tx-ring-ref", 7}, {"rx-ring-ref", 0x7fffffff}, {"event-channel", 4000},
                {"request-rx-copy", 0}, {"multi-queue-num-queues", 99}};
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        prepare(0);
        put(lies[i].key, lies[i].value);
        put("state", XenbusStateConnected);
        xenbus_await(&vif, XenbusStateClosing);
        end();
        put("multi-queue-num-queues", 1);
    }
}

static void rings_that_break(void)
{
    static const u32 starts[] = {0, 0xfffffff0};
    for (size_t i = 0; i < ARRAY_SIZE(starts); i++) {
        connect(starts[i]);
        kick(starts[i] + SLOTS + 1);
        xenbus_await(&vif, XenbusStateClosing);
        end();
        connect(starts[i]);
        request(starts[i], DATA_REF, 0, NETTXF_more_data, 60);
        kick(starts[i] + 1);
        xenbus_await(&vif, XenbusStateClosing);
        end();
        connect(starts[i]);
        request(starts[i], DATA_REF, 0, NETTXF_extra_info, 60);
        kick(starts[i] + 1);
        xenbus_await(&vif, XenbusStateClosing);
        end();
    }
}

static void packets_that_are_none(void)
{
    u32 at = 0xffffff80;
    connect(at);
    static const struct tx_request lies[] = {
        {DATA_REF, 0, 0, 0, 0},       {DATA_REF, 0, 0, 0, 13},    {DATA_REF, 4090, 0, 0, 60},
        {DATA_REF, 0xffff, 0, 0, 60}, {DATA_REF, 0, 0, 0, 0xffff}, {11, 0, 0, 0, 60},
        {0xffffffff, 0, 0, 0, 60},    {DATA_REF, 0, 1, 0, 60},
    };
    for (u32 round = 0; round < 40; round++)
        for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
            request(at, lies[i].gref, lies[i].offset, lies[i].flags, lies[i].size);
            kick(++at);
            answered(at, -1);
        }
    for (u32 i = 0; i < 2000; i++)
        check_equal(evtchn_send(port), 0);
    request(at, DATA_REF, 100, 0, 60);
    kick(++at);
    answered(at, 0);
    check_equal(grants[DATA_REF].flags, GTF_permit_access | GTF_readonly);
    check(xenbus_is(&vif, XenbusStateConnected));
    end();
}

/* A ring whose grant is taken back under the backend: it keeps what it has mapped. */
static void revoked(void)
{
    connect(0);
    check_equal(grants[TX_REF].flags, GTF_permit_access | GTF_reading | GTF_writing);
    grants[TX_REF].flags = 0;
    request(0, DATA_REF, 0, 0, 60);
    kick(1);
    answered(1, 0);
    grants[DATA_REF].flags = 0;
    request(1, DATA_REF, 0, 0, 60);
    kick(2);
    answered(2, -1);
    put("state", XenbusStateClosed);
    xenbus_await(&vif, XenbusStateClosed);
    check_equal(grants[TX_REF].flags, 0);
}

void guest_main(void)
{
    xenstore_init();
    grants_init();
    xenbus_find(&vif, "device/vif/0");
    rings_that_are_none();
    rings_that_break();
    packets_that_are_none();
    revoked();
    print("SUCCESS\n");
}
