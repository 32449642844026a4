/* Hypercalls that are made to take as long as they can. Tables that all lead to each other, `tables`
 * of them, were once walked for each entry and each frame; now they are linked as an L3 and unlinked
 * by every second entry of a list. Says so when what has an end is over, and goes on without. */
#include "guest.h"

#define LIST 65536
#define FIRST 16384 /* a frame behind all that is mapped at the start */

static struct mmu_update list[LIST];
static u64 window[512] __attribute__((aligned(PAGE_SIZE)));
static u64 l4[512] __attribute__((aligned(PAGE_SIZE)));
static u64 data[512] __attribute__((aligned(PAGE_SIZE)));

static void build(u64 tables)
{
    for (u64 i = 0; i < tables; i++) {
        check_equal(map_page((u64)window, pte(pfn_to_mfn(FIRST + i), PTE_RW)), 0);
        for (u64 slot = 0; slot < 512; slot++)
            window[slot] = pte(pfn_to_mfn(FIRST + (i * 509 + slot * 1021 + 1) % tables), PTE_RW);
    }
    check_equal(map_page((u64)window, pte(va_to_mfn(window), PTE_RW)), 0);
    for (u64 slot = 0; slot < 256; slot++)
        l4[slot] = pte(pfn_to_mfn(FIRST + slot % tables), PTE_RW);
    check_equal(pin_table(4, va_to_mfn(l4)), 0);
}

/* Entries of what is no table, for a frame that must not become one. */
static void shared_frames(void)
{
    u64 entry = pte(start_info->shared_info >> PAGE_SHIFT, PTE_RW);
    u32 done = 0;
    for (u32 i = 0; i < LIST; i++)
        list[i] = (struct mmu_update){(va_to_mfn(data) << PAGE_SHIFT) + i % 512 * 8, entry};
    check_equal(mmu_update(list, LIST, &done, DOMID_SELF), 0);
    check_equal(done, LIST);
}

static void give_back(u64 tables)
{
    static u64 extents[16];
    struct xen_memory_reservation r = {extents, ARRAY_SIZE(extents), 9, 0, DOMID_SELF};
    for (u32 i = 0; i < ARRAY_SIZE(extents); i++)
        extents[i] = pfn_to_mfn(FIRST + tables + 512 * i);
    check_equal(memory_op(XENMEM_decrease_reservation, &r), ARRAY_SIZE(extents));
    check_equal(memory_op(XENMEM_increase_reservation, &r), ARRAY_SIZE(extents));
}

static void link_and_unlink(u64 tables)
{
    struct multicall_entry calls[2] = {
        {HYPERVISOR_mmu_update, 0, {(u64)list, LIST, 0, DOMID_SELF}},
        {HYPERVISOR_mmu_update, 0, {(u64)list, LIST, 0, DOMID_SELF}},
    };
    u64 ma = va_to_mfn(l4) << PAGE_SHIFT;
    for (u32 slot = 0; slot < 256; slot++)
        check_equal(set_entry(ma + slot * 8, 0), 0);
    for (u32 i = 0; i < LIST; i++)
        list[i] = (struct mmu_update){ma, i % 2 ? 0 : pte(pfn_to_mfn(FIRST + i % tables), PTE_RW)};
    print("endless\n");
    multicall(calls, ARRAY_SIZE(calls));
    fail("it had an end");
}

void guest_main(void)
{
    u64 tables = option("tables", 4000);
    build(tables);
    shared_frames();
    give_back(tables);
    link_and_unlink(tables);
}
