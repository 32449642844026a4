/* Requests whose fields are out of range. */
#include "blkfront.h"

static const u8 transfers[] = {BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER};

static void sectors(u8 operation)
{
    static const struct {
        u64 sector;
        u8 first, last;
    } lies[] = {
        {0, 5, 4},           {0, 0, 8},           {0, 0, 255},
        {0, 255, 255},       {0, 8, 8},           {SECTORS, 0, 0},
        {SECTORS - 7, 0, 7}, {1ul << 55, 0, 7},   {1ul << 63, 0, 7},
        {~0ul, 0, 0},        {~0ul - 3, 0, 7},    {~0ul - 7, 0, 7},
    };
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        union request request =
            rw(operation, lies[i].sector, 1,
               (struct blkif_request_segment){SCRATCH_REF, lies[i].first, lies[i].last});
        check_equal(submit(&request), BLKIF_RSP_ERROR);
    }
}

static void counts(u8 operation)
{
    static const u8 lies[] = {0, BLKIF_MAX_SEGMENTS_PER_REQUEST + 1, 255};
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        /* A barrier of nothing is one. */
        if (operation == BLKIF_OP_WRITE_BARRIER && !lies[i])
            continue;
        union request request = rw(operation, 0, lies[i], DATA);
        check_equal(submit(&request), BLKIF_RSP_ERROR);
    }
}

static void operations_that_are_none(void)
{
    static const u8 lies[] = {4, 7, 99, 255};
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        union request request = rw(lies[i], 0, 1, DATA);
        check_equal(submit(&request), BLKIF_RSP_EOPNOTSUPP);
    }
}

static void discards(void)
{
    static const struct {
        u64 sector, count;
        u8 flag;
        short status;
    } lies[] = {
        {0, 8, 1, BLKIF_RSP_EOPNOTSUPP},
        {0, 0, 0, BLKIF_RSP_ERROR},
        {SECTORS, 1, 0, BLKIF_RSP_ERROR},
        {SECTORS - 1, 2, 0, BLKIF_RSP_ERROR},
        {1, ~0ul, 0, BLKIF_RSP_ERROR},
        {~0ul, 2, 0, BLKIF_RSP_ERROR},
        {1ul << 55, 1ul << 55, 0, BLKIF_RSP_ERROR},
    };
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        union request request = {.discard = {BLKIF_OP_DISCARD, lies[i].flag, 0, 0,
                                             lies[i].sector, lies[i].count}};
        check_equal(submit(&request), lies[i].status);
    }
}

void requests_that_lie(void)
{
    connect(0xffffffe0, false);
    for (size_t i = 0; i < ARRAY_SIZE(transfers); i++) {
        sectors(transfers[i]);
        counts(transfers[i]);
        check_serves();
    }
    operations_that_are_none();
    discards();
    check_serves();
    disconnect();
}
