/* Fields that change between a backend's looks at them, if it looks twice: another vCPU has them
 * be honest and a lie in turn. */
#include "blkfront.h"

static struct blkif_request_segment *const segments = (void *)indirect_page;

/* Each lie is followed by what is honest. */
static bool lies(u32 turn)
{
    return !(turn & 1);
}

/* One of its fields, another one in each second turn. */
static void flip_segment(struct blkif_request_segment *segment, u32 turn)
{
    bool lie = lies(turn);
    switch (turn / 2 % 3) {
    case 0:
        WRITE_ONCE(segment->gref, lie ? ~0u : DATA_REF);
        break;
    case 1:
        WRITE_ONCE(segment->first_sect, lie ? 200 : 0);
        break;
    default:
        WRITE_ONCE(segment->last_sect, lie ? 255 : 7);
    }
}

/* What of a request is not also its response. */
static void flip_segments(u32 turn)
{
    for (u32 i = 0; i < SLOTS; i++)
        flip_segment(&slot(i)->rw.seg[0], turn);
}

static void flip_sectors(u32 turn)
{
    for (u32 i = 0; i < SLOTS; i++)
        WRITE_ONCE(slot(i)->rw.sector_number, lies(turn) ? ~0ul - 3 : 0);
}

static void flip_headers(u32 turn)
{
    static const u8 operations[] = {BLKIF_OP_INDIRECT, 255, BLKIF_OP_WRITE};
    for (u32 i = 0; i < SLOTS; i++) {
        struct blkif_request *request = &slot(i)->rw;
        if (turn & 2)
            WRITE_ONCE(request->nr_segments, lies(turn) ? 255 : 1);
        else
            WRITE_ONCE(request->operation,
                       lies(turn) ? operations[i % ARRAY_SIZE(operations)] : BLKIF_OP_READ);
    }
}

static void flip_indirect_page(u32 turn)
{
    for (u32 i = 0; i < INDIRECT_SEGMENTS; i++)
        flip_segment(&segments[i], turn);
}

static void flip_grant(u32 turn)
{
    if (turn & 2)
        grants[DATA_REF].frame = lies(turn) ? ~0u : (u32)va_to_mfn(data);
    else
        grants[DATA_REF].flags = lies(turn) ? 0 : GTF_permit_access;
}

static void flip_index(u32 turn)
{
    u32 produced = READ_ONCE(sring->rsp_prod);
    WRITE_ONCE(sring->req_prod, produced + (lies(turn) ? SLOTS + 1 : 0));
}

static void race(void (*flip)(u32 turn), const union request *request, bool look)
{
    connect(0xffffff00, false);
    mutator_begin(flip);
    pump(request, (u32)option("requests", 20000), look);
    mutator_end();
    grant_page(DATA_REF, 0, data, GTF_permit_access);
    check_serves();
    disconnect();
}

static void race_for_the_index(void)
{
    connect(0, false);
    check_serves();
    mutator_begin(flip_index);
    u64 end = now() + PATIENCE;
    while (!xenbus_is(&vbd, XenbusStateClosing)) {
        check_equal(evtchn_send(port), 0);
        check(now() < end);
    }
    mutator_end();
    refused();
}

void fields_that_change(void)
{
    union request request = rw(BLKIF_OP_READ, 0, 1, DATA);
    race(flip_segments, &request, true);
    race(flip_sectors, &request, true);
    race(flip_headers, &request, false);
    race(flip_grant, &request, true);
    for (u32 i = 0; i < INDIRECT_SEGMENTS; i++)
        segments[i] = DATA;
    request = indirect(BLKIF_OP_READ, 0, 7, INDIRECT_REF);
    race(flip_indirect_page, &request, true);
    race_for_the_index();
}
