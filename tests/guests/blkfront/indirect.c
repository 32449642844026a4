/* Segments in a page of their own that are none, and requests that say wrong things of it. */
#include "blkfront.h"

static struct blkif_request_segment *const segments = (void *)indirect_page;

static void requests_of_indirect_pages(void)
{
    static const struct {
        u8 operation;
        u16 count;
        u32 gref;
    } lies[] = {
        {BLKIF_OP_READ, 0, INDIRECT_REF},
        {BLKIF_OP_READ, INDIRECT_SEGMENTS + 1, INDIRECT_REF},
        {BLKIF_OP_WRITE, 0xffff, INDIRECT_REF},
        {BLKIF_OP_WRITE_BARRIER, 1, INDIRECT_REF},
        {BLKIF_OP_FLUSH_DISKCACHE, 1, INDIRECT_REF},
        {BLKIF_OP_DISCARD, 1, INDIRECT_REF},
        {BLKIF_OP_INDIRECT, 1, INDIRECT_REF},
        {255, 1, INDIRECT_REF},
        {BLKIF_OP_READ, 1, NO_REF},
        {BLKIF_OP_WRITE, 1, 40000},
        {BLKIF_OP_WRITE, 1, ~0u},
    };
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        union request request = indirect(lies[i].operation, 0, lies[i].count, lies[i].gref);
        check_equal(submit(&request), BLKIF_RSP_ERROR);
    }
}

static void fill(struct blkif_request_segment segment)
{
    for (u32 i = 0; i < INDIRECT_SEGMENTS; i++)
        segments[i] = segment;
}

/* One segment of many lies: those before it are let go of again. */
static void segments_that_lie(void)
{
    static const struct blkif_request_segment lies[] = {
        {NO_REF, 0, 7},   {40000, 0, 7},    {~0u, 0, 7},      {DATA_REF, 4, 3},
        {DATA_REF, 0, 8}, {DATA_REF, 0, 255}, {DATA_REF, 255, 255},
    };
    static const u32 places[] = {0, 100, INDIRECT_SEGMENTS - 2};
    for (size_t i = 0; i < ARRAY_SIZE(lies) * ARRAY_SIZE(places); i++) {
        fill((struct blkif_request_segment){DATA_REF, 0, 0});
        segments[places[i % ARRAY_SIZE(places)]] = lies[i / ARRAY_SIZE(places)];
        union request request = indirect(BLKIF_OP_READ, 0, INDIRECT_SEGMENTS - 1, INDIRECT_REF);
        check_equal(submit(&request), BLKIF_RSP_ERROR);
        check_equal(grants[DATA_REF].flags, GTF_permit_access);
    }
}

void indirect_pages_that_lie(void)
{
    connect(0, false);
    fill((struct blkif_request_segment){DATA_REF, 0, 0});
    requests_of_indirect_pages();
    segments_that_lie();
    fill((struct blkif_request_segment){DATA_REF, 0, 0});
    union request request = indirect(BLKIF_OP_READ, 0, 200, INDIRECT_REF);
    check_equal(submit(&request), BLKIF_RSP_OKAY);
    check_equal((u8)data[511], FILL);
    check_serves();
    disconnect();
}
