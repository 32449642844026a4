/* Guest memory, by the guest kernel's page tables, as kvmxen/pv/paging.pyx has it: a walk in software,
 * so that nothing that a guest names can fault here.
 */
#include "dispatch.h"

static u32 slot_of(u64 va, u32 level)
{
    return va >> (12 + 9 * (level - 1)) & 511;
}

/* The L1 entry of va under the L4 at cr3, NULL where a level above it lacks one of `flags`. */
static u64 *walk(u64 cr3, u64 va, u64 flags)
{
    u64 table = cr3;
    u32 slot = slot_of(va, 4);

    if (!is_canonical(va) || (slot >= XEN_FIRST_SLOT && slot < XEN_FIRST_SLOT + XEN_SLOTS))
        return NULL;
    for (u32 level = 4;; level--) {
        if (!is_ram(table >> 12))
            return NULL;
        u64 *entry = (u64 *)machine(table) + slot_of(va, level);
        if (level == 1)
            return entry;
        u64 value = *(volatile u64 *)entry;
        if ((value & flags) != flags || value & PTE_LARGE)
            return NULL;
        table = value & PTE_FRAME;
    }
}

/* The L1 entry of va under the L4 at cr3, NULL where a level is missing. */
u64 *leaf(u64 cr3, u64 va)
{
    return walk(cr3, va, PTE_PRESENT);
}

/* The L1 entry of va under the L4 at cr3 where ring 3 could read va and not write it, or NULL. */
u64 *read_only(u64 cr3, u64 va)
{
    u64 *entry = walk(cr3, va, PTE_PRESENT | PTE_USER);

    if (!entry)
        return NULL;
    u64 value = *(volatile u64 *)entry;
    return (value & (PTE_PRESENT | PTE_USER | PTE_WRITE)) == (PTE_PRESENT | PTE_USER) ? entry : NULL;
}

/* Where va is, NULL where the guest could not access it itself. */
void *translate(u64 cr3, u64 va, bool write)
{
    u64 *entry = leaf(cr3, va);
    u64 used = write ? PTE_ACCESSED | PTE_DIRTY : PTE_ACCESSED;

    if (!entry)
        return NULL;
    u64 value = *(volatile u64 *)entry;
    if (!(value & PTE_PRESENT) || (write && !(value & PTE_WRITE)))
        return NULL;
    if (!is_ram((value & PTE_FRAME) >> 12))
        return NULL;
    if ((value & used) != used)
        __atomic_fetch_or(entry, used, __ATOMIC_SEQ_CST);
    return machine((value & PTE_FRAME) | (va & 0xfff));
}

/* The 64-bit word at va, which must be aligned, read once. */
int load(u64 cr3, u64 va, u64 *value)
{
    if (va & 7)
        return HOST;
    u64 *where = translate(cr3, va, false);
    if (!where)
        return HOST;
    *value = *(volatile u64 *)where;
    return DONE;
}
