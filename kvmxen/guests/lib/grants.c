/* The grant table, version 1, of one frame (xen/include/public/grant_table.h). */
#include "guest.h"

volatile struct grant_entry_v1 *grants;

static u64 window[512] __attribute__((aligned(PAGE_SIZE)));

long grant_table_op(u32 op, void *args, u32 count)
{
    return hypercall(HYPERVISOR_grant_table_op, op, (u64)args, count, 0, 0);
}

void grants_init(void)
{
    u64 frame = 0;
    struct gnttab_setup_table setup = {
        .dom = DOMID_SELF, .nr_frames = 1, .status = 1, .frame_list = &frame};
    if (grant_table_op(GNTTABOP_setup_table, &setup, 1) || setup.status)
        fail("the grant table cannot be set up: %d", setup.status);
    if (map_page((u64)window, pte(frame, PTE_RW)))
        fail("the grant table's frame %#lx cannot be mapped", frame);
    grants = (void *)window;
}

void grant_page(u32 ref, u32 domid, const void *page, u32 flags)
{
    grants[ref].domid = (u16)domid;
    grants[ref].frame = (u32)va_to_mfn(page);
    barrier();
    grants[ref].flags = (u16)flags;
}
