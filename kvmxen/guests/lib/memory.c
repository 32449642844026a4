/* Frames and page tables. The bootstrap mapping holds pfn n at VIRT_BASE + n * PAGE_SIZE. */
#include "guest.h"

static const u64 *p2m(void)
{
    return (const u64 *)start_info->mfn_list;
}

u64 pfn_to_mfn(u64 pfn)
{
    check(pfn < start_info->nr_pages);
    return p2m()[pfn];
}

u64 va_to_mfn(const void *va)
{
    return pfn_to_mfn(((u64)va - VIRT_BASE) >> PAGE_SHIFT);
}

/* The mapping ends with the boot stack, which is the page after the page tables. */
void *mfn_to_va(u64 mfn)
{
    u64 tables = (start_info->pt_base - VIRT_BASE) >> PAGE_SHIFT;
    for (u64 pfn = 0; pfn <= tables + start_info->nr_pt_frames; pfn++)
        if (p2m()[pfn] == mfn)
            return (void *)(VIRT_BASE + (pfn << PAGE_SHIFT));
    return NULL;
}

u64 *l1_entry(u64 va)
{
    u64 *table = (u64 *)start_info->pt_base;
    for (u32 shift = 39; shift > PAGE_SHIFT; shift -= 9) {
        u64 entry = table[va >> shift & 511];
        table = entry & PTE_PRESENT ? mfn_to_va((entry & PTE_FRAME) >> PAGE_SHIFT) : NULL;
        if (!table)
            return NULL;
    }
    return &table[va >> PAGE_SHIFT & 511];
}

u64 entry_ma(const u64 *entry)
{
    return va_to_mfn(entry) << PAGE_SHIFT | ((u64)entry & (PAGE_SIZE - 1));
}

long map_page(u64 va, u64 entry)
{
    return update_va_mapping(va, entry, UVMF_INVLPG);
}

long set_entry(u64 ma, u64 value)
{
    struct mmu_update update = {ma | MMU_NORMAL_PT_UPDATE, value};
    return mmu_update(&update, 1, NULL, DOMID_SELF);
}

static long one_mmuext(u32 cmd, u64 mfn)
{
    struct mmuext_op op = {.cmd = cmd, .arg1.mfn = mfn};
    return mmuext_op(&op, 1, NULL, DOMID_SELF);
}

long pin_table(u32 level, u64 mfn)
{
    return one_mmuext(MMUEXT_PIN_L1_TABLE + level - 1, mfn);
}

long unpin_table(u64 mfn)
{
    return one_mmuext(MMUEXT_UNPIN_TABLE, mfn);
}

long new_baseptr(u32 cmd, u64 mfn)
{
    return one_mmuext(cmd, mfn);
}

long make_read_only(void *page)
{
    return map_page((u64)page, pte(va_to_mfn(page), PTE_RO));
}

long make_writable(void *page)
{
    return map_page((u64)page, pte(va_to_mfn(page), PTE_RW));
}
