/*
 * Trees of page tables: a few of each level, their entries at a few slots, so that they meet. What
 * is linked is of the right level or refused: no walk of the CPU's leaves the guest's memory.
 * All L4 tables have the kernel, and user code in slot 0.
 */
#include "sequence.h"

#define NR_L1 4
#define NR_L2 3
#define NR_L3 3
#define NR_L4 4
#define NR_BAD 2 /* tables that no pin takes */
#define BAD_SLOT 5
#define USED_SLOTS 4
#define L1_SLOTS 8
#define ENTRY_AD (PTE_ACCESSED | PTE_DIRTY)
#define XENHEAP_FRAME 5 /* one that stays zero */

typedef u64 page[512];
static page l1[NR_L1] __attribute__((aligned(PAGE_SIZE)));
static page l2[NR_L2] __attribute__((aligned(PAGE_SIZE)));
static page l3[NR_L3] __attribute__((aligned(PAGE_SIZE)));
static page l4[NR_L4] __attribute__((aligned(PAGE_SIZE)));
static page bad[NR_BAD] __attribute__((aligned(PAGE_SIZE)));
static page data[NR_DATA] __attribute__((aligned(PAGE_SIZE)));
static page users[5] __attribute__((aligned(PAGE_SIZE))); /* L3, L2, L1, code, stack */
char out[2 * PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
char args[ARG_BYTES] __attribute__((aligned(PAGE_SIZE)));

static page *const pools[] = {NULL, l1, l2, l3, l4};
static const u32 sizes[] = {0, NR_L1, NR_L2, NR_L3, NR_L4};

static u64 draw_mfn(u32 level)
{
    return va_to_mfn(pools[level][below(sizes[level])]);
}

u64 draw_data_mfn(void)
{
    return va_to_mfn(data[below(NR_DATA)]);
}

u64 draw_user_root(void)
{
    u32 first = shared ? 0 : NR_L4 / 2;
    return va_to_mfn(l4[first + below(NR_L4 - first)]);
}

u64 draw_root(void)
{
    if (one_in(4))
        return va_to_mfn((void *)start_info->pt_base);
    return va_to_mfn(l4[below(shared ? NR_L4 : NR_L4 / 2)]);
}

/* Of nobody: Xen's, or beyond memory. */
static u64 draw_foreign(void)
{
    static const u64 frames[] = {0, 5, 0x7fffffff, 0xfffffffff};
    return frames[below(ARRAY_SIZE(frames))];
}

static u64 draw_flags(void)
{
    u64 flags = PTE_PRESENT | (draw() & (PTE_USER | PTE_ACCESSED | PTE_DIRTY | 0xe18));
    return flags | (one_in(4) ? 0 : PTE_WRITE) | (one_in(8) ? 1ul << 63 : 0);
}

/* One that may be linked. */
static u64 good_entry(u32 level)
{
    if (one_in(5))
        return draw() & ~PTE_PRESENT;
    if (level > 1)
        return pte(draw_mfn(level - 1), draw_flags() & ~(1ul << 63));
    if (one_in(6))
        return pte(draw_mfn(1), draw_flags() & ~PTE_WRITE);
    return pte(draw_data_mfn(), draw_flags());
}

u64 draw_entry(u32 level)
{
    switch (below(12)) {
    case 0:
        return pte(draw_foreign(), draw_flags());
    case 1:
        return good_entry(level) | PTE_LARGE;
    case 2:
        if (level == 1)
            return pte((start_info->shared_info >> PAGE_SHIFT) + XENHEAP_FRAME, draw_flags());
    }
    return good_entry(level);
}

static u32 draw_slot(u32 level)
{
    if (level == 4)
        return (u32)(one_in(4) ? XEN_FIRST_SLOT + below(XEN_SLOTS) : WINDOW_SLOT + below(USED_SLOTS));
    return (u32)below(level == 1 ? L1_SLOTS : USED_SLOTS);
}

/* What the CPU would walk must not come into the slots of Xen's; there only nothing is put. */
void draw_target(u64 *ma, u32 *level)
{
    *level = 1 + (u32)below(4);
    if (one_in(3))
        *level = 1;
    *ma = draw_mfn(*level) << PAGE_SHIFT | draw_slot(*level) * 8;
}

void draw_table(u64 *mfn, u32 *level)
{
    *level = 1 + (u32)below(4);
    *mfn = draw_mfn(*level);
    switch (below(8)) {
    case 0:
        *mfn = va_to_mfn(bad[below(NR_BAD)]);
        break;
    case 1:
        *mfn = draw_foreign();
        break;
    case 2: /* a table as one of the level below */
        *level -= *level > 1;
    }
}

u64 draw_window(void)
{
    u64 va = (WINDOW_SLOT + below(USED_SLOTS)) << 39 | below(USED_SLOTS) << 30;
    return va | below(USED_SLOTS) << 21 | below(L1_SLOTS) << PAGE_SHIFT;
}

u64 draw_va(void)
{
    static const u64 edges[] = {0x8000000000000000, 0xffff830000000000, 0xffff87fffffff000,
                                0x7f0000000000,     ~0ul,               0};
    return one_in(6) ? edges[below(ARRAY_SIZE(edges))] : draw_window() + one_in(4) * 0x123;
}

void write_table(void)
{
    u32 level = 1 + (u32)below(3);
    u64 *entry = &pools[level][below(sizes[level])][draw_slot(level)];
    u64 value = good_entry(level);
    WRITE_ONCE(*entry, value);
    say("write %#lx to level %u %#lx", value, level, va_to_mfn(pools[level]));
}

/* Entries of Xen's differ with what runs where; the CPU sets accessed and dirty when it likes. */
static u64 comparable(u64 value)
{
    u64 mfn = (value & PTE_FRAME) >> PAGE_SHIFT;
    if (value & PTE_PRESENT && mfn < pfn_to_mfn(0) && mfn != start_info->shared_info >> PAGE_SHIFT &&
        mfn < start_info->shared_info >> PAGE_SHIFT)
        return 1;
    return value & ~ENTRY_AD;
}

static void note_pages(const page *pages, u32 count)
{
    for (u32 i = 0; i < count; i++) {
        for (u32 word = 0; word < 512; word++)
            note(comparable(pages[i][word]));
        say("  %#lx: %016lx", va_to_mfn(pages[i]), digest);
    }
}

/* Only a kernel whose tables are not its user code's too sees it. */
void m2p_digest(void)
{
    struct xen_machphys_mapping m2p;
    check_equal(new_baseptr(MMUEXT_NEW_USER_BASEPTR, 0), 0);
    check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, va_to_mfn((void *)start_info->pt_base)), 0);
    check_equal(memory_op(XENMEM_machphys_mapping, &m2p), 0);
    const u64 *table = (const u64 *)m2p.v_start;
    for (u32 i = 0; i < NR_DATA; i++)
        note(READ_ONCE(table[va_to_mfn(data[i])]));
}

void tables_digest(void)
{
    for (u32 level = 1; level <= 4; level++)
        note_pages(pools[level], sizes[level]);
    note_pages(bad, NR_BAD);
    note_pages(data, NR_DATA);
    note_pages(users, ARRAY_SIZE(users));
    note_pages((page *)args, 3);
    note_pages((page *)out, 2);
    note_pages((page *)start_info->pt_base, 1);
}

void tables_init(void)
{
    u64 flags = PTE_RW;
    memcpy(users[3], user_code, (size_t)(user_code_end - user_code));
    users[0][0] = pte(va_to_mfn(users[1]), flags);
    users[1][USER_CODE >> 21] = pte(va_to_mfn(users[2]), flags);
    users[2][USER_CODE >> PAGE_SHIFT & 511] = pte(va_to_mfn(users[3]), flags);
    users[2][(USER_CODE >> PAGE_SHIFT & 511) + 1] = pte(va_to_mfn(users[4]), flags);
    for (u32 i = 0; i < NR_L4; i++) {
        const u64 *boot = (const u64 *)start_info->pt_base;
        for (u32 slot = XEN_FIRST_SLOT + XEN_SLOTS; slot < 512; slot++)
            l4[i][slot] = boot[slot];
        l4[i][0] = pte(va_to_mfn(users[0]), flags);
    }
    for (u32 level = 1; level <= 4; level++)
        for (u32 i = 0; i < sizes[level]; i++)
            for (u32 slot = 0; slot < USED_SLOTS; slot++)
                pools[level][i][level == 4 ? WINDOW_SLOT + slot : slot] = good_entry(level);
    for (u32 i = 0; i < NR_BAD; i++)
        bad[i][BAD_SLOT] = pte(draw_foreign(), PTE_RW);
    for (u32 i = 0; i < NR_DATA; i++)
        for (u32 word = 0; word < 512; word++)
            data[i][word] = draw();
    /* As a list, calls that nobody knows. */
    for (u32 i = 0; i < PAGE_SIZE; i += 8)
        *(u64 *)(args + 2 * PAGE_SIZE + i) = 63;
    check_equal(make_read_only(args + 2 * PAGE_SIZE), 0);
    check_equal(map_page((u64)args + 3 * PAGE_SIZE, 0), 0);
}
