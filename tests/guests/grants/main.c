/* Grants to oneself: the table mapped, a frame mapped, written through, copied and taken back, in
 * both versions, with translations that are gone when the grant is free again. */
#include "guest.h"

#define PF TRAP_PAGE_FAULT
#define REF 9

struct grant_v2 {
    u16 flags, domid;
    u32 pad;
    u64 frame;
};

struct map_grant_ref {
    u64 host_addr;
    u32 flags, ref;
    u16 dom;
    short status;
    u32 handle;
    u64 dev_bus_addr;
};

struct unmap_grant_ref {
    u64 host_addr, dev_bus_addr;
    u32 handle;
    short status;
};

struct copy_pointer {
    u64 frame;
    u16 domid, offset;
};

struct copy {
    struct copy_pointer source, dest;
    u16 len, flags;
    short status;
};

static u64 words[512] __attribute__((aligned(PAGE_SIZE)));
static u64 shared[512] __attribute__((aligned(PAGE_SIZE)));
static u64 window[512] __attribute__((aligned(PAGE_SIZE)));
#define v2 ((volatile struct grant_v2 *)grants)
static volatile u16 *const status_words = (void *)words;
static u16 own;

static void setup(void)
{
    char domid[16];
    check(xs_read(XS_NO_TRANSACTION, "domid", domid, sizeof domid) > 0);
    own = (u16)(domid[0] - '0');
    grants_init();
}

static struct map_grant_ref map(u64 address, u32 flags)
{
    struct map_grant_ref op = {.host_addr = address, .flags = flags, .ref = REF, .dom = own};
    check_equal(grant_table_op(GNTTABOP_map_grant_ref, &op, 1), 0);
    return op;
}

static void unmap(u64 address, u32 handle)
{
    struct unmap_grant_ref op = {.host_addr = address, .handle = handle, .status = 77};
    check_equal(grant_table_op(GNTTABOP_unmap_grant_ref, &op, 1), 0);
    check_equal(op.status, 0);
}

static void gone(void)
{
    probe_read(window);
    check_equal(probe.vector, PF);
}

/* The grant's flags, the status word's among them. */
static u16 flags(u32 version)
{
    return version == 1 ? grants[REF].flags : (u16)(v2[REF].flags | status_words[REF]);
}

static void grant(u32 version, u16 wanted)
{
    if (version == 1) {
        grant_page(REF, own, shared, wanted);
    } else {
        v2[REF].domid = own;
        v2[REF].frame = va_to_mfn(shared);
        barrier();
        v2[REF].flags = wanted;
    }
}

static void mappings(u32 version)
{
    grant(version, GTF_permit_access);
    shared[5] = 0x5555;
    struct map_grant_ref op = map((u64)window, GNTMAP_host_map);
    check_equal(op.status, 0);
    check_equal(op.dev_bus_addr, va_to_mfn(shared) << PAGE_SHIFT);
    check_equal(READ_ONCE(window[5]), 0x5555);
    *(volatile u64 *)&window[6] = 0x6666;
    check_equal(READ_ONCE(shared[6]), 0x6666);
    check_equal(flags(version), GTF_permit_access | GTF_reading | GTF_writing);
    unmap((u64)window, op.handle);
    gone();
    check_equal(flags(version), GTF_permit_access);

    grant(version, GTF_permit_access | GTF_readonly);
    check_equal(map((u64)window, GNTMAP_host_map).status, GNTST_general_error);
    u64 entry = entry_ma(l1_entry((u64)window));
    op = map(entry, GNTMAP_host_map | GNTMAP_readonly | GNTMAP_contains_pte);
    check_equal(op.status, 0);
    check_equal(READ_ONCE(window[6]), 0x6666);
    probe_write(window, 1);
    check_equal(probe.vector, PF);
    check_equal(flags(version), GTF_permit_access | GTF_readonly | GTF_reading);
    unmap(entry, op.handle);
    gone();
    check_equal(flags(version), GTF_permit_access | GTF_readonly);
}

static void copies(void)
{
    struct copy op = {
        .source = {.frame = REF, .domid = DOMID_SELF, .offset = 40},
        .dest = {.frame = va_to_mfn(shared), .domid = DOMID_SELF, .offset = 80},
        .len = 8,
        .flags = 1,
        .status = 77,
    };
    shared[10] = 0;
    check_equal(grant_table_op(GNTTABOP_copy, &op, 1), 0);
    check_equal(op.status, 0);
    check_equal(READ_ONCE(shared[10]), 0x5555);
}

static void second_version(void)
{
    u32 version = 2;
    check_equal(grant_table_op(GNTTABOP_set_version, &version, 1), 0);
    check_equal(version, 2);
    check_equal(v2[REF].flags, 0);
    u64 frame = 0;
    struct {
        u32 nr_frames;
        u16 dom;
        short status;
        u64 *frame_list;
    } op = {1, DOMID_SELF, 77, &frame};
    check_equal(grant_table_op(GNTTABOP_get_status_frames, &op, 1), 0);
    check_equal(op.status, 0);
    check_equal(map_page((u64)words, pte(frame, PTE_RW)), 0);
}

void guest_main(void)
{
    xenstore_init();
    setup();
    mappings(1);
    copies();
    second_version();
    mappings(2);
    copies();
    print("SUCCESS\n");
}
