/* Page tables: updates, flushes, new tables, pins, writes to tables, frames that are not ours. */
#include "guest.h"

#define PF TRAP_PAGE_FAULT
#define WINDOW 0x10000000000ul /* a VA with no tables yet: L4 slot 2 */

static u64 tables[3][512] __attribute__((aligned(PAGE_SIZE))); /* an L3, an L2, an L1 */
static u64 spare[512] __attribute__((aligned(PAGE_SIZE)));
static u64 a[512] __attribute__((aligned(PAGE_SIZE))), b[512] __attribute__((aligned(PAGE_SIZE)));
static u64 *const window = (u64 *)WINDOW;

static u64 slot_ma(const void *table, u64 slot)
{
    return (va_to_mfn(table) << PAGE_SHIFT) + 8 * slot;
}

static void mapping(void)
{
    static u64 page[512] __attribute__((aligned(PAGE_SIZE)));
    a[0] = 0xaaaa;
    b[0] = 0xbbbb;
    u64 *entry = l1_entry((u64)page);
    check(entry != NULL);
    check_equal(*entry & PTE_FRAME, va_to_mfn(page) << PAGE_SHIFT);
    check_equal(update_va_mapping((u64)page, pte(va_to_mfn(a), PTE_RW), UVMF_INVLPG), 0);
    check_equal(READ_ONCE(page[0]), 0xaaaa);
    check_equal(update_va_mapping((u64)page, pte(va_to_mfn(b), PTE_RW), UVMF_TLB_FLUSH), 0);
    check_equal(READ_ONCE(page[0]), 0xbbbb);
    check_equal(update_va_mapping((u64)page, pte(va_to_mfn(a), PTE_RW), UVMF_INVLPG | UVMF_ALL),
                0);
    check_equal(READ_ONCE(page[0]), 0xaaaa);

    check_equal(set_entry(entry_ma(entry), pte(va_to_mfn(b), PTE_RW)), 0);
    struct mmuext_op flush = {.cmd = MMUEXT_INVLPG_LOCAL, .arg1.linear_addr = (u64)page};
    check_equal(mmuext_op(&flush, 1, NULL, DOMID_SELF), 0);
    check_equal(READ_ONCE(page[0]), 0xbbbb);

    check_equal(map_page((u64)page, 0), 0);
    probe_read(page);
    check_equal(probe.vector, PF);
    check_equal(map_page((u64)page, pte(va_to_mfn(page), PTE_RW)), 0);
}

/* A batch of updates, its count of done ones, and one that keeps accessed and dirty. */
static void batches(void)
{
    u32 done = 0;
    u64 *entry = l1_entry((u64)a);
    struct mmu_update updates[3] = {
        {entry_ma(entry), pte(va_to_mfn(a), PTE_RO)},
        {entry_ma(entry), pte(va_to_mfn(a), PTE_RW)},
        {entry_ma(entry), pte(start_info->nr_pages << 20, PTE_RW)},
    };
    check_equal(mmu_update(updates, 2, &done, DOMID_SELF), 0);
    check_equal(done, 2);
    check(mmu_update(updates, 3, &done, DOMID_SELF) < 0);
    check_equal(done, 2);

    WRITE_ONCE(a[1], 1); /* dirties the entry */
    updates[0].ptr |= MMU_PT_UPDATE_PRESERVE_AD;
    updates[0].val = pte(va_to_mfn(a), PTE_PRESENT | PTE_USER | PTE_WRITE);
    check_equal(mmu_update(updates, 1, &done, DOMID_SELF), 0);
    check_equal(READ_ONCE(*entry) & (PTE_ACCESSED | PTE_DIRTY), PTE_ACCESSED | PTE_DIRTY);
}

/* Each call of a multicall has its own result, and one that fails does not stop the next. */
static void multicalls(void)
{
    static u64 page[512] __attribute__((aligned(PAGE_SIZE)));
    a[0] = 0xaaaa;
    struct multicall_entry calls[4] = {
        {HYPERVISOR_update_va_mapping, 1, {(u64)page, pte(va_to_mfn(a), PTE_RW), UVMF_INVLPG}},
        {HYPERVISOR_update_va_mapping, 1, {(u64)page, pte(0, PTE_RW), UVMF_INVLPG}},
        {63, 1, {0}},
        {HYPERVISOR_xen_version, 1, {XENVER_version}},
    };
    check_equal(multicall(calls, 4), 0);
    check_equal(calls[0].result, 0);
    check((long)calls[1].result < 0);
    check_equal(calls[2].result, -ENOSYS);
    check_equal(calls[3].result, xen_version(XENVER_version, NULL));
    check_equal(READ_ONCE(page[0]), 0xaaaa);
    check_equal(make_writable(page), 0);
}

/* Tables of our own below the live L4: made read-only, pinned, linked, used, unlinked. */
static void new_tables(void)
{
    u64 *l3 = tables[0], *l2 = tables[1], *l1 = tables[2];
    u64 *l4 = (u64 *)start_info->pt_base;
    l3[0] = pte(va_to_mfn(l2), PTE_RW);
    l2[0] = pte(va_to_mfn(l1), PTE_RW);
    l1[0] = pte(va_to_mfn(a), PTE_RW);
    for (u32 i = 0; i < 3; i++)
        check_equal(make_read_only(tables[i]), 0);
    check_equal(pin_table(1, va_to_mfn(l1)), 0);
    check_equal(pin_table(3, va_to_mfn(l3)), 0);
    a[0] = 0xaaaa;
    b[0] = 0xbbbb;
    u64 l4_slot = WINDOW >> 39 & 511;
    check_equal(set_entry(slot_ma(l4, l4_slot), pte(va_to_mfn(l3), PTE_RW)), 0);
    check_equal(READ_ONCE(window[0]), 0xaaaa);

    check_equal(set_entry(slot_ma(l1, 1), pte(va_to_mfn(b), PTE_RW)), 0);
    check_equal(READ_ONCE(window[512]), 0xbbbb);
    check_equal(update_va_mapping(WINDOW + 2 * PAGE_SIZE, pte(va_to_mfn(b), PTE_RO), 0), 0);
    check_equal(READ_ONCE(window[1024]), 0xbbbb);
}

/* Xen emulates a store to a table that is mapped read-only: the guest sees no fault. */
static void direct_writes(void)
{
    u64 *l1 = tables[2];
    u64 wanted = pte(va_to_mfn(a), PTE_RW);
    probe_write(&l1[3], wanted);
    check_equal(probe.vector, NO_TRAP);
    check_equal(READ_ONCE(l1[3]) | PTE_USER, wanted);
    check_equal(READ_ONCE(window[3 * 512]), 0xaaaa);

    u64 old = 0;
    probe_arm();
    __asm__ volatile(GUARDED("xchg %0, %1") : "+r"(old), "+m"(l1[3]) : : "memory");
    check_equal(probe.vector, NO_TRAP);
    check_equal(old & PTE_FRAME, wanted & PTE_FRAME);
    check_equal(READ_ONCE(l1[3]), 0);
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};
    check_equal(mmuext_op(&flush, 1, NULL, DOMID_SELF), 0);
    probe_read(&window[3 * 512]);
    check_equal(probe.vector, PF);
}

static void unlinking(void)
{
    u64 *l4 = (u64 *)start_info->pt_base;
    check_equal(set_entry(slot_ma(l4, WINDOW >> 39 & 511), 0), 0);
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_ALL};
    check_equal(mmuext_op(&flush, 1, NULL, DOMID_SELF), 0);
    probe_read(window);
    check_equal(probe.vector, PF);
    check_equal(unpin_table(va_to_mfn(tables[0])), 0);
    check_equal(unpin_table(va_to_mfn(tables[2])), 0);
    for (u32 i = 0; i < 3; i++)
        check_equal(make_writable(tables[i]), 0);
    WRITE_ONCE(tables[2][0], 0); /* plain memory again */
}

/* Frames that are not the guest's: Xen's own, beyond memory, another domain's. */
static void refusals(void)
{
    u64 va = (u64)spare, max;
    struct xen_machphys_mapping m2p;
    check_equal(memory_op(XENMEM_machphys_mapping, &m2p), 0);
    max = m2p.max_mfn + 1;
    check(map_page(va, pte(0, PTE_RW)) < 0);
    check(map_page(va, pte(max + 1000, PTE_RW)) < 0);
    check(map_page(va, pte(PTE_FRAME >> PAGE_SHIFT, PTE_RW)) < 0);
    check(map_page(0xffff830000000000ul, pte(va_to_mfn(a), PTE_RW)) < 0);
    check(set_entry(0, pte(va_to_mfn(a), PTE_RW)) < 0);
    check(set_entry(max << PAGE_SHIFT, pte(va_to_mfn(a), PTE_RW)) < 0);
    check(set_entry(~0ul << 3, 0) < 0);
    check(pin_table(1, max + 5) < 0);
    check(unpin_table(max + 5) < 0);
    check(new_baseptr(MMUEXT_NEW_BASEPTR, max + 5) < 0);
    check(new_baseptr(MMUEXT_NEW_BASEPTR, 0) < 0);
    struct mmu_update update = {entry_ma(l1_entry(va)), pte(va_to_mfn(a), PTE_RW)};
    check(mmu_update(&update, 1, NULL, 5) < 0);
    check(mmu_update((void *)8, 1, NULL, DOMID_SELF) < 0);
    WRITE_ONCE(spare[0], 0x5555); /* its own mapping has stayed */
    check_equal(READ_ONCE(spare[0]), 0x5555);
    probe_read((void *)0xffff830000000000ul);
    check_equal(probe.vector, PF);
}

/* The machine-to-physical table agrees with the p2m list, and cannot be written. */
static void machine_to_physical(void)
{
    struct xen_machphys_mapping m2p;
    check_equal(memory_op(XENMEM_machphys_mapping, &m2p), 0);
    const u64 *table = (const u64 *)m2p.v_start;
    u64 step = start_info->nr_pages / 64 + 1;
    for (u64 pfn = 0; pfn < start_info->nr_pages; pfn += step) {
        u64 mfn = pfn_to_mfn(pfn);
        check(mfn <= m2p.max_mfn);
        check_equal(READ_ONCE(table[mfn]), pfn);
    }
    probe_write((void *)m2p.v_start, 1);
    check_equal(probe.vector, PF);
}

/* A whole new address space: a copy of the live L4, pinned, run on, left. */
static void another_root(void)
{
    u64 *l4 = (u64 *)start_info->pt_base;
    u64 old = va_to_mfn(l4), new = va_to_mfn(spare);
    for (u32 slot = 0; slot < 512; slot++)
        spare[slot] = slot - XEN_FIRST_SLOT < XEN_SLOTS ? 0 : READ_ONCE(l4[slot]);
    check_equal(make_read_only(spare), 0);
    check_equal(pin_table(4, new), 0);
    check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, new), 0);
    a[0] = 0x1111;
    check_equal(READ_ONCE(a[0]), 0x1111);
    check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, old), 0);
    check_equal(unpin_table(new), 0);
    check_equal(make_writable(spare), 0);
}

void guest_main(void)
{
    mapping();
    batches();
    multicalls();
    new_tables();
    direct_writes();
    unlinking();
    refusals();
    machine_to_physical();
    another_root();
    print("SUCCESS\n");
}
