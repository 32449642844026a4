/* Grants that are none, that are taken back, that do not allow what they are used for, that are
 * used more often than there are pins. */
#include "blkfront.h"

static short use(u8 operation, u32 ref)
{
    union request request = rw(operation, 0, 3, DATA);
    request.rw.seg[2].gref = ref;
    return submit(&request);
}

static void bad(void)
{
    static const u32 refs[] = {NO_REF, 511, 512, 40000, 1u << 31, ~0u};
    static const u32 frames[] = {0xffffffff, 0x10000000};
    for (size_t i = 0; i < ARRAY_SIZE(refs); i++) {
        check_equal(use(BLKIF_OP_READ, refs[i]), BLKIF_RSP_ERROR);
        check_equal(use(BLKIF_OP_WRITE, refs[i]), BLKIF_RSP_ERROR);
    }
    grant_page(LIE_REF, 7, data, GTF_permit_access);
    check_equal(use(BLKIF_OP_WRITE, LIE_REF), BLKIF_RSP_ERROR);
    grants[LIE_REF].domid = 0;
    for (size_t i = 0; i < ARRAY_SIZE(frames); i++) {
        grants[LIE_REF].frame = frames[i];
        check_equal(use(BLKIF_OP_READ, LIE_REF), BLKIF_RSP_ERROR);
    }
    /* shared_info is no RAM. */
    grants[LIE_REF].frame = (u32)(start_info->shared_info >> PAGE_SHIFT);
    check_equal(use(BLKIF_OP_READ, LIE_REF), BLKIF_RSP_ERROR);
    grants[LIE_REF].flags = 0;
}

static void read_only(bool persistent)
{
    grant_page(LIE_REF, 0, data, GTF_permit_access | GTF_readonly);
    memset(data, 0x77, PAGE_SIZE);
    union request request =
        rw(BLKIF_OP_READ, 0, 1, (struct blkif_request_segment){LIE_REF, 0, 7});
    check_equal(submit(&request), BLKIF_RSP_ERROR);
    check_equal(data[0], 0x77);
    /* To be read it is enough, unless it is to stay mapped. */
    memset(data, FILL, PAGE_SIZE);
    request.rw.operation = BLKIF_OP_WRITE;
    check_equal(submit(&request), persistent ? BLKIF_RSP_ERROR : BLKIF_RSP_OKAY);
    grants[LIE_REF].flags = 0;
}

/* Mapped for good a grant goes on meaning its frame; else its next use is refused. */
static void revoked(bool persistent)
{
    check_equal(use(BLKIF_OP_READ, DATA_REF), BLKIF_RSP_OKAY);
    grants[DATA_REF].flags = 0;
    grants[DATA_REF].frame = ~0u;
    check_equal(use(BLKIF_OP_READ, DATA_REF), persistent ? BLKIF_RSP_OKAY : BLKIF_RSP_ERROR);
    grant_page(DATA_REF, 0, data,
               GTF_permit_access | (persistent ? GTF_reading | GTF_writing : 0));
}

/* Xen counts to 255: some may be refused, none is half done. */
static void reused(void)
{
    union request request = rw(BLKIF_OP_READ, 0, BLKIF_MAX_SEGMENTS_PER_REQUEST, DATA);
    for (u32 i = 0; i < SLOTS; i++)
        enqueue(&request);
    check(complete() > 0);
    check_equal(use(BLKIF_OP_READ, DATA_REF), BLKIF_RSP_OKAY);
}

/* What the disk reads or writes there may be anything: SCRATCH's page is honest again after it. */
static void the_ring_itself(void)
{
    union request request =
        rw(BLKIF_OP_WRITE, SCRATCH, 1, (struct blkif_request_segment){RING_REF, 0, 7});
    for (u32 i = 0; i < 3; i++)
        enqueue(&request);
    check_equal(complete(), 3);
}

void grants_that_lie(void)
{
    for (u32 persistent = 0; persistent < 2; persistent++) {
        connect(0, persistent);
        bad();
        read_only(persistent);
        revoked(persistent);
        reused();
        the_ring_itself();
        check_serves();
        disconnect();
    }
}
