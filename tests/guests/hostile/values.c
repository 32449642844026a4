/* Where the values come from: a seeded sequence and a taste for the edges. */
#include "pv/shim/abi.h"
#include "hostile.h"

/* Frames that value-as-mfn may hit: past the bootstrap mapping, which ends 2 MiB-aligned at most
 * 4 MiB after the boot stack. */
#define BOOTSTRAP_SLACK 2048

u64 seeds[VCPUS];
char arenas[VCPUS][ARENA_PAGES][PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));

u64 draw(void)
{
    u64 *seed = &seeds[this_cpu()];
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static u64 first_free_pfn(void)
{
    u64 tables = (start_info->pt_base - VIRT_BASE) >> PAGE_SHIFT;
    return tables + start_info->nr_pt_frames + BOOTSTRAP_SLACK;
}

static u64 draw_mfn(void)
{
    u64 first = first_free_pfn();
    return pfn_to_mfn(first + draw() % (start_info->nr_pages - first));
}

bool is_free_mfn(u64 mfn)
{
    return mfn >= pfn_to_mfn(first_free_pfn()) && mfn <= pfn_to_mfn(start_info->nr_pages - 1);
}

static u64 draw_pointer(void)
{
    u64 pointer = (u64)arena + draw() % sizeof arena;
    switch (draw() % 4) {
    case 0:
        return pointer;
    case 1: /* across the end of a page */
        return (pointer | (PAGE_SIZE - 1)) - draw() % 16;
    default:
        return pointer & ~7ul;
    }
}

u64 draw_value(void)
{
    static const u64 edges[] = {
        HYPERVISOR_VIRT_START, M2P_VA, 0xffff87ffffffffff, HYPERVISOR_VIRT_END,
        0x00007fffffffffff, 0x0000800000000000, 0x7fffffffffffffff, 0x8000000000000000,
        0xfffffffffffff000, 0x00000000ffffffff, 0x000000007fffffff, 0x0000000080000000,
        PTE_FRAME,          DOMID_SELF,         0x7ff1,             0x7fff,
    };
    switch (draw() % 16) {
    case 0:
        return 0;
    case 1:
        return ~0ul;
    case 2:
    case 3:
        return draw() % 16;
    case 4: /* below the machine address of any RAM, as a frame number too */
        return draw() % 1024;
    case 5:
        return 1ul << draw() % 64;
    case 6:
        return (1ul << draw() % 64) - 1;
    case 7:
        return draw_mfn();
    case 8:
        return pte(draw_mfn(), draw() % PAGE_SIZE | (draw() & 1) << 63);
    case 9:
        return edges[draw() % ARRAY_SIZE(edges)];
    case 10:
        return draw();
    default:
        return draw_pointer();
    }
}

void arena_map(void)
{
    static struct mmu_update all[VCPUS][ARENA_PAGES];
    struct mmu_update *updates = all[this_cpu()];
    struct mmuext_op flush = {.cmd = MMUEXT_TLB_FLUSH_LOCAL};
    for (u32 i = 0; i < ARENA_PAGES && !updates[i].ptr; i++) {
        u64 flags = i < ARENA_WRITABLE ? PTE_RW : i == ARENA_WRITABLE ? PTE_RO : 0;
        updates[i].ptr = entry_ma(l1_entry((u64)arena[i]));
        updates[i].val = pte(va_to_mfn(arena[i]), flags);
    }
    check_equal(mmu_update(updates, ARENA_PAGES, NULL, DOMID_SELF), 0);
    check_equal(mmuext_op(&flush, 1, NULL, DOMID_SELF), 0);
}
