/* The machine-to-physical table: where Xen says it is, and where guests that do not ask look. */
#include "guest.h"

#define XEN_VIRT_START 0xffff800000000000ul

static void holds_every_pfn(const u64 *table)
{
    for (u64 pfn = 0; pfn < start_info->nr_pages; pfn += 97)
        check_equal(READ_ONCE(table[pfn_to_mfn(pfn)]), pfn);
}

void guest_main(void)
{
    struct xen_machphys_mapping where;
    check_equal(memory_op(XENMEM_machphys_mapping, &where), 0);
    holds_every_pfn((const u64 *)where.v_start);
    holds_every_pfn((const u64 *)XEN_VIRT_START);

    probe_write((void *)where.v_start, 1);
    check_equal(probe.vector, 14);
    print("SUCCESS\n");
}
