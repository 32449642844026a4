/* A block frontend (xen/include/public/io/blkif.h), and what all its lies have in common. */
#pragma once

#include "guest.h"

#define INDIRECT_SEGMENTS 256

struct blkif_request_segment {
    u32 gref;
    u8 first_sect, last_sect;
};

struct blkif_request {
    u8 operation, nr_segments;
    u16 handle;
    u64 id, sector_number;
    struct blkif_request_segment seg[BLKIF_MAX_SEGMENTS_PER_REQUEST];
};

struct blkif_request_discard {
    u8 operation, flag;
    u16 handle;
    u64 id, sector_number, nr_sectors;
};

struct blkif_request_indirect {
    u8 operation, indirect_op;
    u16 nr_segments;
    u64 id, sector_number;
    u16 handle;
    u32 indirect_grefs[BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST];
};

struct blkif_response {
    u64 id;
    u8 operation, padding;
    short status;
    u32 more_padding;
};

union request {
    struct blkif_request rw;
    struct blkif_request_discard discard;
    struct blkif_request_indirect indirect;
};
_Static_assert(sizeof(union request) == 112, "blkif_request");
_Static_assert(sizeof(struct blkif_response) == 16, "blkif_response");

/* The disk: every byte is FILL but those of the page at SCRATCH, which honest writes change. */
#define SECTORS 8192ul
#define SCRATCH (SECTORS - 8)
#define FILL 0xaa
#define SLOTS 32

enum refs { RING_REF = 8, DATA_REF, SCRATCH_REF, INDIRECT_REF, LIE_REF, NO_REF };

/* ---- frontend.c ---- */
extern char ring_page[], indirect_page[], pages[][PAGE_SIZE];
#define data pages[1] /* what comes before it and after it is granted to nobody */
extern struct xenbus_device vbd;
extern evtchn_port_t port;
#define sring ((volatile struct sring *)ring_page)

void frontend_init(void);
void prepare(u32 start, bool persistent); /* a ring from index `start` on, and its nodes */
void connect(u32 start, bool persistent); /* the same, and waits until it is served */
void refused(void);                       /* waits for the backend's end of it, and ends ours */
void disconnect(void); /* from whatever there is to the beginning; nothing stays mapped */
union request *slot(u32 index);
void kick(u32 produced); /* publishes, and sends an event */

/* Puts a copy of `request` into the ring, with an id of its own. */
void enqueue(const union request *request);
/* Publishes, and waits until every request has its response, one of its own with no leftovers in
 * it; how many are okay. */
u32 complete(void);
short submit(const union request *request); /* one request: its status */
/* The same for `count` of them, the ring kept full; `look` is false where the responses are written
 * over. */
void pump(const union request *request, u32 count, bool look);

union request rw(u8 operation, u64 sector, u8 count, struct blkif_request_segment segment);
union request indirect(u8 operation, u64 sector, u16 count, u32 gref);
#define DATA ((struct blkif_request_segment){DATA_REF, 0, 7})

/* That honest requests are served, and that nothing was written beside what was granted. */
void check_serves(void);

/* ---- mutator.c: the second vCPU does `thing` again and again, beside the first ---- */
void mutator_init(void);
void mutator_begin(void (*thing)(u32 turn)); /* it was done at least once when this returns */
void mutator_end(void);

/* ---- each file's lies ---- */
void nodes_that_lie(void);
void rings_that_lie(void);
void requests_that_lie(void);
void indirect_pages_that_lie(void);
void grants_that_lie(void);
void fields_that_change(void);
