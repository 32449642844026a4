/*
 * What several vCPUs do at once to the state that they share: the counts of page tables, the balloon,
 * a vCPU that is to be initialised, descriptor tables. The last vCPU is not started.
 *
 * At first each has tables of its own, which lead to tables that all share: when all is undone no
 * frame is a table, so that each can be given back. Then they change the shared ones at random,
 * which only the guest itself may be hurt by. Command line: rounds=, wild= (rounds of that).
 */
#include "guest.h"

#define CPUS 8
#define NR_SHARED 4 /* tables of level 2, and of level 1 */
#define NR_DATA 16
#define NR_SPARE 16 /* frames for the balloon */
#define SLOTS 8
#define USER_SLOT 4 /* the first of an L4's slots that are changed */

typedef u64 page[512];
static struct {
    page kernel, user, l3, l2;
} own[CPUS] __attribute__((aligned(PAGE_SIZE)));
static page l2s[NR_SHARED] __attribute__((aligned(PAGE_SIZE)));
static page l1s[NR_SHARED] __attribute__((aligned(PAGE_SIZE)));
static page data[NR_DATA] __attribute__((aligned(PAGE_SIZE)));
static page gdt __attribute__((aligned(PAGE_SIZE)));
static page idle_root __attribute__((aligned(PAGE_SIZE)));
static struct vcpu_guest_context context;
static u64 rounds, wild;
static u32 runners, initialised, over[3];

static u64 draw(u64 *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static u64 table_entry(const void *table)
{
    return pte(va_to_mfn(table), PTE_RW);
}

static long put(const u64 *table, u64 slot, u64 value)
{
    return set_entry((va_to_mfn(table) << PAGE_SHIFT) + slot * 8, value);
}

/* Wait until all have come here; the last one's turn is over first. */
static void meet(u32 place)
{
    u64 end = now() + PATIENCE;
    __atomic_add_fetch(&over[place], 1, __ATOMIC_SEQ_CST);
    while (load_acquire(&over[place]) < runners) {
        if (now() > end)
            fail("%u of %u vCPUs came to place %u", load_acquire(&over[place]), runners, place);
        sched_op(SCHEDOP_yield, NULL);
    }
}

static void balloon(u64 *seed)
{
    u64 list[4];
    struct xen_memory_reservation r = {list, 1 + draw(seed) % 4, 0, 0, DOMID_SELF};
    long got = memory_op(XENMEM_increase_reservation, &r);
    check(got >= 0);
    r.nr_extents = (u64)got;
    check_equal(memory_op(XENMEM_decrease_reservation, &r), got);
}

static void try_to_initialise(void)
{
    long result = vcpu_op(VCPUOP_initialise, runners, &context);
    if (result)
        check_equal(result, -EEXIST);
    else
        __atomic_add_fetch(&initialised, 1, __ATOMIC_SEQ_CST);
}

static void descriptors(u64 *seed)
{
    u64 frame = va_to_mfn(gdt), slot = 1 + draw(seed) % 8;
    check_equal(set_gdt(&frame, 16), 0);
    check_equal(update_descriptor((frame << PAGE_SHIFT) + slot * 8, 0x00cff3000000ffff), 0);
}

/* One thing to one's own tables, and to pins of the shared ones that are one's own to pin. */
static void orderly(u32 cpu, u64 *seed)
{
    u64 slot = draw(seed) % SLOTS;
    u32 shared = cpu % NR_SHARED;
    bool mine = cpu < NR_SHARED;
    switch (draw(seed) % 14) {
    case 0:
        check_equal(pin_table(4, va_to_mfn(own[cpu].user)), 0);
        return;
    case 1:
        unpin_table(va_to_mfn(own[cpu].user));
        return;
    case 2:
        check_equal(put(own[cpu].kernel, USER_SLOT + slot, table_entry(own[cpu].l3)), 0);
        return;
    case 3:
        check_equal(put(own[cpu].kernel, USER_SLOT + slot, 0), 0);
        return;
    case 4:
        check_equal(put(own[cpu].l3, slot, table_entry(l2s[draw(seed) % NR_SHARED])), 0);
        return;
    case 5:
        check_equal(put(own[cpu].l3, slot, draw(seed) & 1 ? table_entry(own[cpu].l2) : 0), 0);
        return;
    case 6:
        check_equal(put(own[cpu].l2, slot,
                        draw(seed) & 1 ? table_entry(l1s[draw(seed) % NR_SHARED]) : 0), 0);
        return;
    case 7:
        if (mine)
            check_equal(pin_table(2, va_to_mfn(l2s[shared])), 0);
        return;
    case 8:
        if (mine)
            unpin_table(va_to_mfn(l2s[shared]));
        return;
    case 9:
        check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, draw(seed) & 1
                                    ? va_to_mfn(own[cpu].kernel)
                                    : va_to_mfn((void *)start_info->pt_base)), 0);
        return;
    case 10:
        check_equal(new_baseptr(MMUEXT_NEW_USER_BASEPTR,
                                draw(seed) & 1 ? va_to_mfn(own[cpu].user) : 0), 0);
        return;
    case 11:
        balloon(seed);
        return;
    case 12:
        try_to_initialise();
        return;
    }
    descriptors(seed);
}

/* One thing to any table but an L4, which the CPU walks: whatever the answer is. */
static void disorderly(u32 cpu, u64 *seed)
{
    page *any[] = {&l2s[draw(seed) % NR_SHARED], &l1s[draw(seed) % NR_SHARED],
                   &own[draw(seed) % runners].l3, &own[draw(seed) % runners].l2};
    u64 *table = *any[draw(seed) % 4], *below = *any[draw(seed) % 4];
    u64 frame = va_to_mfn(table), slot = draw(seed) % SLOTS;
    struct xen_memory_reservation r = {&frame, 1, 0, 0, DOMID_SELF};
    switch (draw(seed) % 8) {
    case 0:
        pin_table(1 + (u32)(draw(seed) % 3), frame);
        return;
    case 1:
        unpin_table(frame);
        return;
    case 2:
        if (memory_op(XENMEM_decrease_reservation, &r) == 1)
            memory_op(XENMEM_increase_reservation, &r);
        return;
    case 3:
        update_descriptor((frame << PAGE_SHIFT) + slot * 8, 0);
        return;
    case 4:
        put(own[cpu].user, USER_SLOT + slot, table_entry(below));
        return;
    }
    put(table, slot, draw(seed) & 1 ? table_entry(below) : 0);
}

static bool gives_back(const void *page)
{
    u64 frame = va_to_mfn(page);
    struct xen_memory_reservation r = {&frame, 1, 0, 0, DOMID_SELF};
    if (memory_op(XENMEM_decrease_reservation, &r) != 1)
        return false;
    check_equal(memory_op(XENMEM_increase_reservation, &r), 1);
    return true;
}

static void no_frame_is_a_table(void)
{
    check(initialised <= 1);
    check(!gives_back((void *)start_info->pt_base));
    for (u32 cpu = 0; cpu < runners; cpu++) {
        check(gives_back(own[cpu].kernel));
        check(gives_back(own[cpu].user));
        check(gives_back(own[cpu].l3));
        check(gives_back(own[cpu].l2));
    }
    for (u32 i = 0; i < NR_SHARED; i++) {
        check(gives_back(l2s[i]));
        check(gives_back(l1s[i]));
    }
    print("no frame is a table\n");
}

static void run(u32 cpu)
{
    u64 seed = 0x9e3779b97f4a7c15 * (cpu + 1);
    for (u64 round = 0; round < rounds; round++)
        orderly(cpu, &seed);
    check_equal(new_baseptr(MMUEXT_NEW_BASEPTR, va_to_mfn((void *)start_info->pt_base)), 0);
    check_equal(new_baseptr(MMUEXT_NEW_USER_BASEPTR, 0), 0);
    unpin_table(va_to_mfn(own[cpu].user));
    if (cpu < NR_SHARED)
        unpin_table(va_to_mfn(l2s[cpu]));
    meet(0);
    if (!cpu)
        no_frame_is_a_table();
    meet(1);
    for (u64 round = 0; round < wild; round++)
        disorderly(cpu, &seed);
    meet(2);
    if (cpu)
        vcpu_op(VCPUOP_down, cpu, NULL);
}

static void build(void)
{
    const u64 *boot = (const u64 *)start_info->pt_base;
    u64 list[NR_SPARE];
    struct xen_memory_reservation r = {list, NR_SPARE, 0, 0, DOMID_SELF};
    for (u32 i = 0; i < NR_SPARE; i++)
        list[i] = pfn_to_mfn(start_info->nr_pages - 1 - i);
    check_equal(memory_op(XENMEM_decrease_reservation, &r), NR_SPARE);
    for (u32 i = 0; i < NR_SHARED; i++)
        for (u32 slot = 0; slot < SLOTS; slot++) {
            l2s[i][slot] = table_entry(l1s[(i + slot) % NR_SHARED]);
            l1s[i][slot] = pte(va_to_mfn(data[(i * SLOTS + slot) % NR_DATA]), PTE_RW);
        }
    for (u32 cpu = 0; cpu < runners; cpu++)
        for (u32 slot = XEN_FIRST_SLOT + XEN_SLOTS; slot < 512; slot++)
            own[cpu].kernel[slot] = own[cpu].user[slot] = idle_root[slot] = boot[slot];
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.ctrlreg[3] = va_to_mfn(idle_root) << PAGE_SHIFT;
}

void guest_main(void)
{
    rounds = option("rounds", 2000);
    wild = option("wild", 2000);
    runners = cpu_count() - 1;
    if (!runners || runners > CPUS)
        fail("this guest needs --vcpus 2 to %u", CPUS + 1);
    build();
    for (u32 cpu = 1; cpu < runners; cpu++)
        check_equal(cpu_start(cpu, run), 0);
    run(0);
    print("SUCCESS\n");
}
